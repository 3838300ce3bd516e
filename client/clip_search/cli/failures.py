"""Turns what fails in a command into a report on stderr and an exit code; knows nothing of what commands do.

Exit codes: 0 done; 1 something failed, which stderr explains; 2 the command line is wrong; 130 interrupted (Ctrl-C).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from clip_search.cli.output import CommandError, print_note, report_error
from clip_search.cli.settings import Settings
from clip_search.errors import ClipSearchError, InvalidArgumentError, ResourceExhaustedError

__all__ = ["failures_reported"]

_INTERRUPTED = 130  # what a shell gives for a program stopped by Ctrl-C


@contextlib.contextmanager
def failures_reported(ctx: click.Context) -> Iterator[None]:
    """Report what fails in the block, as the shared options ask for it, and exit with the code that belongs to it."""
    settings = ctx.ensure_object(Settings)
    try:
        yield
    except ClipSearchError as error:
        _report(error, settings)
        ctx.exit(1)
    except CommandError as error:
        report_error(error.message, as_json=settings.json, code=error.code, **error.facts)
        ctx.exit(_INTERRUPTED if error.code == "INTERRUPTED" else 1)
    except click.UsageError as error:
        if not settings.json:
            raise
        report_error(error.format_message(), as_json=True, code="USAGE")
        ctx.exit(2)
    except KeyboardInterrupt:
        report_error("interrupted", as_json=settings.json, code="INTERRUPTED")
        ctx.exit(_INTERRUPTED)


def _report(error: ClipSearchError, settings: Settings) -> None:
    facts: dict[str, Any] = {}
    if isinstance(error, InvalidArgumentError):
        facts["violations"] = [{"field": each.field, "description": each.description} for each in error.violations]
    if isinstance(error, ResourceExhaustedError):
        facts["retry_after_seconds"] = error.retry_after_seconds
    if error.request_id:
        facts["request_id"] = error.request_id
    report_error(str(error), as_json=settings.json, code=error.code, **facts)
    for note in getattr(error, "__notes__", ()):
        if not settings.json:
            print_note(f"  {note}")
    if settings.json:
        return
    if isinstance(error, InvalidArgumentError):
        for each in error.violations:
            if each.description not in str(error):
                print_note(f"  {each.field}: {each.description}")
    if isinstance(error, ResourceExhaustedError) and error.retry_after_seconds is not None:
        print_note(f"  try again in {error.retry_after_seconds:g} s")
