"""How long does the choice of a server take?  Microseconds of a round are nanoseconds a choice."""
from __future__ import annotations

import pytest

from lbq.model import Flow, RealServer, ServiceKey, VirtualService
from lbq.schedulers import create

FLOW = Flow(6, 0x0A000001, 40000, 0x0A000101, 80)


def service_of(scheduler: str, servers: int) -> VirtualService:
    """Return a service whose servers have different weights and loads."""
    service = VirtualService(ServiceKey(6, 0x0A000101, 80), create(scheduler))
    for number in range(servers):
        server = RealServer(0x0A000201 + number, 80, weight=1 + number % 3)
        server.active_conns = 1000 + number * 37 % 101
        server.inactive_conns = 5000 + number * 53 % 499
        service.add(server)
    return service


@pytest.mark.parametrize("servers", [4, 16, 64])
@pytest.mark.parametrize("scheduler", ["rr", "wrr", "wlc"])
def test_schedule(benchmark, loops, scheduler, servers):
    service = service_of(scheduler, servers)

    benchmark(loops.schedule, service.scheduler, service, FLOW)

    assert service.scheduler.schedule(service, FLOW) in service.servers
