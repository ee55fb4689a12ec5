"""Which NFQUEUE numbers a director has: for each of its workers one, and one more where the kernel rewrites packets."""
from __future__ import annotations

from dataclasses import dataclass

LAST = 65535
MOST_WORKERS = 64


@dataclass(frozen=True)
class Queues:
    """The numbers from *first* on: the workers' queues of whole packets, behind them those of headers."""

    first: int
    workers: int = 1

    @property
    def whole(self) -> range:
        """Return the numbers of the queues whose packets come whole, by worker."""
        return range(self.first, self.first + self.workers)

    @property
    def headers(self) -> range:
        """Return the numbers of those of which only headers come (``--data-path steer``, ``offload``)."""
        return range(self.whole.stop, self.whole.stop + self.workers)

    @property
    def all(self) -> range:
        """Return both, whether or not packets go there."""
        return range(self.first, self.headers.stop)
