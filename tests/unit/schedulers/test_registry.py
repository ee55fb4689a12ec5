"""lbq.schedulers: the registry, and schedulers that users bring."""
from __future__ import annotations

import importlib.metadata
import textwrap

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


THEIRS = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos", "none"]


@pytest.mark.parametrize("name", THEIRS)
def test_a_scheduler_calls_itself_what_ipvsadm_calls_it(name):
    assert lbq.schedulers.create(name).name == name
    assert name in lbq.schedulers.names()


def test_all_of_the_kernels_schedulers_are_here():
    assert sorted(lbq.schedulers.BUILT_IN) == sorted(THEIRS)


@pytest.mark.parametrize(("scheduler", "flags"), [
    ("sh", {"sh-fallback": 8, "sh-port": 16}), ("mh", {"mh-fallback": 8, "mh-port": 16}), ("wlc", {}), ("no-such", {}),
])
def test_only_the_hashing_schedulers_have_flags(scheduler, flags):
    assert lbq.schedulers.flag_names(scheduler) == flags


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


def test_a_plugged_in_scheduler_that_cannot_be_loaded_is_one_line(monkeypatch):
    class Broken(EntryPoint):
        def load(self):
            raise ImportError("no module named 'their_library'\nand a second line")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group, name=None: [Broken()])

    with pytest.raises(UnknownScheduler) as refused:
        lbq.schedulers.create("first")
    assert str(refused.value) == ("cannot load scheduler first: ImportError: no module named 'their_library' "
                                  "and a second line")


@pytest.fixture
def file(tmp_path):
    """Return a function that writes a user's own scheduler and returns the file's path."""
    def write(text: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text("from lbq.schedulers.base import Scheduler\n" + textwrap.dedent(text))
        return str(path)

    return write


OLDEST = """
    class Oldest(Scheduler):
        def schedule(self, service, flow):
            return service.servers[-1]
"""


def test_a_users_own_scheduler_comes_out_of_a_file(file):
    name = f"{file(OLDEST)}:Oldest"
    scheduler = lbq.schedulers.create(name)
    service = VirtualService(ServiceKey(TCP, 1, 80), scheduler)
    for address in (2, 3):
        service.add(RealServer(address, 80))

    assert scheduler.schedule(service, Flow(TCP, 1, 2, 3, 4)).address == 2
    assert scheduler.name == name


def test_a_users_own_scheduler_may_name_itself_and_build_on_lbqs(file):
    path = file("""
        from lbq.schedulers.wlc import WeightedLeastConnection

        class Mine(WeightedLeastConnection):
            name = "mine"

            def schedule(self, service, flow):
                return super().schedule(service, flow)

        class Heir(WeightedLeastConnection):
            pass
    """)

    assert lbq.schedulers.create(f"{path}:Mine").name == "mine"
    assert lbq.schedulers.create(f"{path}:Heir").name == "wlc"


def test_an_edited_file_is_read_anew(file):
    name = f"{file(OLDEST)}:Oldest"
    lbq.schedulers.create(name)
    file(OLDEST.replace("servers[-1]", "servers[0]"))
    scheduler = lbq.schedulers.create(name)
    service = VirtualService(ServiceKey(TCP, 1, 80), scheduler)
    for address in (2, 3):
        service.add(RealServer(address, 80))

    assert scheduler.schedule(service, Flow(TCP, 1, 2, 3, 4)).address == 3


def test_nothing_is_written_beside_a_users_file(file, tmp_path):
    lbq.schedulers.create(f"{file(OLDEST)}:Oldest")

    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(("text", "attribute", "why"), [
    (OLDEST, "Newest", "the file has no such class"),
    (OLDEST, "", "it does not say which class; write {path}:ClassName"),
    (OLDEST, "not a name", "it does not say which class; write {path}:ClassName"),
    ("Mine = 3", "Mine", "it is not a subclass of lbq.schedulers.base.Scheduler"),
    ("class Mine:\n    def schedule(self, service, flow):\n        return None", "Mine",
     "it is not a subclass of lbq.schedulers.base.Scheduler"),
    ("class Mine(Scheduler):\n    pass", "Mine", "it has no method schedule(self, service, flow)"),
    ("class Mine(Scheduler:", "Mine", "SyntaxError: "),
    ("import no_such_module", "Mine", "ModuleNotFoundError: No module named 'no_such_module'"),
    ("raise SystemExit(3)", "Mine", "SystemExit: 3"),
    ("raise ValueError('two\\nlines')", "Mine", "ValueError: two lines"),
    (OLDEST.replace("def schedule(", "def __init__(self, more):\n            pass\n\n        def schedule("), "Oldest",
     "TypeError: "),
    ("\0", "Mine", ": source code string cannot contain null bytes"),
])
def test_what_is_wrong_with_a_users_file_is_one_line(file, text, attribute, why):
    path = file(text)
    with pytest.raises(UnknownScheduler) as refused:
        lbq.schedulers.create(f"{path}:{attribute}")

    message = str(refused.value)
    assert message.startswith(f"cannot load scheduler {path}:{attribute}: ")
    assert why.format(path=path) in message
    assert "\n" not in message


def test_a_file_without_a_class_is_refused(file):
    path = file(OLDEST)

    with pytest.raises(UnknownScheduler, match=r"which class; write .*mine\.py:ClassName"):
        lbq.schedulers.create(path)


@pytest.mark.parametrize("name", ["no/such/file.py:Mine", ".py:Mine"])
def test_a_file_that_is_not_there_is_refused(name):
    with pytest.raises(UnknownScheduler) as refused:
        lbq.schedulers.create(name)

    assert str(refused.value) == f"cannot load scheduler {name}: there is no file {name.removesuffix(':Mine')}"
