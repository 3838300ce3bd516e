"""Settings of a command from a TOML file, and as one; knows nothing of what they mean.

A value is taken from the command line, else from the environment, else from the file, else it is the default: click's
own order, which the file enters as the context's `default_map`. The file has a key for each option, spelled as the
option is, with _ for -. An option that takes NAME=VALUE and may be repeated is a table of names in the file.

    listen = "0.0.0.0:50051"
    calls_max = 200
    thumbnails = true

    [bundle]
    base = "/models/base"

Relative paths are relative to the working directory, as on the command line.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import tomlkit
from click.core import ParameterSource

__all__ = ["configuration_option", "effective_configuration", "unknown_variables"]

_CONFIG = "config"
#: Options that are about one run alone.
_NOT_KEPT = {_CONFIG, "print_config", "help"}
_NEAREST_MIN = 0.6


F = TypeVar("F", bound=Callable[..., Any])


def configuration_option() -> Callable[[F], F]:
    """Return the option `--config`, which makes a file the defaults of all others."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="TOML file with a key for each option, such as calls_max; the command line and the environment go before.",
    )


def _read(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    options = _options(ctx)
    defaults: dict[str, Any] = {}
    for key, value in _table_in(path).items():
        if key not in options:
            raise click.UsageError(f"{path}: {key}: is no setting{_nearest(key, options)}")
        defaults[key] = _checked(ctx, options[key], value, f"{path}: {key}")
    ctx.default_map = defaults
    ctx.meta[__name__] = path


def _table_in(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"--config {path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise click.UsageError(f"--config {path}: is no TOML: {error}") from error


def _options(ctx: click.Context) -> dict[str, click.Option]:
    return {
        option.name: option
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.name and option.name not in _NOT_KEPT
    }


def _nearest(key: str, known: Mapping[str, object]) -> str:
    nearest = difflib.get_close_matches(key.replace("-", "_"), known, 1, _NEAREST_MIN)
    return f"; did you mean {nearest[0]}?" if nearest else "; clip-search serve --help lists them, with - for _"


def _checked(ctx: click.Context, option: click.Option, value: object, where: str) -> object:
    """Return a value as click takes it.

    Raises:
        click.UsageError: it is of another type than the option, or click refuses it.
    """
    expected, fits = _expected(option)
    if not fits(value):
        raise click.UsageError(f"{where}: is {_kind(value)}; {expected} is expected.")
    given: object = value
    if option.multiple:
        given = [f"{name}={part}" for name, part in value.items()] if isinstance(value, dict) else [value]
    try:
        option.process_value(ctx, given)
    except click.BadParameter as error:
        raise click.UsageError(f"{where}: {error.message}") from error
    return given


def _expected(option: click.Option) -> tuple[str, Any]:
    """Return what an option takes in a file, in words and as a test."""
    if option.multiple:
        return (
            "a text or a table of texts by name",
            lambda value: (
                isinstance(value, str)
                or (isinstance(value, dict) and all(isinstance(part, str) for part in value.values()))
            ),
        )
    if option.is_flag:
        return "true or false", lambda value: isinstance(value, bool)
    if isinstance(option.type, click.types.IntParamType):
        return "a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)
    if isinstance(option.type, click.types.FloatParamType):
        return "a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    return "a text in quotes", lambda value: isinstance(value, str)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date or time")


def effective_configuration(ctx: click.Context) -> str:
    """Return all settings of a parsed command line as a file for `--config`, with a comment where each came from.

    A secret (of an option with `hide_input`) is told of and not shown.
    """
    document = tomlkit.document()
    tables: dict[str, Any] = {}
    for name, option in _options(ctx).items():
        value, source = ctx.params.get(name), _source(ctx, option)
        if value is None or option.hide_input:
            what = "is set and not shown" if value is not None else "is not set"
            document.add(tomlkit.comment(f"{name} {what}: {source}"))
        elif isinstance(value, dict):
            table = tomlkit.table()
            table.comment(source)
            for part, path in value.items():
                table[part] = str(path)
            tables[name] = table
        else:
            item = tomlkit.item(_plain(option, value))
            item.comment(source)
            document[name] = item
    for name, table in tables.items():
        document.add(tomlkit.nl())
        document[name] = table
    return tomlkit.dumps(document).strip() + "\n"


def _plain(option: click.Option, value: object) -> Any:  # noqa: ANN401 - what TOML has
    return value if isinstance(value, bool | int | float) and option.type is not click.STRING else str(value)


def _source(ctx: click.Context, option: click.Option) -> str:
    match ctx.get_parameter_source(option.name or ""):
        case ParameterSource.COMMANDLINE:
            return f"from {option.opts[-1]}"
        case ParameterSource.ENVIRONMENT:
            return f"from {_variable(ctx, option)}"
        case ParameterSource.DEFAULT_MAP:
            return f"from {ctx.meta[__name__]}"
        case _:
            return "default"


def _variable(ctx: click.Context, option: click.Option) -> str:
    return f"{ctx.auto_envvar_prefix}_{(option.name or '').upper()}"


def unknown_variables(ctx: click.Context) -> Iterator[str]:
    """Yield, as sentences, variables of the environment that look like settings and are none."""
    prefix = f"{ctx.auto_envvar_prefix}_"
    known = {option.name.upper() for option in ctx.command.params if option.name}
    for variable in sorted(os.environ):
        name = variable.removeprefix(prefix)
        if name != variable and name not in known:
            nearest = difflib.get_close_matches(name, known, 1, _NEAREST_MIN)
            yield f"{variable}: is no setting{f'; did you mean {prefix}{nearest[0]}?' if nearest else ''}"
