"""The log: one line an event, for people or for machines, whatever is in it."""
from __future__ import annotations

import json
import logging
import sys

import pytest

from lbq.log import JsonFormatter, TextFormatter, configure, one_line


@pytest.fixture(autouse=True)
def logger():
    """Leave the logger of this process as it was."""
    logger = logging.getLogger("lbq")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


def record(message, level=logging.INFO, *args, **extra):
    made = logging.LogRecord("lbq.host", level, __file__, 1, message, args, extra.pop("exc_info", None))
    made.__dict__.update(extra)
    return made


def test_text_names_the_level_only_when_it_matters():
    formatter = TextFormatter(timestamps=False)

    assert formatter.format(record("ip_forward 0 -> 1")) == "ip_forward 0 -> 1"
    assert formatter.format(record("no %s", logging.WARNING, "ARP")) == "warning: no ARP"


def test_text_has_the_time_of_day():
    assert TextFormatter().format(record("x", created=0.0))[8:] == " x"


def test_json_has_the_fields_a_machine_counts():
    line = JsonFormatter().format(record("3 lost", logging.WARNING, created=0.5, fields={"packets": 3}))

    assert json.loads(line) == {"time": "1970-01-01T00:00:00.500+00:00", "level": "warning",
                                "logger": "lbq.host", "message": "3 lost", "packets": 3}


def test_json_keeps_a_traceback_on_the_line():
    try:
        raise ValueError("broken")
    except ValueError:
        line = JsonFormatter().format(record("bug", logging.ERROR, exc_info=sys.exc_info()))

    assert "\n" not in line
    assert "ValueError: broken" in json.loads(line)["traceback"]


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_message_can_forge_a_second_line(formatter):
    assert "\n" not in formatter.format(record("name\nerror: forged\x1b[2J"))
    assert "\x1b" not in formatter.format(record("name\nerror: forged\x1b[2J"))


def test_one_line_keeps_what_is_printable():
    assert one_line("größer\tals\n") == r"größer\tals\n"


@pytest.mark.parametrize(("debug", "lines"), [("1", 2), ("", 1)])
def test_debug_lines_are_shown_on_request(monkeypatch, capsys, debug, lines):
    monkeypatch.setenv("LBQ_DEBUG", debug)
    configure(as_json=True)

    logging.getLogger("lbq.control").debug("detail")
    logging.getLogger("lbq.control").info("event")

    assert len(capsys.readouterr().err.splitlines()) == lines


def test_the_journals_own_time_is_not_repeated(monkeypatch, capsys):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    configure()

    logging.getLogger("lbq").info("event")

    assert capsys.readouterr().err == "event\n"
