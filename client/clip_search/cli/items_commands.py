"""`search_client get`, `list` and `delete`: items by id, by filter and in order."""

from collections.abc import Iterator
from typing import Any

import click

from clip_search.cli.documents import attributes_document, item_document
from clip_search.cli.filter_option import filter_option
from clip_search.cli.output import CommandError, json_line, print_document, print_note, safe_text
from clip_search.cli.session import connect
from clip_search.cli.settings import Settings, client_command, pass_settings
from clip_search.cli.tables import print_facts
from clip_search.client import Client
from clip_search.filter_writer import text_of
from clip_search.filters import Filter
from clip_search.results import ItemPage, StoredItem

__all__ = ["delete", "get", "list_items"]

# The server's default for `Limits.page_size_max`; with vectors, a page this long stays well below the message limit.
_PAGE_SIZE_MAX = 1_000

# Ids that are shown before items are deleted by filter.
_EXAMPLES = 5


@client_command("get")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--vectors", is_flag=True, help="Show their vectors too.")
@pass_settings
def get(settings: Settings, *, ids: tuple[str, ...], vectors: bool) -> None:
    """Show items by id.

    Exits with 1 when an id has no item; the others are shown all the same.
    """
    with connect(settings) as client:
        found = client.get_items(ids, include_vectors=vectors)
    if settings.json:
        items = [item_document(item) for item in found.items]
        print_document({"items": items, "missing_ids": list(found.missing_ids)})
    else:
        for position, item in enumerate(found.items):
            if position:
                click.echo()
            print_facts(_facts(item))
    if found.missing_ids:
        names = ", ".join(found.missing_ids)
        raise CommandError(f"no item has the id {names}", code="NOT_FOUND", missing_ids=list(found.missing_ids))


def _facts(item: StoredItem) -> Iterator[tuple[str, str]]:
    yield "id", item.id
    for name, value in attributes_document(item.attributes).items():
        yield name, value if isinstance(value, str) else json_line(value)
    if item.text:
        yield "text", item.text
    yield "thumbnail", "yes" if item.has_thumbnail else "no"
    yield "sequence", str(item.sequence)
    if item.vector is not None:
        yield "vector", " ".join(f"{value:.6g}" for value in item.vector)


@client_command("list")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Items at most.  [default: 100]")
@click.option("--all", "every", is_flag=True, help="All items, however many.")
@filter_option("Only items whose attributes match,")
@click.option("--page-token", metavar="TOKEN", default="", help="Go on where an earlier listing stopped.")
@pass_settings
def list_items(settings: Settings, *, limit: int | None, every: bool, filter_: Filter | None, page_token: str) -> None:
    """List items in order of their ids.

    Prints a line for each: its id, then its path if it has one, with a tab between them.
    """
    if every and limit is not None:
        raise click.UsageError("--limit and --all exclude each other")
    with connect(settings) as client:
        pages = _pages(client, filter_, page_token, None if every else limit or 100)
        if settings.json:
            _print_pages_as_json(pages)
        else:
            _print_pages(pages)


def _pages(client: Client, filter_: Filter | None, page_token: str, limit: int | None) -> Iterator[ItemPage]:
    """Read pages until there is no further one or `limit` items were read."""
    while True:
        size = min(limit or _PAGE_SIZE_MAX, _PAGE_SIZE_MAX)
        page = client.list_items(page_size=size, page_token=page_token, filter=filter_)
        yield page
        page_token = page.next_page_token
        limit = None if limit is None else limit - len(page.items)
        if not page_token or limit == 0:
            return


def _print_pages(pages: Iterator[ItemPage]) -> None:
    page_token = ""
    for page in pages:
        page_token = page.next_page_token
        for item in page.items:
            path = item.attributes.get("path")
            click.echo(safe_text(item.id) + (f"\t{safe_text(path)}" if isinstance(path, str) else ""))
    if page_token:
        print_note(f"there are more: go on with --page-token {page_token}, or list --all")


def _print_pages_as_json(pages: Iterator[ItemPage]) -> None:
    """Print one document page by page, so that a listing of any length needs little memory."""
    page_token = ""
    separator = ""
    for number, page in enumerate(pages):
        if not number:  # only now: should the first page fail, stdout stays empty
            click.echo('{"items": [', nl=False)
        page_token = page.next_page_token
        for item in page.items:
            click.echo(separator + json_line(item_document(item)), nl=False)
            separator = ", "
    click.echo(f'], "next_page_token": {json_line(page_token)}}}')


@client_command("delete")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filter_option("All items whose attributes match,")
@click.option("--yes", is_flag=True, help="Do not ask before deleting by --filter.")
@pass_settings
def delete(settings: Settings, *, ids: tuple[str, ...], filter_: Filter | None, yes: bool) -> None:
    """Delete items by id or by filter.

    Ids that have no item are no error: the answer tells how many were there. Picture files are never touched.
    """
    if bool(ids) == (filter_ is not None):
        raise click.UsageError("say what to delete: either ids, or --filter EXPR")
    if filter_ is not None and settings.json and not yes:
        raise click.UsageError("deleting by --filter asks first, which --json cannot: add --yes")
    with connect(settings) as client:
        if filter_ is None:
            deletion = client.delete(ids)
        else:
            if not yes:
                _ask(client, filter_)
            deletion = client.delete_matching(filter_)
    document: dict[str, Any] = {"deleted": deletion.deleted, "sequence": deletion.sequence}
    if settings.json:
        print_document(document)
    else:
        click.echo(f"{deletion.deleted:,} deleted")


def _ask(client: Client, filter_: Filter) -> None:
    """Show what would go and ask whether it shall; end the command where it shall not."""
    page = client.list_items(page_size=_PAGE_SIZE_MAX, filter=filter_)
    count = f"{len(page.items):,}{' or more' if page.next_page_token else ''}"
    print_note(f"{count} items match {text_of(filter_)}")
    for item in page.items[:_EXAMPLES]:
        print_note(f"  {item.id}")
    if len(page.items) > _EXAMPLES:
        print_note("  …")
    click.confirm("delete them all?", abort=True, err=True)
