"""The option `--filter`, which every command that takes one takes alike; imports nothing heavy."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from clip_search.filter_text import FilterSyntaxError, parse_filter
from clip_search.filters import Filter

__all__ = ["filter_option"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _read(ctx: click.Context, param: click.Parameter, value: str | None) -> Filter | None:
    """Read the text; an error shows the place."""
    try:
        return None if value is None else parse_filter(value)
    except FilterSyntaxError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def filter_option(purpose: str) -> Callable[[_Function], _Function]:
    """Give a command the option, as the parameter `filter_`."""
    return click.option(
        "--filter",
        "filter_",
        metavar="EXPR",
        callback=_read,
        help=f"{purpose} such as 'year>=2020 and tag in (dog, cat)'.",
    )
