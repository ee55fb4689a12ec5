"""The log on standard error: text for people, or one JSON object a line for machines (``--json-log``).

Every package has its own logger (``lbq``, ``lbq.host``, ``lbq.control``).  What a machine wants to count goes
into ``extra={"fields": {…}}``: JSON shows it by name, text leaves it out because the sentence says it.
"""
from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime


class TextFormatter(logging.Formatter):
    """``12:00:01 warning: one line``; without the time under systemd, whose journal has it already."""

    def __init__(self, timestamps: bool = True):
        super().__init__(datefmt="%H:%M:%S")
        self.timestamps = timestamps

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as one line, and a traceback below it when it carries one."""
        level = "" if record.levelno == logging.INFO else record.levelname.lower() + ": "
        clock = self.formatTime(record, self.datefmt) + " " if self.timestamps else ""
        line = f"{clock}{level}{one_line(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """``{"time": …, "level": "warning", "logger": "lbq.host", "message": …, your fields}``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as one JSON object without a newline in it."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure(as_json: bool = False) -> None:
    """Send everything from ``lbq`` loggers to standard error; LBQ_DEBUG=1 shows debug lines too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter("JOURNAL_STREAM" not in os.environ))
    logger = logging.getLogger("lbq")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debugging() else logging.INFO)
    logger.propagate = False


def debugging() -> bool:
    """Return True when the user asked to see debug lines and tracebacks."""
    return os.environ.get("LBQ_DEBUG") == "1"


def one_line(text: str) -> str:
    """Return *text* without line breaks and terminal escapes, whoever typed them."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode()
                   for letter in text)
