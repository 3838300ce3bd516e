"""Commands of `clip-search` that are clients too; knows nothing of what they do."""

from typing import Any

import click

from clip_search.cli.failures import failures_reported
from clip_search.cli.settings import shared_options

__all__ = ["StandaloneCommand"]


class StandaloneCommand(click.Command):
    """A command with the options of `search_client`, whose failures end as the exit codes say.

    Args:
        without: options that mean nothing to it, by their parameters' names.
    """

    def __init__(self, *args: Any, without: frozenset[str], **kwargs: Any) -> None:  # noqa: ANN401  # click.Command's own
        super().__init__(*args, **kwargs)
        self.params += [option for option in shared_options(from_environment=True) if option.name not in without]

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # click's own type
        """Run it and report what fails."""
        with failures_reported(ctx):
            return super().invoke(ctx)
