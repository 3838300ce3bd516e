"""How log lines are written: as text, or as one JSON object each; knows nothing of what is logged.

Every line that is logged while a request is worked on carries the request's id, on whatever thread that is: whoever
hands work to a thread hands over the context as well. A batch belongs to several requests, so its lines carry none.

A line as JSON has `time` (UTC, ISO 8601), `level`, `logger` and `message`; within a request `request_id`, and
`trace_id` where it is traced; of a call's end `method`, `code` and `milliseconds`; of an unforeseen error `exception`.
"""

import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

from clip_search_server.spans import CURRENT_SPAN

__all__ = ["REQUEST_ID", "LogFormat", "start_logging"]

LogFormat = Literal["text", "json"]

#: The request that is worked on; empty outside of any.
REQUEST_ID: Final[ContextVar[str]] = ContextVar("REQUEST_ID", default="")

_OWN_LOGGERS = __name__.partition(".")[0]
_FIELDS = ("method", "code", "milliseconds")
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s%(request_suffix)s"


def start_logging(level: str, log_format: LogFormat, stream: TextIO) -> None:
    """Let everything of at least `level` be written to `stream`; where logging was set up before, that stays.

    Libraries say no more than INFO: below that Pillow, for one, quotes what is written in pictures.
    """
    handler = logging.StreamHandler(stream)
    handler.addFilter(_add_request)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]), handlers=[handler])
    logging.getLogger(_OWN_LOGGERS).setLevel(level.upper())


def _add_request(record: logging.LogRecord) -> bool:
    request_id = REQUEST_ID.get()
    record.request_id = request_id
    span = CURRENT_SPAN.get()
    record.trace_id = "" if span is None else span.trace_id
    record.request_suffix = f" request={request_id}" if request_id else ""
    return True


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        given: Mapping[str, object] = record.__dict__
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: given[name] for name in ("request_id", "trace_id") if given.get(name)}
        line |= {name: given[name] for name in _FIELDS if name in given}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
