"""`search_client index`: streams the pictures of folders, archives and lists to the server.

What happens to them is told in `clip_search/indexing/`; here are the options, and what is said at the end.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from clip_search.cli.index_display import FailuresFile, IndexDisplay, pictures_text, summary_of, tally_document
from clip_search.cli.output import CommandError, print_document, print_note
from clip_search.cli.session import connect
from clip_search.cli.settings import Settings, client_command, pass_settings
from clip_search.client import Client
from clip_search.contents import AttributeValue
from clip_search.defaults import DEFAULT_RESUME_SECONDS
from clip_search.errors import ClipSearchError
from clip_search.indexing.lists import Columns
from clip_search.indexing.naming import RESERVED_ATTRIBUTES
from clip_search.indexing.photo_facts import can_read_facts
from clip_search.indexing.pruning import SHARE_MAX, Vanished, delete_vanished
from clip_search.indexing.run import IndexRun
from clip_search.indexing.sources import SourceConflictError, sources_of
from clip_search.indexing.tables import MissingExtraError
from clip_search.indexing.values import KINDS, ValueKindError, attribute_of_text
from clip_search.resuming import ResumePolicy

__all__ = ["index"]

_EXAMPLES = 5


def _read_pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Read NAME=VALUE, each name once."""
    pairs: dict[str, str] = {}
    for each in values:
        name, mark, value = each.partition("=")
        if not (name and mark) or name in pairs:
            problem = "is given twice" if name in pairs else "is not NAME=VALUE"
            raise click.BadParameter(f"{each!r} {problem}", ctx, param)
        pairs[name] = value
    return pairs


def _read_kinds(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = _read_pairs(ctx, param, values)
    for name, kind in pairs.items():
        if kind not in KINDS:
            raise click.BadParameter(f"{name}={kind}: the kinds are {', '.join(KINDS)}", ctx, param)
    return pairs


@client_command("index")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--attribute",
    "given",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_read_pairs,
    help="Store this with every picture, to filter by. May be repeated.",
)
@click.option("--path-column", metavar="NAME", help="Of lists: the column that names the picture.")
@click.option("--caption-column", metavar="NAME", help="Of lists: the column with words that belong to the picture.")
@click.option(
    "--base",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=False),
    help="Of lists: the folder that paths are relative to.  [default: where the list lies]",
)
@click.option(
    "--type",
    "kinds",
    metavar="NAME=KIND",
    multiple=True,
    callback=_read_kinds,
    help=f"Take a column or an attribute for {', '.join(KINDS)} instead of what it looks like. May be repeated.",
)
@click.option("--resend", is_flag=True, help="Send unchanged pictures too.")
@click.option("--prune", is_flag=True, help="Delete the items whose pictures have vanished from these sources.")
@click.option("--yes", is_flag=True, help=f"Let --prune delete more than {SHARE_MAX:.0%} of a source's items.")
@click.option(
    "--failures",
    "failures_path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="List what could not be stored there, a JSON object a line.",
)
@click.option(
    "--resume-seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=DEFAULT_RESUME_SECONDS,
    show_default=f"{DEFAULT_RESUME_SECONDS:g}",
    help="How long to try to go on after the connection broke; 0 for not at all.",
)
@pass_settings
def index(
    settings: Settings,
    *,
    paths: tuple[Path, ...],
    given: dict[str, str],
    path_column: str | None,
    caption_column: str | None,
    base: Path | None,
    kinds: dict[str, str],
    resend: bool,
    prune: bool,
    yes: bool,
    failures_path: Path | None,
    resume_seconds: float,
) -> None:
    """Store pictures, so that they can be found.

    A PATH is a picture; a folder, which is searched with everything below it for JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF
    and HEIC files by their names' endings; an archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz); or a list of pictures
    (.csv, .tsv, .jsonl, .parquet) with captions and attributes in further columns. Names that begin with a dot and
    links to folders are passed over.

    A picture's id is the name of its folder, archive or list given here and its path below it: `index ~/photos` stores
    ~/photos/2024/beach.jpg as photos/2024/beach.jpg. So indexing again replaces and never adds twice, and pictures that
    have not changed are not sent again. Date, camera and size are stored as attributes; the picture itself is not,
    unless the server keeps pictures.

    Where the connection breaks, it goes on once the server is back, with what was not answered. After Ctrl-C the same
    command goes on.

    A picture that cannot be read is reported and passed over. Exits with 0 when every picture is stored, else with 1.

    \b
        search_client index ~/photos --prune
        search_client index holiday.zip --attribute album=Holiday
        search_client index pictures.csv --caption-column title --type zip_code=text
    """  # noqa: D301  # click takes \b as: keep these lines as they are
    attributes = _attributes(given, kinds)
    below = None if base is None else Path(os.path.abspath(base))  # noqa: PTH100  # names stay as they were typed
    columns = Columns(path_column, caption_column, kinds, below)
    try:
        sources = sources_of(paths, columns)
    except (MissingExtraError, SourceConflictError) as error:
        raise click.UsageError(str(error)) from error
    resume = ResumePolicy(seconds_max=resume_seconds) if resume_seconds else None
    failures = FailuresFile(failures_path)
    try:
        with connect(settings, resume_seconds=resume_seconds) as client:
            limits = client.server_info().limits  # asked first: should the server be away, one knows at once
            with IndexDisplay(failures, as_json=settings.json) as display:
                run = IndexRun(client, sources, limits, attributes, resume, display, resend)
                display.count(sources)
                obstacle: Exception | KeyboardInterrupt | None = run.complete()
            if obstacle is None and run.is_empty and not prune:
                raise CommandError(f"no pictures in {', '.join(map(str, paths))}", code="FILE")
            if obstacle is None and prune:
                obstacle = _prune(client, run, yes=yes, tell=(lambda _: None) if settings.json else print_note)
        _finish(settings, run, display, obstacle)
    finally:
        failures.close()


def _attributes(given: Mapping[str, str], kinds: Mapping[str, str]) -> dict[str, AttributeValue]:
    """Give the attributes of every picture."""
    taken = sorted(RESERVED_ATTRIBUTES & set(given))
    if taken:
        raise click.UsageError(f"--attribute {taken[0]}=…: this attribute is what pictures are known again by")
    try:
        return {name: attribute_of_text(value, kinds.get(name)) for name, value in given.items()}
    except ValueKindError as error:
        raise click.UsageError(f"--attribute: {error}") from error


def _prune(client: Client, run: IndexRun, *, yes: bool, tell: Callable[[str], None]) -> Exception | None:
    """Delete what has vanished, telling so before; give why not all of it was deleted, if so."""
    for origin in run.unseen_sources:
        tell(f"prune: {origin} could not be read as a whole, so nothing of it is deleted")
    refused: list[Vanished] = []
    try:
        for vanished in run.vanished():
            if not vanished.ids:
                continue
            _show_vanished(vanished, tell)
            if vanished.is_too_many and not yes:
                refused.append(vanished)
                continue
            run.tally.pruned += delete_vanished(client, vanished)
    except ClipSearchError as error:
        return error
    return _refusal(refused) if refused else None


def _show_vanished(vanished: Vanished, tell: Callable[[str], None]) -> None:
    share = f"{len(vanished.ids):,} of the {vanished.items:,} items"
    tell(f"prune: {share} of {vanished.source.origin} have no picture any more")
    for item_id in vanished.ids[:_EXAMPLES]:
        tell(f"  {item_id}")
    if len(vanished.ids) > _EXAMPLES:
        tell("  …")


def _refusal(refused: Sequence[Vanished]) -> CommandError:
    counts = ", ".join(f"{len(each.ids):,} of {each.items:,} in {each.source.origin}" for each in refused)
    return CommandError(
        f"nothing was pruned where more than {SHARE_MAX:.0%} would go ({counts}): is a disk not mounted? "
        "Add --yes to delete them",
        code="PRUNE_REFUSED",
        vanished=sum(len(each.ids) for each in refused),
    )


def _finish(
    settings: Settings, run: IndexRun, display: IndexDisplay, obstacle: Exception | KeyboardInterrupt | None
) -> None:
    """Print the tally; raise what stands in the way of exit code 0."""
    stopped = obstacle is not None and not isinstance(obstacle, CommandError)
    if settings.json:
        print_document(tally_document(run.tally, complete=not stopped))
    else:
        click.echo(summary_of(run.tally))
        if run.tally.pruned:
            click.echo(f"{pictures_text(run.tally.pruned)} pruned")
        if run.tally.stored and not can_read_facts():
            print_note("date, camera and size were not read: pip install 'clip-search[exif]'")
        if stopped:
            print_note(
                f"What is counted here is safely stored; {run.tally.unanswered} more may be. "
                "Run the same command again to go on: no picture is stored twice."
            )
        display.summarise_failures()
    if isinstance(obstacle, KeyboardInterrupt):
        raise CommandError("interrupted", code="INTERRUPTED")
    if obstacle is not None:
        raise obstacle
    if run.tally.failed:
        raise CommandError(f"{pictures_text(run.tally.failed)} could not be stored", code="INCOMPLETE")
