"""`clip-search check`, `rebuild`, `backup`, `restore` and `migrate`: looking after a data folder without a server.

Progress goes to stderr, results to stdout. Exit codes: 0 done, and nothing is wrong; 1 something is wrong or could not
be done; 2 the command line is wrong. It knows nothing of how each is done.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from clip_search_server.errors import ClipSearchError
from clip_search_server.index.backup import back_up
from clip_search_server.index.check import check_data
from clip_search_server.index.findings import CheckReport, CollectionReport, Findings
from clip_search_server.index.migrations import migrate as migrate_data
from clip_search_server.index.migrations import plan_migration
from clip_search_server.index.rebuild import Rebuilt, rebuild_catalog, rebuild_data
from clip_search_server.index.restore import find_backup
from clip_search_server.index.restore import restore as restore_data

__all__ = ["backup", "check", "migrate", "rebuild", "restore"]

F = TypeVar("F", bound=Callable[..., Any])

_DATA = click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Folder that clip-search serve keeps data in."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
_QUIET = click.option("--quiet", is_flag=True, help="No progress on stderr.")


def _reporter(*, quiet: bool) -> Callable[[str], None]:
    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    return tell


def _told_in_words(command: F) -> F:
    """Turn an error into one line on stderr and exit code 1."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any command
        try:
            return command(*args, **kwargs)
        except ClipSearchError as error:
            click.echo(f"clip-search {command.__name__}: {error}", err=True)
            sys.exit(1)

    return wrapped  # type: ignore[return-value]  # the same signature


@click.command()
@_DATA
@_JSON
@_QUIET
@_told_in_words
def check(data: Path, as_json: bool, quiet: bool) -> None:  # noqa: FBT001 - click calls by keyword
    """Check a data folder and name everything that is damaged.

    Reads every byte and changes none. No server may be running on the folder. Exits with 1 when anything is damaged.
    """
    found = check_data(data, report=_reporter(quiet=quiet))
    if as_json:
        click.echo(json.dumps({"is_whole": found.is_whole, **asdict(found)}))
    else:
        for line in _check_lines(found):
            click.echo(line)
    sys.exit(0 if found.is_whole else 1)


def _check_lines(found: CheckReport) -> Iterator[str]:
    yield from _finding_lines(found)
    for collection in found.collections:
        yield _figures(collection)
        yield from _finding_lines(collection)
    yield "everything is whole" if found.is_whole else "DAMAGED: what is named above"


def _figures(collection: CollectionReport) -> str:
    recall = "" if collection.recall is None else f", recall at least {collection.recall:.4f}"
    return (
        f"collection {collection.name}: {collection.items:,} items up to write {collection.sequence:,}, "
        f"{collection.segments} segments, {collection.generations} generations{recall}"
    )


def _finding_lines(findings: Findings) -> Iterator[str]:
    for finding in findings.found:
        yield f"  DAMAGED {finding.subject}: {finding.problem}"
        yield f"          to do: {finding.remedy}"
    if findings.more:
        yield f"  DAMAGED and {findings.more:,} more of the kind"
    for note in findings.notes:
        yield f"  note: {note}"


@click.command()
@_DATA
@click.option("--collection", metavar="NAME", help="Only this collection.")
@click.option("--catalog", is_flag=True, help="Write a damaged catalog anew from the folders, and nothing else.")
@_QUIET
@_told_in_words
def rebuild(data: Path, collection: str | None, catalog: bool, quiet: bool) -> None:  # noqa: FBT001 - see above
    """Make the index of each collection anew from its stored items.

    No server may be running on the folder. The old index stays until the new one is there. Exits with 1 when stored
    items turned out damaged; they are named and left out.
    """
    report = _reporter(quiet=quiet)
    if catalog:
        aside = rebuild_catalog(data, report=report)
        found = "was whole" if aside is None else f"is written anew; the damaged one is now {aside}. Set aliases anew"
        click.echo(f"the catalog {found}")
        return
    results = rebuild_data(data, report=report, only=collection)
    for result in results:
        for line in _rebuilt_lines(result):
            click.echo(line)
    sys.exit(1 if any(result.failure or result.damage for result in results) else 0)


def _rebuilt_lines(result: Rebuilt) -> Iterator[str]:
    if result.failure:
        yield f"collection {result.name} could not be rebuilt: {result.failure}"
        return
    yield f"collection {result.name}: {result.rows:,} items indexed"
    for sentence in result.damage:
        yield f"  DAMAGED {sentence}"


@click.command()
@_DATA
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder to keep backups in.")
@click.option("--keep", type=click.IntRange(min=1), help="Remove all but the newest N backups afterwards.", metavar="N")
@click.option("--online", is_flag=True, help="Let a server that uses the folder go on meanwhile.")
@_JSON
@_QUIET
@_told_in_words
def backup(  # noqa: PLR0917 - click calls by keyword
    data: Path,
    to: Path,
    keep: int | None,
    online: bool,  # noqa: FBT001 - see above
    as_json: bool,  # noqa: FBT001
    quiet: bool,  # noqa: FBT001
) -> None:
    """Copy a data folder into a new backup.

    Backups are folders named by number and time, and appear whole or not at all. Without --online no server may be
    running on the folder.
    """
    made = back_up(data, to, report=_reporter(quiet=quiet), keep=keep, online=online)
    if as_json:
        click.echo(json.dumps({**asdict(made), "path": str(made.path)}))
    else:
        items = ", ".join(f"{name} ({count:,} items)" for name, count in made.items.items()) or "no collections"
        click.echo(f"{made.path}: {items}; {made.file_count} files, {made.file_bytes:,} bytes")


@click.command()
@click.option(
    "--from", "source", required=True, type=click.Path(path_type=Path), help="A backup, or the folder of backups."
)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="New or empty folder to restore to.")
@_QUIET
@_told_in_words
def restore(source: Path, data: Path, quiet: bool) -> None:  # noqa: FBT001 - see above
    """Make a data folder from a backup; from a folder of backups the newest is taken.

    Every file is checked before anything is written. The folder appears whole or not at all.
    """
    chosen = find_backup(source)
    files = restore_data(chosen, data, report=_reporter(quiet=quiet))
    click.echo(f"{chosen} is restored to {data}: {len(files)} files")


@click.command()
@_DATA
@click.option("--backup-to", type=click.Path(path_type=Path), help="Folder for the backup that is made first.")
@click.option("--dry-run", is_flag=True, help="Print the steps and do nothing.")
@_QUIET
@_told_in_words
def migrate(data: Path, backup_to: Path | None, dry_run: bool, quiet: bool) -> None:  # noqa: FBT001 - see above
    """Bring a data folder of an older release to the present format.

    A backup is made first. No server may be running on the folder.
    """
    plans = plan_migration(data)
    for plan in plans:
        for step in plan.steps:
            click.echo(f"collection {plan.name}: format {step.version} to {step.version + 1}: {step.summary}")
    if not plans:
        click.echo("nothing to do: every collection is of the present format")
    elif not dry_run:
        if backup_to is None:
            raise click.UsageError("give --backup-to FOLDER, or --dry-run to see the steps alone")
        made = migrate_data(data, backup_to, report=_reporter(quiet=quiet))
        click.echo(f"done; the folder as it was before is in {made.path if made else backup_to}")
