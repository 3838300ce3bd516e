"""The `clip-search` program: finds a subcommand through its entry point and runs it.

Subcommands live in packages that come with extras; they are registered in the entry point group
`clip_search.commands`, each a click command. The launcher lists the known ones without importing them, and says which
extra to install when one cannot be imported. It knows nothing about what a subcommand does.
"""

from dataclasses import dataclass
from importlib.metadata import entry_points

import click

import clip_search

__all__ = ["main"]

_ENTRY_POINT_GROUP = "clip_search.commands"
_OWN_PACKAGES = (
    "clip_search",
    "clip_search_server",
    "clip_search_export",
    "clip_search_gallery",
    "clip_search_photos",
    "clip_search_evaluation",
)


@dataclass(frozen=True)
class _KnownCommand:
    """A subcommand of this distribution: what the help says of it, and the extra that brings its packages, if any."""

    summary: str
    extra: str | None


_KNOWN_COMMANDS = {
    "backup": _KnownCommand("Copy a data folder into a new backup.", "server"),
    "check": _KnownCommand("Check a data folder and name everything that is damaged.", "server"),
    "evaluate": _KnownCommand("Measure how well a served model finds and names pictures.", "evaluation"),
    "export": _KnownCommand("Turn a checkpoint into a bundle that the server can serve.", "export"),
    "gallery": _KnownCommand("Show a page to search with, for browsers.", "gallery"),
    "inspect": _KnownCommand("Describe a bundle.", "export"),
    "key": _KnownCommand("Make an API key for the server.", "server"),
    "migrate": _KnownCommand("Bring a data folder of an older release to the present format.", "server"),
    "models": _KnownCommand("List the models that have a short name.", "export"),
    "rebuild": _KnownCommand("Make the index of each collection anew from its stored items.", "server"),
    "reembed": _KnownCommand("Embed a collection anew with another model and move an alias.", None),
    "restore": _KnownCommand("Make a data folder from a backup.", "server"),
    "serve": _KnownCommand("Serve a bundle and a data folder over gRPC.", "server"),
    "up": _KnownCommand("Search a folder of photos: everything in one command.", "photos"),
    "verify": _KnownCommand("Check every file of a bundle against its manifest.", "export"),
}


class _Launcher(click.Group):
    """A group whose subcommands are imported only when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the known and the registered subcommands; nothing is imported."""
        del ctx
        return sorted(_KNOWN_COMMANDS.keys() | entry_points(group=_ENTRY_POINT_GROUP).names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand's module and return its command; None when no such subcommand is registered.

        Raises:
            click.UsageError: the subcommand needs an extra that is not installed.
        """
        del ctx
        registered = entry_points(group=_ENTRY_POINT_GROUP, name=cmd_name)
        if not registered:
            return None
        (entry_point,) = registered
        try:
            command = entry_point.load()
        except ModuleNotFoundError as error:
            message = _missing_extra_message(cmd_name, error.name)
            if message is None:
                raise
            raise click.UsageError(message) from error
        if not isinstance(command, click.Command):
            message = f"{entry_point.value} is not a click command. This is a bug."
            raise TypeError(message)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line for each subcommand; nothing is imported."""
        rows = [(name, self._summary(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    @staticmethod
    def _summary(name: str) -> str:
        known = _KNOWN_COMMANDS.get(name)
        return known.summary if known else "Registered by another package."


def _missing_extra_message(command: str, module: str | None) -> str | None:
    """Say which extra brings `module`; None when the module is the project's own, which no extra can mend."""
    known = _KNOWN_COMMANDS.get(command)
    if known is None or known.extra is None or module is None or module.partition(".")[0] in _OWN_PACKAGES:
        return None
    return f"this command needs the [{known.extra}] extra: pip install 'clip-search[{known.extra}]'"


@click.group(cls=_Launcher, name="clip-search", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(clip_search.__version__, prog_name="clip-search")
def main() -> None:
    """Text-to-image search: find pictures by describing them.

    Each command explains itself: `clip-search COMMAND --help`. To search and to index, use `search_client`.
    """
