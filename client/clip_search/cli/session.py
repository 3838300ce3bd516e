"""Makes a client from the settings, and reads the files that commands are given."""

from pathlib import Path

from clip_search.cli.output import CommandError
from clip_search.cli.settings import Settings
from clip_search.client import Client
from clip_search.contents import Image

__all__ = ["connect", "read_image"]


def connect(settings: Settings) -> Client:
    """Give a client for the server that the settings name; nothing is sent yet."""
    return Client(
        settings.server,
        collection=settings.collection,
        model=settings.model,
        timeout_seconds=settings.timeout_seconds,
    )


def read_image(path: Path) -> Image:
    """Read a picture file; the server tells whether it is one.

    Raises:
        CommandError: the file cannot be read.
    """
    try:
        return Image(path.read_bytes())
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror or error}", code="FILE", path=str(path)) from error
