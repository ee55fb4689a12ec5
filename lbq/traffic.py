"""The counters of one service or one real server: live, as last shown, and as rates.

Kernel: ip_vs_est.c and ip_vs_copy_stats(): what is shown is what the estimator's last round, every two seconds, saw.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from lbq import estimator
from lbq.estimator import ROUND_NS

__all__ = ["ROUND_NS", "Counters", "Totals", "Traffic"]


@dataclass
class Counters:
    """Bytes are those of whole IP packets."""

    conns: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass
class Traffic:
    """What is counted for one thing; *zero* is where counting starts, *average* the estimator's scaled averages."""

    now: Counters = field(default_factory=Counters)
    shown: Counters = field(default_factory=Counters)
    zero: Counters = field(default_factory=Counters)
    average: Counters = field(default_factory=Counters)

    def count_in(self, length: int) -> None:
        """Count one packet of *length* bytes towards the server."""
        self.now.packets_in += 1
        self.now.bytes_in += length

    def count_out(self, length: int) -> None:
        """Count one packet of *length* bytes towards the client."""
        self.now.packets_out += 1
        self.now.bytes_out += length

    def estimate(self) -> None:
        """Take a snapshot and move the averages to it."""
        for name, value in asdict(self.now).items():
            step = estimator.byte_step if name.startswith("bytes") else estimator.count_step
            setattr(self.average, name, step(getattr(self.average, name), getattr(self.shown, name), value))
        self.shown = replace(self.now)

    def start_from_zero(self) -> None:
        """Make the last snapshot the zero point: what came since it still shows, as in the kernel."""
        self.zero = replace(self.shown)
        self.average = Counters()

    def row(self) -> dict:
        """Return what the listings show."""
        return {"stats": self._since_zero(self.now), "shown": self._since_zero(self.shown), "rates": {
            name: (estimator.byte_rate if name.startswith("bytes") else estimator.count_rate)(average)
            for name, average in asdict(self.average).items()}}

    def _since_zero(self, counters: Counters) -> dict:
        return {name: value - getattr(self.zero, name) for name, value in asdict(counters).items()}


@dataclass
class Totals(Traffic):
    """What is counted for all services together; *gone* are the counters of those that were deleted."""

    gone: Counters = field(default_factory=Counters)

    def forget(self, counters: dict[str, int]) -> None:
        """Keep the *counters* of a service that is being deleted."""
        self.gone = _sum([asdict(self.gone), counters])

    def see(self, services: Iterable[dict[str, int]]) -> None:
        """Let the counters of all services be those of now."""
        self.now = _sum([asdict(self.gone), *services])


def _sum(counters: list[dict[str, int]]) -> Counters:
    return Counters(**{name: sum(each[name] for each in counters) for name in asdict(Counters())})
