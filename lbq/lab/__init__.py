"""The lab: the topology of the LVS article in network namespaces, to try lbq in and to test it in.

``topology.Lab`` builds it, ``namespace.Namespace`` is one machine of it, ``web`` its web server,
``routed`` the networks of DR and TUN, ``signals`` how Ctrl-C ends it, ``tour`` the tour that ``lbq lab`` gives.
"""
from __future__ import annotations

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


def main(mode: str, keep: bool = False, down: bool = False) -> int:
    """Run ``lbq lab MODE [--keep | --down]`` and return its exit status."""
    if mode not in MODES:
        raise ConfigError(f"no lab for mode '{mode}'; there are {', '.join(MODES)}")
    from lbq.lab import tour  # pyroute2 is heavy; nothing else of lbq needs it to start

    return tour.take_down(mode) if down else tour.main(mode, keep)
