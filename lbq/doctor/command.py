"""The command ``lbq doctor``: look, judge, tell; the exit status is for scripts."""
from __future__ import annotations

from lbq.doctor import CHECKS, show
from lbq.doctor import facts as topics
from lbq.doctor.finding import Report, examine
from lbq.doctor.gather import gather
from lbq.errors import ConfigError
from lbq.options import Parser

HEALTHY, FOUND, BLIND, NOT_RUNNING = range(4)
LEAST_SECONDS, MOST_SECONDS = 0.1, 60.0
DESCRIPTION = """\
Look for what keeps packets from their way: on this host, at its neighbours and at the real servers; say why it hurts
and which command mends it."""
EPILOG = """\
It asks the director, reads rules and settings, and asks the neighbours: ARP or neighbour discovery for the VIP, echo
requests to the real servers, and with NAT a connection to each that is closed at once.  It changes nothing.
Without a director only the host itself is looked at.  docs/doctor.md lists every check.

exit status: 0 nothing wrong, 1 something is, 2 could not look (at something, and nothing else was wrong), 3 nothing
wrong with the host, but no director runs
examples:
  lbq doctor
  lbq doctor --service 192.168.10.1:80 --json"""


def main(words: list[str]) -> int:
    """Do what ``lbq doctor WORDS`` says; return the exit status."""
    parser = Parser("lbq doctor", DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--service", metavar="SERVICE", help="look at one service and its real servers")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--wait", metavar="SECONDS", default="1", help="how long to look and to listen (default 1)")
    parser.add_argument("--passive", action="store_true", help="send nothing to anybody")
    said = parser.parse_args(words)
    facts = gather(said.service, _seconds(said.wait), said.passive)
    report = examine(facts, CHECKS)
    status = status_of(report)
    if said.json:
        print(show.as_json(facts, report, status))
    else:
        print("\n".join(show.text(facts, report, show.can_show_signs())))
    return status


def status_of(report: Report) -> int:
    """Return the exit status: that there is no director, or that nothing is to be sent, is no failure to look."""
    if report.findings:
        return FOUND
    reasons = {reason for _, reason in report.unknown} - {topics.PASSIVE}
    if reasons - {topics.NO_DIRECTOR}:
        return BLIND
    return NOT_RUNNING if reasons else HEALTHY


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise ConfigError(f"--wait {text}: say a number of seconds from {LEAST_SECONDS:g} to {MOST_SECONDS:g}")
    return seconds
