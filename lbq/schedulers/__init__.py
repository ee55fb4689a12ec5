"""One file per scheduler, named as ``ipvsadm -s`` names it; this file is only the registry.

A user's own scheduler is an entry point in the group ``lbq.schedulers``, or a class in a file that is named
``path/to/file.py:ClassName``; it need not be compiled.
"""
from __future__ import annotations

from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from lbq.errors import UnknownScheduler
from lbq.model import SCHED1, SCHED2
from lbq.schedulers.base import Scheduler

BUILT_IN = {
    "rr": "lbq.schedulers.rr:RoundRobin",
    "wrr": "lbq.schedulers.wrr:WeightedRoundRobin",
    "lc": "lbq.schedulers.lc:LeastConnection",
    "wlc": "lbq.schedulers.wlc:WeightedLeastConnection",
    "lblc": "lbq.schedulers.lblc:LocalityBasedLeastConnection",
    "lblcr": "lbq.schedulers.lblcr:LocalityBasedWithReplication",
    "dh": "lbq.schedulers.dh:DestinationHashing",
    "sh": "lbq.schedulers.sh:SourceHashing",
    "sed": "lbq.schedulers.sed:ShortestExpectedDelay",
    "nq": "lbq.schedulers.nq:NeverQueue",
    "fo": "lbq.schedulers.fo:Failover",
    "ovf": "lbq.schedulers.ovf:Overflow",
    "mh": "lbq.schedulers.mh:Maglev",
    "twos": "lbq.schedulers.twos:PowerOfTwoChoices",
}
FLAG_NAMES = {"sh": {"sh-fallback": SCHED1, "sh-port": SCHED2}, "mh": {"mh-fallback": SCHED1, "mh-port": SCHED2}}
DEFAULT = "wlc"


def names() -> list[str]:
    """Return the names of all schedulers, built in and plugged in."""
    return sorted({*BUILT_IN, *(entry.name for entry in _plugged_in())})


def create(name: str) -> Scheduler:
    """Return a new scheduler called *name*, not yet bound to a service."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)()
    if ".py:" in name:
        return _from_file(name)
    for entry in _plugged_in(name=name):
        return entry.load()()
    raise UnknownScheduler(f"unknown scheduler {name!r}; lbq has {', '.join(names())}")


def flag_names(scheduler: str) -> dict[str, int]:
    """Return the flags that *scheduler* understands, by name, with their bits in a service's flags."""
    return FLAG_NAMES.get(scheduler, {})


def _from_file(name: str) -> Scheduler:
    """Return a scheduler out of a user's own file, ``path/to/file.py:ClassName``."""
    path, _, attribute = name.rpartition(":")
    if not Path(path).is_file():
        raise UnknownScheduler(f"cannot load scheduler {name!r}: there is no file {path}")
    specification = spec_from_file_location(f"lbq_user_{Path(path).stem}", path)
    module = module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
        scheduler = getattr(module, attribute)()
    except Exception as error:      # it is the user's own code
        raise UnknownScheduler(f"cannot load scheduler {name!r}: {type(error).__name__}: {error}") from error
    if not isinstance(scheduler, Scheduler):
        raise UnknownScheduler(f"cannot load scheduler {name!r}: {attribute} is not a subclass of "
                               "lbq.schedulers.base.Scheduler")
    scheduler.name = scheduler.name or name
    return scheduler


def _plugged_in(**which):
    from importlib.metadata import entry_points  # 5 MB and 0.1 s that a built-in scheduler does not cost

    return entry_points(group="lbq.schedulers", **which)
