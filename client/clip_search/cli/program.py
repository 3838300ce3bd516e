"""The program itself: finds commands, imports only the one that is run, and turns failures into exit codes.

Exit codes: 0 done; 1 something failed, which stderr explains; 2 the command line is wrong; 130 interrupted (Ctrl-C). It
knows nothing of what commands do.
"""

import importlib
import os
from dataclasses import dataclass
from typing import Any

import click

import clip_search
from clip_search.cli.failures import failures_reported
from clip_search.cli.settings import shared_options

__all__ = ["COMMANDS", "KnownCommand", "main"]


@dataclass(frozen=True, slots=True)
class KnownCommand:
    """Where a command is, and what the help says of it (a test compares this with the command's own help)."""

    module: str
    function: str
    summary: str


COMMANDS = {
    "index": KnownCommand("index_command", "index", "Store pictures, so that they can be found."),
    "search": KnownCommand("search_command", "search", "Find pictures by words, by pictures, or by both."),
    "classify": KnownCommand("classify_command", "classify", "Tell which words fit a picture best."),
    "get": KnownCommand("items_commands", "get", "Show items by id."),
    "list": KnownCommand("items_commands", "list_items", "List items in order of their ids."),
    "delete": KnownCommand("items_commands", "delete", "Delete items by id or by filter."),
    "collections": KnownCommand("collections_commands", "collections", "List, create and delete collections."),
    "alias": KnownCommand("collections_commands", "alias", "Give a collection a further name, or move one."),
    "stats": KnownCommand("server_commands", "stats", "Show how large the collection is and what it is made of."),
    "snapshot": KnownCommand("server_commands", "snapshot", "Make the server's next start quick."),
    "embed": KnownCommand("embed_command", "embed", "Turn words and pictures into vectors."),
    "health": KnownCommand("server_commands", "health", "Tell whether the server is ready, and what it is."),
}


class _Program(click.Group):
    """A group whose commands are imported only when they are run, and whose failures end as the exit codes say."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, the most used first."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of this name."""
        del ctx
        known = COMMANDS.get(cmd_name)
        if known is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"clip_search.cli.{known.module}"), known.function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line for each command; nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # click's own type
        """Run the command; report what fails, with the exit code that belongs to it."""
        # gRPC's own lines on stderr would stand among ours; what they say, our errors say. Read when gRPC is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        with failures_reported(ctx):
            return super().invoke(ctx)


@click.group(
    cls=_Program,
    name="search_client",
    params=shared_options(from_environment=True),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(clip_search.__version__, prog_name="search_client")
def main() -> None:
    """Find pictures by describing them, on a clip-search server.

    Each command explains itself: `search_client COMMAND --help`. The options below may also stand after the command.

    Exit codes: 0 done, 1 something failed (stderr says what), 2 the command line is wrong, 130 interrupted (Ctrl-C).
    """
