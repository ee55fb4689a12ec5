"""The lab: the topology of the LVS article in network namespaces, to try lbq in and to test it in.

``topology.Lab`` builds it, ``namespace.Namespace`` is one machine of it, ``web`` its web server,
``nat`` the tour that ``lbq lab nat`` gives.
"""
from __future__ import annotations

from lbq.errors import ConfigError


def main(mode: str, keep: bool = False, down: bool = False) -> int:
    """Run ``lbq lab MODE [--keep | --down]`` and return its exit status."""
    if mode != "nat":
        raise ConfigError(f"no lab for mode '{mode}'; there is one for nat: lbq lab nat")
    from lbq.lab import nat  # pyroute2 is heavy; nothing else of lbq needs it to start

    return nat.take_down() if down else nat.main(keep)
