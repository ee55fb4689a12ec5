"""lbq.schedulers: the registry, and schedulers that users bring."""
from __future__ import annotations

import importlib.metadata

import pytest

import lbq.schedulers
from lbq.errors import UnknownScheduler
from lbq.model import TCP, Flow, RealServer, ServiceKey, VirtualService
from lbq.schedulers.base import Scheduler


class First(Scheduler):
    """A user's own scheduler, as plain as can be; it is never compiled."""

    name = "first"

    def schedule(self, service, flow):
        """Return the newest server."""
        return service.servers[0] if service.servers else None


class EntryPoint:
    """What importlib.metadata finds in another package."""

    name = "first"

    def load(self):
        """Return the class."""
        return First


@pytest.mark.parametrize("name", ["rr", "wrr", "wlc"])
def test_a_scheduler_calls_itself_what_ipvsadm_calls_it(name):
    assert lbq.schedulers.create(name).name == name
    assert name in lbq.schedulers.names()


def test_wlc_is_the_default():
    assert lbq.schedulers.DEFAULT == "wlc"


def test_each_service_has_its_own():
    assert lbq.schedulers.create("rr") is not lbq.schedulers.create("rr")


def test_an_unknown_scheduler_is_refused_with_the_known_ones():
    with pytest.raises(UnknownScheduler, match=r"'wcl'.*\brr\b.*\bwlc\b.*\bwrr\b"):
        lbq.schedulers.create("wcl")


def test_the_base_class_does_not_choose():
    with pytest.raises(NotImplementedError):
        Scheduler().schedule(VirtualService(ServiceKey(TCP, 1, 80)), Flow(TCP, 1, 2, 3, 4))


def test_a_users_own_scheduler_plugs_in(monkeypatch):
    def entry_points(group, name=None):
        assert group == "lbq.schedulers"
        return [EntryPoint()] if name in (None, "first") else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    scheduler = lbq.schedulers.create("first")
    service = VirtualService(ServiceKey(TCP, 1, 80), scheduler)
    server = RealServer(2, 80)
    service.add(server)

    assert "first" in lbq.schedulers.names()
    assert scheduler.schedule(service, Flow(TCP, 1, 2, 3, 4)) is server
