"""`search_client collections` and `alias`: which collections there are, and their further names."""

from collections.abc import Iterator

import click

from clip_search.cli.documents import collection_document
from clip_search.cli.output import print_document, print_note
from clip_search.cli.session import connect
from clip_search.cli.settings import Settings, client_command, pass_settings
from clip_search.cli.tables import print_facts
from clip_search.results import Collection

__all__ = ["alias", "collections"]


@click.group("collections")
def collections() -> None:
    """List, create and delete collections.

    Which collection the other commands are about is told by their option --collection.
    """


@collections.add_command
@client_command("list")
@pass_settings
def _list(settings: Settings) -> None:
    """List all collections with their items and aliases."""
    with connect(settings) as client:
        found = client.list_collections()
    if settings.json:
        print_document({"collections": [collection_document(each) for each in found]})
    else:
        print_facts((each.name, ", ".join(_facts(each))) for each in found)


def _facts(collection: Collection) -> Iterator[str]:
    if collection.is_usable:
        yield "1 item" if collection.items == 1 else f"{collection.items:,} items"
        yield f"dimension {collection.embedding_dim}"
    else:
        yield f"CANNOT BE USED ({collection.unusable_reason or 'its stats tell why'})"
    if collection.aliases:
        yield f"also called {' and '.join(collection.aliases)}"


@collections.add_command
@client_command("create")
@click.argument("name")
@pass_settings
def _create(settings: Settings, *, name: str) -> None:
    """Create an empty collection.

    NAME has 1 to 64 characters: a-z, 0-9, _ and -, the first a letter or a digit.
    """
    with connect(settings) as client:
        created = client.create_collection(name)
    if settings.json:
        print_document(collection_document(created))
    else:
        click.echo(f"{created.name} is created")


@collections.add_command
@client_command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_settings
def _delete(settings: Settings, *, name: str, yes: bool) -> None:
    """Delete a collection and everything in it, for ever.

    Picture files are never touched.
    """
    if not yes:
        click.confirm(f"Delete the collection {name} and everything in it?", abort=True, err=True)
    with connect(settings) as client:
        client.delete_collection(name)
    if settings.json:
        print_document({"deleted": name})
    else:
        click.echo(f"{name} is deleted")


@client_command("alias")
@click.argument("name")
@click.argument("target", metavar="[COLLECTION]", required=False)
@click.option("--remove", is_flag=True, help="Remove the alias.")
@pass_settings
def alias(settings: Settings, *, name: str, target: str | None, remove: bool) -> None:
    """Give a collection a further name, or move one.

    Each search sees the old or the new collection, never neither: fill a new one, then move the alias.
    """
    if remove == (target is not None):
        raise click.UsageError("give the collection that the alias is to point at, or --remove")
    with connect(settings) as client:
        previous = client.set_alias(name, target or "")
    if settings.json:
        print_document({"alias": name, "collection": target or "", "previous_collection": previous})
    elif target is not None:
        click.echo(f"{name} is now {target}")
        if previous:
            print_note(f"it was {previous} before")
    else:
        click.echo(f"{name} is removed" if previous else f"there was no alias {name}")
