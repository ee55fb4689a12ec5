"""What a check is, and what it says.

    @check(DIRECTOR, LINKS)
    def ip_forward(facts):
        \"\"\"this host forwards packets between clients and NAT servers\"\"\"
        if …:
            yield Finding(what, why it hurts, the command that mends it)

The docstring is what holds when the check has nothing to say; the arguments of ``check`` are the topics that it needs.
One cause is one finding: a check that sees what another one's cause can do, too, gives an ``Unsure``.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from lbq.doctor.facts import Facts

NOT_UNDERSTOOD = (ValueError, LookupError, TypeError, AttributeError)
MOST = 8        # findings of one check that are told; of the others, how many


class Finding(NamedTuple):
    """Something that keeps packets from their way, or will."""

    what: str
    why: str
    fix: str
    service: str = ""
    check: str = ""


class Unsure(NamedTuple):
    """Why a check cannot tell: what it looked at has another cause, which is another check's."""

    reason: str


class Check(NamedTuple):
    """One thing to look at."""

    name: str
    claim: str                  # what holds when nothing is found
    needs: tuple[str, ...]
    concerns: Callable[[Facts], bool]
    judge: Callable[[Facts], Iterator[Finding | Unsure]]


class Report(NamedTuple):
    """What came of all checks."""

    findings: list[Finding]
    fine: list[tuple[str, str]]             # check and claim
    unknown: list[tuple[str, str]]          # check and why it was not made
    idle: list[str]                         # checks about which there is nothing to look at


def always(facts: Facts) -> bool:
    """Return True: the check concerns every host."""
    return True


def check(*needs: str, concerns: Callable[[Facts], bool] = always) -> Callable:
    """Make a check of a function that gives findings; it *needs* topics, and *concerns* some hosts only."""
    return lambda judge: Check(judge.__name__, judge.__doc__, needs, concerns, judge)


def examine(facts: Facts, checks: Iterable[Check]) -> Report:
    """Make all *checks*."""
    report = Report([], [], [], [])
    for one in checks:
        reason = next((facts.missing[topic] for topic in one.needs if topic in facts.missing), None)
        if reason is not None:
            report.unknown.append((one.name, reason))
        elif not one.concerns(facts):
            report.idle.append(one.name)
        else:
            _judge(facts, one, report)
    return report


def _judge(facts: Facts, one: Check, report: Report) -> None:
    """Make one check; a rule or a setting that nobody understands leaves it unmade, and the others go on."""
    try:
        said = list(one.judge(facts))
    except NOT_UNDERSTOOD as error:
        report.unknown.append((one.name, f"this host says what nobody understands ({error!r})"))
        return
    found = [finding._replace(check=one.name) for finding in said if isinstance(finding, Finding)]
    report.findings.extend(_bounded(found))
    report.unknown.extend((one.name, reason) for reason in sorted({
        unsure.reason for unsure in said if isinstance(unsure, Unsure)}))
    if not said:
        report.fine.append((one.name, one.claim))


def _bounded(found: list[Finding]) -> list[Finding]:
    """Return what is told of findings: with a thousand servers one mistake is found a thousand times."""
    if len(found) <= MOST:
        return found
    last = found[MOST - 1]
    return [*found[:MOST - 1], last._replace(what=f"{last.what} (and the like {len(found) - MOST} more times)")]
