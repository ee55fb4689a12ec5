"""One file per scheduler, named as ``ipvsadm -s`` names it; this file is only the registry.

A user's own scheduler is an entry point in the group ``lbq.schedulers``; it need not be compiled.
"""
from __future__ import annotations

from importlib import import_module

from lbq.errors import UnknownScheduler
from lbq.schedulers.base import Scheduler

BUILT_IN = {
    "rr": "lbq.schedulers.rr:RoundRobin",
    "wrr": "lbq.schedulers.wrr:WeightedRoundRobin",
    "wlc": "lbq.schedulers.wlc:WeightedLeastConnection",
}
DEFAULT = "wlc"


def names() -> list[str]:
    """Return the names of all schedulers, built in and plugged in."""
    return sorted({*BUILT_IN, *(entry.name for entry in _plugged_in())})


def create(name: str) -> Scheduler:
    """Return a new scheduler called *name*, not yet bound to a service."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)()
    for entry in _plugged_in(name=name):
        return entry.load()()
    raise UnknownScheduler(f"unknown scheduler {name!r}; lbq has {', '.join(names())}")


def _plugged_in(**which):
    from importlib.metadata import entry_points  # 5 MB and 0.1 s that a built-in scheduler does not cost

    return entry_points(group="lbq.schedulers", **which)
