"""`clip-search key`: makes API keys for a server; knows nothing of servers."""

import datetime as dt
import re

import click

from clip_search_server.access.keys import KeyEntry, Role, check_key_name, digest_of, new_key, toml_of
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.index import check_name

__all__ = ["key", "new"]

_DAYS = re.compile(r"([1-9][0-9]{0,4})d")


@click.group()
def key() -> None:
    """Make API keys for `clip-search serve --api-keys`."""


def _read_name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        check_key_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _read_collections(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> frozenset[str] | None:
    for value in values:
        try:
            check_name(value, "collection")
        except InvalidArgumentError as error:
            raise click.BadParameter(error.description) from error
    return frozenset(values) or None


def _read_expiry(_ctx: click.Context, _param: click.Parameter, value: str | None) -> dt.datetime | None:
    if value is None:
        return None
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    days = _DAYS.fullmatch(value)
    if days is not None:
        return now + dt.timedelta(days=int(days[1]))
    try:
        expires = dt.datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither days, such as 90d, nor a time such as 2027-01-31") from None
    expires = expires if expires.tzinfo else expires.replace(tzinfo=dt.UTC)
    if expires <= now:
        raise click.BadParameter(f"{value!r} is past")
    return expires


@key.command()
@click.option("--name", required=True, callback=_read_name, help="What logs call the key.")
@click.option(
    "--role",
    type=click.Choice([role.name.lower() for role in Role]),
    default="read",
    show_default=True,
    help="read searches, write also stores and deletes items, admin also manages collections.",
)
@click.option(
    "--collection",
    "collections",
    multiple=True,
    callback=_read_collections,
    help="A collection or alias it may use, by this very name; repeated for several. By default all.",
)
@click.option("--expires", callback=_read_expiry, help="Days (90d) or a time (2027-01-31, UTC). By default never.")
def new(name: str, role: str, collections: frozenset[str] | None, expires: dt.datetime | None) -> None:
    """Print a new key, which is shown this once, and its entry for the server's file.

    The entry goes to the standard output and the key to the standard error, so that `>> keys.toml` appends the one and
    shows the other. The server takes the entry up within a second.
    """
    made = new_key()
    click.echo(f"key, shown this once: {made}", err=True)
    click.echo("\n" + toml_of(KeyEntry(name, digest_of(made), Role[role.upper()], collections, expires)), nl=False)
