"""One file per scheduler, named as ``ipvsadm -s`` names it; this file is only the registry.

A user's own scheduler is an entry point in the group ``lbq.schedulers``, or the class of that name in a file:
``path/to/file.py:ClassName``.  It need not be compiled, but it must be a subclass of ``base.Scheduler``.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module

from lbq.errors import UnknownScheduler
from lbq.model import SCHED1, SCHED2, SCHED3
from lbq.schedulers.base import Scheduler

BUILT_IN = {
    "rr": "lbq.schedulers.rr:RoundRobin",
    "wrr": "lbq.schedulers.wrr:WeightedRoundRobin",
    "lc": "lbq.schedulers.lc:LeastConnection",
    "wlc": "lbq.schedulers.wlc:WeightedLeastConnection",
    "sed": "lbq.schedulers.sed:ShortestExpectedDelay",
    "nq": "lbq.schedulers.nq:NeverQueue",
    "fo": "lbq.schedulers.fo:Failover",
    "ovf": "lbq.schedulers.ovf:Overflow",
    "dh": "lbq.schedulers.dh:DestinationHashing",
    "sh": "lbq.schedulers.sh:SourceHashing",
    "mh": "lbq.schedulers.mh:Maglev",
    "lblc": "lbq.schedulers.lblc:LocalityBasedLeastConnection",
    "lblcr": "lbq.schedulers.lblcr:LocalityBasedWithReplication",
    "twos": "lbq.schedulers.twos:PowerOfTwoChoices",
    "none": "lbq.schedulers.none:NoScheduler",
}
DEFAULT = "wlc"
GENERIC_FLAGS = {"flag-1": SCHED1, "flag-2": SCHED2, "flag-3": SCHED3}     # ipvsadm's, for any scheduler
FLAG_NAMES = {
    "sh": {"sh-fallback": SCHED1, "sh-port": SCHED2},
    "mh": {"mh-fallback": SCHED1, "mh-port": SCHED2},
}


def names() -> list[str]:
    """Return the names of all schedulers, built in and plugged in."""
    return sorted({*BUILT_IN, *(entry.name for entry in _plugged_in())})


def flag_names(scheduler: str) -> dict[str, int]:
    """Return the flags that *scheduler* understands, by name, with their bits in a service's flags."""
    return dict(FLAG_NAMES.get(scheduler, {}))


def flag_bits(scheduler: str) -> dict[str, int]:
    """Return all flags that a service with *scheduler* may have, by its own names for them and ipvsadm's."""
    return {**GENERIC_FLAGS, **flag_names(scheduler)}


def create(name: str) -> Scheduler:
    """Return a new scheduler called *name*, not yet bound to a service."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)()
    if name.endswith(".py") or ".py:" in name:
        return _from_file(name)
    for entry in _plugged_in(name=name):
        return _users_own(name, entry.load)
    raise UnknownScheduler(f"unknown scheduler {name!r}; lbq has {', '.join(names())}, "
                           "and your own as path/to/file.py:ClassName")


def _from_file(name: str) -> Scheduler:
    path, _, attribute = name.rpartition(":")
    if not attribute.isidentifier():
        raise _refusal(name, f"it does not say which class; write {path or name}:ClassName")
    if not os.path.isfile(path):
        raise _refusal(name, f"there is no file {path}")

    def load():
        module = {"__name__": "lbq_users_own", "__file__": path}
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), module)
        return module.get(attribute)

    return _users_own(name, load)


def _users_own(name: str, load: Callable) -> Scheduler:
    """Return an object of the class that *load* returns."""
    its_class = _attempt(name, load)
    if its_class is None:
        raise _refusal(name, "the file has no such class")
    if not isinstance(its_class, type) or not issubclass(its_class, Scheduler):
        raise _refusal(name, "it is not a subclass of lbq.schedulers.base.Scheduler")
    if its_class.schedule is Scheduler.schedule:
        raise _refusal(name, "it has no method schedule(self, service, flow)")
    scheduler = _attempt(name, its_class)
    scheduler.name = scheduler.name or name
    return scheduler


def _attempt(name: str, action: Callable):
    """Return what *action* returns; it runs a user's own code, where anything may be wrong."""
    try:
        return action()
    except (Exception, SystemExit) as error:
        raise _refusal(name, f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _refusal(name: str, why: str) -> UnknownScheduler:
    return UnknownScheduler(f"cannot load scheduler {name}: {why}")


def _plugged_in(**which):
    from importlib.metadata import entry_points  # 5 MB and 0.1 s that a built-in scheduler does not cost

    return entry_points(group="lbq.schedulers", **which)
