"""What the service writes about itself: one line for each request, as JSON or as text.

Names and paths come from anywhere: JSON escapes all but ASCII, and text is made `printable`, so
that no client writes a line of its own or moves a terminal's cursor.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Literal, TextIO

from featurestore.names import printable

LogFormat = Literal["json", "text"]
REQUESTS = logging.getLogger("featurestore.requests")
# Of the request at work, if any: what a part logs can be found by what a client was told.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_ENCODER = json.JSONEncoder(default=str)
FIELDS = ("method", "route", "path", "status", "ms", "bytes", "client", "url")


def configure_logging(form: LogFormat, stream: TextIO | None = None) -> None:
    """Send everything that is logged in this process to `stream` (stderr), one line a record.

    For the process that serves only: nothing in the library sets up logging.
    """
    lines = logging.StreamHandler(stream or sys.stderr)
    lines.setFormatter(JsonLines() if form == "json" else TextLines())
    lines.addFilter(_is_worth_a_line)
    # Neither is written, and finding both takes as long as the rest of a record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers = [lines]
    root.setLevel(logging.WARNING)
    logging.getLogger("featurestore").setLevel(logging.INFO)
    # It warns of each malformed form, which its sender is told of.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the fields of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        fields: dict[str, object] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= _given(record)
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return _ENCODER.encode(fields)


class TextLines(logging.Formatter):
    """The same for a person at a terminal; only a traceback has more than one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        parts = [_time(record.created), record.levelname.lower().ljust(7), record.getMessage()]
        parts += [f"{name}={value}" for name, value in _given(record).items()]
        line = printable(" ".join(parts))
        if record.exc_info:
            traceback = self.formatException(record.exc_info)
            line = "\n".join([line, *map(printable, traceback.split("\n"))])
        return line


def _given(record: logging.LogRecord) -> dict[str, object]:
    held = record.__dict__
    given = {name: held[name] for name in FIELDS if name in held}
    if (asked := request_id.get()) is not None:
        given["request_id"] = asked
    return given


def _time(created: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{whole}.{int(created % 1 * 1000):03d}Z"


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    # Whenever a client asks for an upgrade, uvicorn would have us install websockets.
    return "pgrade request" not in str(record.msg) and "WebSocket library" not in str(record.msg)
