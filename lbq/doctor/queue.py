"""The queue between kernel and director: is there one, is somebody at its end, does it run over."""
from __future__ import annotations

import re
from collections.abc import Iterator

from lbq.doctor.facts import DIRECTOR, QUEUES, RULES, Facts
from lbq.doctor.finding import Finding, check
from lbq.host import advice
from lbq.losses import DROPPED
from lbq.model import FAMILY_NAMES

TO_QUEUE = re.compile(r"-j NFQUEUE --queue-num (\d+)")
CURES = {       # of the director's own losses, those that have one
    "dropped_table_full": "restart the director with a larger --max-connections",
    "dropped_no_server": "lbq list: give a server weight again, raise its threshold, or add one",
    "dropped_no_route": "ip route get RIP; add the route to the real server that is missing",
    "dropped_fragment": "iptables-save -t raw: LBQ-DEFRAG must be there; restart the director to put it in again",
    "dropped_truncated": "restart the director: its queue was set to copy less than whole packets",
    "dropped_boundary": "let the real server be another host, or use --mode nat for one on this host",
    "send_errors": "ip -s link: see that the device towards the real servers is up and not full",
    "scheduler_errors": "read the director's log: it has the scheduler's error",
}


@check(QUEUES)
def nfqueue(facts: Facts) -> Iterator[Finding]:
    """kernel and iptables can hand packets to a director"""
    for family, reason in facts.unsupported.items():
        what, _, cure = reason.partition("; ")
        yield Finding(f"packets of {FAMILY_NAMES[family]} cannot be queued: {what}",
                      "without it no packet reaches the director", cure or "apt install iptables")


@check(QUEUES, RULES)
def queue_bound(facts: Facts) -> Iterator[Finding]:
    """somebody is at the end of every queue that a rule sends packets to"""
    used = {int(number) for ruleset in facts.rulesets for (_, rule), _ in ruleset.hits.items()
            if " LBQ-" in rule and "--queue-bypass" not in rule for number in TO_QUEUE.findall(rule)}
    for number in sorted(used - set(facts.bound)):
        yield Finding(f"rules send packets to NFQUEUE {number}, and no program holds it",
                      "the kernel drops what it would queue, so the virtual services are closed",
                      "lbq cleanup, or start the director again" if DIRECTOR in facts.missing
                      else "restart the director (lbq stop, and start it)")


@check(DIRECTOR, QUEUES)
def queue_drops(facts: Facts) -> Iterator[Finding]:
    """the kernel's queue was not full lately"""
    yield from _overrun(facts, "queue_dropped",
                        "more packets came at once than the queue holds: the director is too slow, or was kept waiting",
                        "give it more processors (--workers N) or less to do (--data-path steer)")


@check(DIRECTOR, QUEUES)
def socket_overruns(facts: Facts) -> Iterator[Finding]:
    """the buffer of the queue's socket was not full lately"""
    yield from _overrun(facts, "user_dropped",
                        "the director did not read as fast as packets came, and the kernel dropped them",
                        "sysctl -w net.core.rmem_max=67108864 and restart the director; or --workers N, --data-path "
                        "steer")


def _overrun(facts: Facts, name: str, why: str, cure: str) -> Iterator[Finding]:
    lost = facts.lost(name)
    if lost:
        yield Finding(f"{DROPPED[name]}: {lost} packets lost since the director bound it, "
                      f"{facts.grown.get(name, 0)} in the last {facts.seconds:.1f} s", why, cure)


@check(DIRECTOR)
def losses(facts: Facts) -> Iterator[Finding]:
    """the director dropped no packet lately for a reason that has a cure"""
    for name, cure in CURES.items():
        lost = facts.lost(name)
        if lost:
            yield Finding(f"{lost} packets lost: {DROPPED[name]} ({name}; {facts.grown.get(name, 0)} in the last "
                          f"{facts.seconds:.1f} s)", "each is a packet that a client waited for", cure)


@check(DIRECTOR)
def kernel_races(facts: Facts) -> Iterator[Finding]:
    """the kernel is safe with as many queues as are in use"""
    for line in advice.queue_warnings(len(facts.queues), facts.release):
        what, _, cure = line.partition("; ")
        yield Finding(what, "nfnetlink_queue of these releases may use a packet that it has freed: the whole machine "
                      "stops", cure)
