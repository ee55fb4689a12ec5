"""What is said at start of a kernel that several queues may crash, by the names that kernels have."""
from __future__ import annotations

import pytest

from lbq.host import advice, probes
from lbq.host.setup import HostSetup
from lbq.model import AF_INET6, ServiceKey
from lbq.queues import Queues


@pytest.mark.parametrize("release", [
    "6.12.75", "6.12.82", "6.18.14", "6.18.23", "6.19.4", "6.19.13",
    "6.12.80+deb13-amd64", "6.12.80+deb13+1-amd64", "6.12.75-1-MANJARO", "6.18.20-200.fc43.x86_64", "6.19.5-arch1-1",
    "6.12.76_1", "6.18.15.el10", "6.12.82+"])
def test_these_kernels_may_crash(release):
    assert probes.verdicts_race(release)


@pytest.mark.parametrize("release", [
    "6.12.74", "6.12.83", "6.18.13", "6.18.24", "6.19.3", "6.19.14", "6.12.74+deb13+1-amd64", "6.12.8", "6.12.750",
    "6.1.80", "6.6.80", "6.13.80", "7.0.5", "5.12.80", "16.12.80", "6.12.0-124.el10.x86_64", "6.8.0-80-generic"])
def test_these_do_not(release):
    assert not probes.verdicts_race(release)


@pytest.mark.parametrize("release", ["", "6.12", "6.12-rc7", "6.19.0-rc5", "6.12.x", "linux-6.12.80", "next-20260301"])
def test_a_name_that_tells_no_number_tells_nothing(release):
    assert not probes.verdicts_race(release)


def test_one_queue_is_safe_on_every_kernel():
    assert advice.queue_warnings(1, "6.12.80") == []


def test_two_queues_are_one_line_with_the_cure():
    (line,) = advice.queue_warnings(2, "6.12.80+deb13-amd64")

    assert "kernel 6.12.80+deb13-amd64 " in line and "CVE-2026-43084" in line
    assert "6.12.83 or newer" in line and "--data-path rewrite" in line


def test_a_cured_kernel_is_said_nothing_of():
    assert advice.queue_warnings(2, "6.12.83") == []


def test_a_steered_service_makes_two_queues(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "verdicts_race", lambda release: True)
    monkeypatch.setattr(advice.os, "uname", lambda: type("uname", (), {"release": "6.18.20"}))
    setup = HostSetup(tmp_path, Queues(0))

    assert setup.warnings() == []
    setup.stacks[AF_INET6].steered.add(ServiceKey(6, 1, 80, AF_INET6))
    assert [line.split(";")[0] for line in setup.warnings()] == [
        "kernel 6.18.20 may crash when several queues are in use (CVE-2026-43084), and 2 are"]
    assert "and 3 are" in HostSetup(tmp_path, Queues(0, 3)).warnings()[0]
