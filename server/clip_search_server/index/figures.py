"""What a collection's writing tells of itself; knows nothing of who reads it.

Each figure has one writer at a time, see `observation.py`: the writer's thread, or whoever publishes a generation.
"""

from dataclasses import dataclass, field

from clip_search_server.observation import SIZES, Histogram

__all__ = ["WriteFigures"]


@dataclass(frozen=True, slots=True)
class WriteFigures:
    """How writes went.

    Attributes:
        commit_operations: writes that shared each commit.
        commit_seconds: how long each commit took, from its beginning until it was durable under the durability policy.
        sync_seconds: how long the disk had each time that it was asked to make something durable: SQLite's COMMIT where
            that syncs, and syncs by themselves.
        snapshot_seconds: how long each publication of a generation took, its sync included.
    """

    commit_operations: Histogram = field(default_factory=lambda: Histogram(SIZES))
    commit_seconds: Histogram = field(default_factory=Histogram)
    sync_seconds: Histogram = field(default_factory=Histogram)
    snapshot_seconds: Histogram = field(default_factory=Histogram)
