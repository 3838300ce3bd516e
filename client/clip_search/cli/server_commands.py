"""`search_client stats`, `snapshot` and `health`: the state of the collection and of the server."""

from collections.abc import Iterator
from dataclasses import asdict

import click

from clip_search.cli.documents import snapshot_document, stats_document
from clip_search.cli.output import CommandError, print_document
from clip_search.cli.session import connect
from clip_search.cli.settings import Settings, client_command, pass_settings
from clip_search.cli.tables import human_bytes, print_facts
from clip_search.errors import UnavailableError
from clip_search.results import KeptImages, ServerInfo, Snapshot, Stats

__all__ = ["health", "snapshot", "stats"]


@client_command("stats")
@pass_settings
def stats(settings: Settings) -> None:
    """Show how large the collection is and what it is made of."""
    with connect(settings) as client:
        figures = client.stats()
    if settings.json:
        print_document(stats_document(figures))
    else:
        print_facts(_stats_facts(figures))


def _stats_facts(figures: Stats) -> Iterator[tuple[str, str]]:
    yield "collection", figures.collection
    yield "items", f"{figures.items:,}"
    yield "distinct vectors", f"{figures.distinct_vectors:,} of dimension {figures.embedding_dim}"
    yield "not yet in a segment", f"{figures.tail_rows:,}"
    for segment in figures.segments:
        size = human_bytes(segment.bytes)
        yield f"segment {segment.name}", f"{segment.rows:,} rows, {segment.tombstones:,} tombstones, {size}"
    if figures.recall is not None:
        yield "recall estimate", f"{figures.recall.recall:.4f} over {figures.recall.queries:,} queries"
    yield "newest write", f"{figures.sequence:,}"
    yield "newest snapshot", "none" if figures.snapshot is None else _snapshot_text(figures.snapshot)
    yield "on disk", human_bytes(figures.disk_bytes)
    yield "in memory", f"about {human_bytes(figures.memory_bytes)}"
    if figures.kept_images is not None:
        yield "pictures kept", _kept_text(figures.kept_images)
    yield "space", figures.space_id


def _kept_text(kept: KeptImages) -> str:
    bound = f"at most {human_bytes(kept.bytes_max)} in all collections" if kept.bytes_max else "no further ones"
    left_out = f"; {kept.left_out:,} left out since the server started" if kept.left_out else ""
    return f"{kept.images:,}, {human_bytes(kept.bytes)}; {bound}{left_out}"


def _snapshot_text(taken: Snapshot) -> str:
    when = taken.create_time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    segments = "1 segment" if taken.segments == 1 else f"{taken.segments:,} segments"
    return (
        f"generation {taken.generation}, {segments}, {human_bytes(taken.bytes)}, up to write {taken.sequence:,}, {when}"
    )


@client_command("snapshot")
@pass_settings
def snapshot(settings: Settings) -> None:
    """Make the server's next start quick.

    Publishes a generation of the index. Stored items are safe without it.
    """
    with connect(settings) as client:
        taken = client.snapshot()
    if settings.json:
        print_document(snapshot_document(taken))
    else:
        click.echo(_snapshot_text(taken))


@client_command("health")
@pass_settings
def health(settings: Settings) -> None:
    """Tell whether the server is ready, and what it is.

    Exits with 0 when the server is ready and with 1 otherwise.
    """
    with connect(settings) as client:
        status = client.health()
        try:
            info = client.server_info()
        except UnavailableError:  # it answers, but does not serve yet or any more
            info = None
    if settings.json:
        described = None if info is None else asdict(info)
        print_document({"server": settings.server, "status": status, "info": described})
    else:
        print_facts(_health_facts(settings.server, status, info))
    if status != "SERVING":
        raise CommandError(f"{settings.server} is not ready: {status}", code="UNAVAILABLE")


def _health_facts(server: str, status: str, info: ServerInfo | None) -> Iterator[tuple[str, str]]:
    yield "server", server
    yield "status", status
    if info is None:
        return
    yield "version", info.version
    for model in info.models:
        name = f"{model.name} (default)" if model.is_default else model.name
        yield "model", f"{name}: {model.architecture}, {model.precision}, dimension {model.embedding_dim}"
        yield "", f"from {model.source} {model.revision}".rstrip() + f", licence {model.licence}"
        yield "", f"on {model.execution_provider}"
    for device in info.devices:
        memory = f", {human_bytes(device.memory_bytes)}" if device.memory_bytes else ""
        yield "device", f"{device.name}: {device.description}{memory}"
