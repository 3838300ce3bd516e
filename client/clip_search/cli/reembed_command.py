"""`clip-search reembed`: embeds a collection anew with another model, then moves an alias to the new collection.

Everything runs as a client of the server, so it may run on the machine that has the pictures. What is embedded how is
told in `reembedding.py`; here is what is checked before, when the alias is moved, and what a person sees.
"""

import functools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from clip_search.cli.output import CommandError, json_line, print_document, print_note, report_error, safe_text
from clip_search.cli.progress import ProgressDisplay
from clip_search.cli.session import connect_to
from clip_search.cli.settings import Settings, pass_settings
from clip_search.cli.standalone import StandaloneCommand
from clip_search.client import Client
from clip_search.errors import ClipSearchError
from clip_search.picture_sources import PathSource, PictureSource, ServerSource, UrlSource
from clip_search.pictures import picture_bytes_max
from clip_search.reembedding import Reembedding
from clip_search.results import Collection, Limits, ServerInfo

__all__ = ["reembed"]

_SOURCES = ("path", "url", "server")
#: Each pass is at most half as long as the one before, so this many are never needed before the alias is moved.
_PASSES_MAX = 20
#: After the move, requests that began before it may still write to the old collection: so long it must have been quiet,
#: and so long that is waited for.
_QUIET_SECONDS = 2.0
_SETTLING_SECONDS_MAX = 30.0
_POLL_SECONDS = 0.25
_SHOWN_MAX = 20


def _read_sources(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Split `KIND=ATTRIBUTE`; the attribute is called as the kind where none is named."""
    sources = []
    for value in values or ("path",):
        kind, separator, attribute = value.partition("=")
        if kind not in _SOURCES or (separator and (kind == "server" or not attribute)):
            raise click.BadParameter(f"{value!r} is none of path, path=ATTRIBUTE, url, url=ATTRIBUTE and server")
        sources.append((kind, attribute or kind))
    return tuple(sources)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the command line asks for; names of collections are their own once `_Plan` has looked."""

    old: str
    new: str
    model: str
    alias: str | None
    allow_missing: bool
    prune: bool


@click.command("reembed", cls=StandaloneCommand, without=frozenset({"collection", "model"}))
@click.option("--from", "old", metavar="COLLECTION", required=True, help="Collection, or alias of one, to read.")
@click.option(
    "--to", "new", metavar="COLLECTION", required=True, help="Collection to fill; made where it is not there."
)
@click.option(
    "--model", metavar="NAME", required=True, help="Model that embeds, of those `search_client health` shows."
)
@click.option(
    "--alias",
    metavar="NAME",
    help="Alias to move from the one to the other once everything is there; may be the own name of --from, such as "
    "default, which is then kept as default-old.",
)
@click.option(
    "--source",
    "sources",
    metavar="WHERE",
    multiple=True,
    callback=_read_sources,
    help="Where pictures are read again: path or url (the item's attribute of that name, or path=NAME, url=NAME), or "
    "server, if it runs with --keep-images. Repeated: the first that has the picture.  [default: path]",
)
@click.option("--allow-missing", is_flag=True, help="Move the alias although some items cannot be embedded again.")
@click.option(
    "--missing",
    "missing_path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to list items that cannot be, each with the reason.  [default: missing-FROM-TO.jsonl]",
)
@click.option("--prune", is_flag=True, help="Delete what the collection --to has and --from has not.")
@pass_settings
def reembed(
    settings: Settings,
    /,
    *,
    sources: tuple[tuple[str, str], ...],
    missing_path: Path | None,
    **wishes: Any,  # noqa: ANN401  # the fields of _Wish
) -> None:
    """Embed a collection anew with another model, then move an alias to it.

    Attributes, texts and thumbnails are carried over; items written meanwhile too. Run again after an interruption, it
    does only what is missing or changed since. Searches go on all the while, and each sees the old collection or the
    new one, whole.

    Exits with 1, and leaves the alias where it is, when items cannot be read again (--allow-missing: moves it all the
    same). They are listed in a file, a JSON object with `id` and `reason` on each line.
    """
    wish = _Wish(**wishes)
    connect = functools.partial(connect_to, settings)
    with connect() as client:
        info = client.server_info()
        plan = _Plan(wish, info, client.list_collections())
        plan.prepare(connect)
        wish = plan.wish
    if plan.is_done:
        _tell(settings, f"{wish.alias} is {wish.new} already: there is nothing to do", alias=wish.alias, to=wish.new)
        return
    with connect(plan.old_name) as old, connect(wish.new, wish.model) as new:
        bound = info.limits
        with _Display(plan.old.items, as_json=settings.json) as display:
            opened = [_open(kind, attribute, old, bound, settings) for kind, attribute in sources]
            run = _Run(plan, Reembedding(old, new, opened, display), old, new, display)
            try:
                run.complete()
            except (ClipSearchError, KeyboardInterrupt) as error:
                raise _interrupted(error, run) from error
            finally:
                listed = _write_missing(missing_path or Path(f"missing-{wish.old}-{wish.new}.jsonl"), run.work.missing)
    _finish(settings, run, listed)


def _open(kind: str, attribute: str, old: Client, limits: Limits, settings: Settings) -> PictureSource:
    if kind == "server":
        return ServerSource(old)
    if kind == "path":
        return PathSource(attribute, picture_bytes_max(limits))
    return UrlSource(attribute, picture_bytes_max(limits), timeout_seconds=settings.timeout_seconds)


class _Plan:
    """What is there before the run, and whether the run makes sense.

    Where the alias is the old collection's own name, that collection gets another one first, by which it can still be
    asked for once the alias has taken its place.

    Attributes:
        old_name: what to call the old collection when asking the server, before and after the alias is moved.

    Raises:
        CommandError: it does not; the message says why and what to do.
    """

    def __init__(self, wish: _Wish, info: ServerInfo, collections: tuple[Collection, ...]) -> None:
        named = {collection.name: collection for collection in collections}
        aliases = {alias: collection.name for collection in collections for alias in collection.aliases}
        own = aliases.get(wish.old, wish.old)
        if own not in named:
            raise _refused(f"--from {wish.old}: there is no such collection; there is {', '.join(named) or 'none'}")
        if wish.new in aliases:
            raise _refused(f"--to {wish.new}: is an alias of {aliases[wish.new]}; give the name of a collection")
        self.wish = replace(wish, old=own)
        self.old = named[own]
        self.old_name = own
        self._new = named.get(wish.new)
        self.is_done = aliases.get(wish.alias or "") == wish.new
        if self.is_done:
            return
        if own == wish.new:
            raise _refused(f"--to {wish.new}: is the collection that --from means too; give another name")
        self._check_model(info)
        self._check_alias(named, aliases)
        if own in (aliases.keys() | {wish.alias}):
            self.old_name = self._further_name(own, named, aliases)

    def _check_model(self, info: ServerInfo) -> None:
        wish = self.wish
        model = next((model for model in info.models if model.name == wish.model), None)
        if model is None:
            names = ", ".join(model.name for model in info.models)
            raise _refused(f"--model {wish.model}: the server has no such model; it has {names}")
        if not self.old.embedding_dim:
            raise _refused(f"--from {wish.old}: it cannot be read: {self.old.unusable_reason}")
        if model.space_id == self.old.space_id:
            raise _refused(
                f"--model {wish.model}: {wish.old} is of this model's space already; there is nothing to embed anew"
            )
        if self._new is not None and self._new.space_id != model.space_id:
            raise _refused(
                f"--to {wish.new}: is of space {self._new.space_id}, and model {wish.model} of {model.space_id}; "
                "give another name"
            )

    def _check_alias(self, named: dict[str, Collection], aliases: dict[str, str]) -> None:
        wish = self.wish
        if wish.alias in named and wish.alias not in aliases and wish.alias != wish.old:
            raise _refused(
                f"--alias {wish.alias}: is another collection itself; give the name that clients ask for {wish.old} by"
            )
        points_at = aliases.get(wish.alias or "", wish.old)
        if points_at != wish.old:
            raise _refused(f"--alias {wish.alias}: points at {points_at}, neither at {wish.old} nor at {wish.new}")
        in_use = [alias for alias, name in aliases.items() if name == wish.new]
        if in_use:
            raise _refused(f"--to {wish.new}: is in use as {', '.join(in_use)}; give another name, or move that first")

    @staticmethod
    def _further_name(own: str, named: dict[str, Collection], aliases: dict[str, str]) -> str:
        """Return an alias of a collection whose own name means, or will mean, another one; it may have to be made."""
        present = [alias for alias in named[own].aliases if alias != own]
        name = present[0] if present else f"{own}-old"
        if not present and (name in named or name in aliases):
            raise _refused(
                f"--alias {own}: is the collection's own name, and {name}, by which it would be kept, is taken; give "
                f"it another name first: search_client alias NAME {own}"
            )
        return name

    def prepare(self, connect: Callable[..., Client]) -> None:
        """Make the new collection, or look into the one that is there."""
        wish = self.wish
        if self.is_done:
            return
        if self.old_name not in (wish.old, *self.old.aliases):
            with connect() as client:
                client.set_alias(self.old_name, wish.old)
        if self._new is None:
            with connect(model=wish.model) as client:
                client.create_collection(wish.new)
        elif self._new.items and not wish.prune:
            with connect(collection=self.old_name) as old, connect(collection=wish.new) as new:
                surplus = Reembedding(old, new, (), _Silence()).surplus()
            if surplus:
                raise _refused(
                    f"--to {wish.new}: has items that {wish.old} has not, such as {surplus[0]!r}. If they were deleted "
                    f"from {wish.old} since an interrupted run, add --prune to delete them here too; else give another "
                    "name"
                )


def _refused(message: str) -> CommandError:
    return CommandError(message, code="FAILED_PRECONDITION")


class _Run:
    """The passes before the alias moves, the move, and those after."""

    def __init__(self, plan: _Plan, work: Reembedding, old: Client, new: Client, display: "_Display") -> None:
        self.wish = plan.wish
        self.old_name = plan.old_name
        self.work = work
        self.passes = 0
        self.is_switched = False
        self.is_settled = True
        self.pointed_at = ""
        self.elapsed_seconds = 0.0
        self._old = old
        self._new = new
        self._display = display

    def complete(self) -> None:
        """Do everything that is asked for."""
        started = time.monotonic()
        try:
            mark = self._catch_up()
            if self.wish.alias is not None and (self.wish.allow_missing or not self.work.missing):
                boundary = self._new.stats().sequence
                self.pointed_at = self._old.set_alias(self.wish.alias, self.wish.new)
                self.is_switched = True
                self._settle(mark, boundary)
        finally:
            self.elapsed_seconds = time.monotonic() - started

    def _catch_up(self) -> int:
        """Make passes until nothing was written since the last one began, or they get no shorter.

        Returns:
            The old collection's sequence up to which all is done.
        """
        mark = self._pass(None, None)
        took_seconds = math.inf
        for _ in range(_PASSES_MAX):
            if self._old.stats().sequence == mark:
                break
            started = time.monotonic()
            mark = self._pass(mark, None)
            before_seconds, took_seconds = took_seconds, time.monotonic() - started
            if took_seconds > before_seconds / 2:
                break
        return mark

    def _settle(self, mark: int, boundary: int) -> None:
        """Carry over what is still written to the old collection, until it has been quiet for a while."""
        end = time.monotonic() + _SETTLING_SECONDS_MAX
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < _QUIET_SECONDS:
            if self._old.stats().sequence != mark:
                if time.monotonic() > end:
                    self.is_settled = False
                    return
                mark = self._pass(mark, boundary)
                quiet_since = time.monotonic()
            time.sleep(_POLL_SECONDS)

    def _pass(self, mark: int | None, boundary: int | None) -> int:
        self.passes += 1
        self._display.begin_pass(self.passes)
        return self.work.run_pass(since=mark, boundary=boundary)

    @property
    def rollback(self) -> str:
        """The command that brings the alias back."""
        target = self.pointed_at or "--remove"
        return f"search_client --server {self._old.server} alias {self.wish.alias} {target}"

    def document(self) -> dict[str, Any]:
        """Give what was done as JSON."""
        return {
            "from": self.wish.old,
            "from_is_now": self.old_name,
            "to": self.wish.new,
            "model": self.wish.model,
            **asdict(self.work.tally),
            "missing": len(self.work.missing),
            "passes": self.passes,
            "alias": self.wish.alias,
            "switched": self.is_switched,
            "settled": self.is_settled,
            "rollback": self.rollback if self.is_switched else None,
            "elapsed_seconds": round(self.elapsed_seconds, 3),
        }

    def summary(self) -> str:
        """Give what was done in words."""
        tally = self.work.tally
        parts = [f"{tally.embedded:,} embedded"]
        parts += [f"{count:,} {word}" for count, word in self._further() if count]
        rate = tally.embedded / max(self.elapsed_seconds, 1e-9)
        return f"{self.wish.new}: {', '.join(parts)} in {self.elapsed_seconds:.1f} s ({rate:,.0f}/s)"

    def _further(self) -> list[tuple[int, str]]:
        tally = self.work.tally
        return [
            (tally.updated, "brought up to date"),
            (tally.unchanged, "as they were"),
            (tally.deleted, "deleted"),
            (tally.left_alone, "left alone, being newer there"),
            (len(self.work.missing), "missing"),
        ]


def _interrupted(error: BaseException, run: _Run) -> CommandError:
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    code = error.code if isinstance(error, ClipSearchError) else "INTERRUPTED"
    if run.is_switched:
        what = (
            f"{run.wish.alias} is {run.wish.new} by now, but what was written to {run.wish.old} just before may be "
            f"missing there; back: {run.rollback}"
        )
    else:
        what = "Nothing was switched; run the same command again to go on"
    return CommandError(f"{reason}. {what}", code=code, switched=run.is_switched)


def _write_missing(path: Path, missing: dict[str, str]) -> Path | None:
    """List what is missing; where nothing is, a list of an earlier run is emptied."""
    if not missing and not path.exists():
        return None
    try:
        lines = (json_line({"id": item_id, "reason": reason}) + "\n" for item_id, reason in sorted(missing.items()))
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}", code="FILE") from error
    return path if missing else None


def _finish(settings: Settings, run: _Run, listed: Path | None) -> None:
    """Print what was done; raise where items are missing that may not be."""
    wish = run.wish
    if settings.json:
        print_document({**run.document(), "missing_file": None if listed is None else str(listed)})
    else:
        click.echo(safe_text(run.summary()))
        if listed is not None:
            print_note(f"what is missing is listed in {listed}")
        if run.is_switched:
            before = f" (it was {run.pointed_at})" if run.pointed_at else ""
            if run.old_name != wish.old:
                before = f" (the collection of that name is now asked for as {run.old_name})"
            click.echo(safe_text(f"{wish.alias} is now {wish.new}{before}; back: {run.rollback}"))
            if not run.is_settled:
                print_note(
                    f"something still writes to {wish.old}, by that name or in a stream that was opened before: "
                    f"what it writes from now on is not in {wish.new}"
                )
        elif wish.alias is None:
            print_note(f"to switch: search_client --server {settings.server} alias NAME {wish.new}")
    if run.work.missing and not wish.allow_missing:
        count = len(run.work.missing)
        items = "1 item" if count == 1 else f"{count:,} items"
        end = (
            ""
            if wish.alias is None
            else (
                f", all written just before {wish.alias} was moved"
                if run.is_switched
                else f"; {wish.alias} is not moved"
            )
        )
        raise CommandError(f"{items} could not be embedded again{end}", code="INCOMPLETE")


def _tell(settings: Settings, sentence: str, **facts: object) -> None:
    if settings.json:
        print_document({**facts, "switched": False, "note": sentence})
    else:
        click.echo(sentence)


class _Silence:
    """Watches nothing."""

    def passed(self, count: int) -> None:
        """Do nothing."""

    def missed(self, item_id: str, reason: str) -> None:
        """Do nothing."""


class _Display(ProgressDisplay):
    """The bar of a run, and its first failures everywhere."""

    def __init__(self, total: int, *, as_json: bool) -> None:
        super().__init__("embedding", total, as_json=as_json)
        self._missed = 0

    def begin_pass(self, number: int) -> None:
        """Say that what was written meanwhile is looked at."""
        if number > 1:
            self._progress.update(self._task, description="catching up", completed=0, total=None)

    def passed(self, count: int) -> None:
        """Count items as done with."""
        self._progress.update(self._task, advance=count)

    def missed(self, item_id: str, reason: str) -> None:
        """Say which item failed and why."""
        self._missed += 1
        self._progress.update(self._task, failures=f"{self._missed:,} missing")
        if self._as_json:
            report_error(reason, as_json=True, code="MISSING", id=item_id)
        elif self._missed <= _SHOWN_MAX:
            more = "; further ones are only listed in the file" if self._missed == _SHOWN_MAX else ""
            self._note(f"missing: {item_id}: {reason}{more}")
