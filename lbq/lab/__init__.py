"""The lab: the topology of the LVS article in network namespaces, to try lbq in and to test it in.

``topology.Lab`` builds it, ``namespace.Namespace`` is one machine of it, ``web`` its web server,
``routed`` the networks of DR and TUN, ``signals`` how Ctrl-C ends it, ``tour`` the tour that ``lbq lab`` gives,
``report`` the page that it writes about one request, ``exercises`` labs that are broken.
"""
from __future__ import annotations

from pathlib import Path

from lbq.errors import ConfigError

MODES = ("nat", "dr", "tun")


def exercise(mode: str, number: int, ask: str | None) -> int:
    """Run ``lbq lab MODE --exercise N [--check | --hint | --solution]`` and return its exit status."""
    if mode not in MODES:
        raise ConfigError(f"no lab for mode '{mode}'; there are {', '.join(MODES)}")
    from lbq.lab import exercises

    if ask == "check":
        return exercises.report(mode, number)
    return exercises.tell(mode, number, ask) if ask else exercises.begin(mode, number)


def main(mode: str, keep: bool = False, down: bool = False, report: str | None = None, only: bool = False,
         bare: bool = False) -> int:
    """Run ``lbq lab MODE [--keep | --bare | --down] [--report FILE [--only]]`` and return its exit status."""
    if mode not in MODES:
        raise ConfigError(f"no lab for mode '{mode}'; there are {', '.join(MODES)}")
    if down and report is not None:
        raise ConfigError("--down takes a lab down, which then has nothing to report; say one of --down and --report")
    if bare and report is not None:
        raise ConfigError("--bare sends no request that a report could show; say one of --bare and --report")
    if only and report is None:
        raise ConfigError("--only narrows a report down to one lab; say --report FILE, too")
    from lbq.lab import tour  # pyroute2 is heavy; nothing else of lbq needs it to start

    if down:
        return tour.take_down(mode)
    others = () if report is None or only else tuple(other for other in MODES if other != mode)
    return tour.main(mode, keep, None if report is None else Path(report), others, bare)
