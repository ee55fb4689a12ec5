"""A user's own scheduler, as bad as one can be but the same every time; loaded by its path, as by ``--scheduler``."""
from __future__ import annotations

from lbq.errors import ServiceError
from lbq.model import RealServer
from lbq.schedulers.base import Scheduler

SOMEBODY = []       # servers of other services, and deleted ones


class Nasty(Scheduler):
    """Choose well, choose what nobody may choose, or fail, as the client's address and port say."""

    name = "nasty"

    def schedule(self, service, flow):
        """Return a server, as a rule."""
        SOMEBODY[:] = [*SOMEBODY[-9:], *service.servers[:1]]
        what = (flow.caddr + flow.cport + flow.vport) % 12
        if what == 0:
            raise ValueError(f"nothing for {flow.caddr}")
        if what == 1:
            raise SystemExit(1)
        if what == 2:
            raise KeyboardInterrupt
        answers = {3: None, 4: "192.168.20.1", 5: 7, 6: SOMEBODY[0] if SOMEBODY else None,
                   7: RealServer(flow.caddr, flow.cport), 8: self}
        return answers.get(what, service.servers[flow.cport % len(service.servers)] if service.servers else None)

    def server_added(self, service, server):
        """Take no server when there are three."""
        if len(service.servers) > 3:
            raise ServiceError("too many")

    def server_removed(self, service, server):
        """Fail every other time."""
        if len(service.servers) % 2:
            raise ServiceError("come back")

    def server_changed(self, service, server):
        """Fail when the weight is even."""
        if server.weight % 2 == 0:
            raise ServiceError("not so")

    def tick(self, service, now_ns):
        """Fail at once in every other second, in the others after a few steps, or return what is no iterator."""
        second = now_ns // 1_000_000_000
        if second % 2:
            raise ServiceError("not now")
        return second if second % 3 == 0 else self.steps(service, second % 5)

    def steps(self, service, count):
        """Take some steps and fail."""
        for _ in range(count):
            SOMEBODY[:] = [*SOMEBODY[-9:], *service.servers[-1:]]
            yield
        raise SystemExit(1)


class Deadly(Nasty):
    """End the program instead of taking a second server."""

    def server_added(self, service, server):
        """Take one server."""
        if len(service.servers) > 1:
            raise SystemExit(1)
