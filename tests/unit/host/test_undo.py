"""The undo record survives the disk, and is believed only in its own namespace and boot."""
from __future__ import annotations

import dataclasses

import pytest

from lbq.errors import HostError
from lbq.host import undo


@pytest.fixture
def record():
    """A record of this namespace with everything in it."""
    record = undo.begin(3, {"inet": {"raw": ["PREROUTING"], "mangle": []}, "inet6": {}})
    record.programs["inet"] = "/usr/sbin/iptables-nft-restore"
    record.sysctls["net/ipv4/ip_forward"] = "0"
    record.addresses.append(["192.168.10.1", "eth0"])
    return record


def test_a_record_comes_back_as_it_was_written(tmp_path, record):
    undo.save(tmp_path / "new" / "folder", record)

    assert undo.load(tmp_path / "new" / "folder") == record


def test_saving_again_replaces_the_record_and_leaves_no_other_file(tmp_path, record):
    undo.save(tmp_path, record)
    record.sysctls["net/ipv4/conf/all/send_redirects"] = "1"
    undo.save(tmp_path, record)

    assert undo.load(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["undo.json"]


@pytest.mark.parametrize("change", [{"boot_id": "another"}, {"netns_cookie": 1}])
def test_a_foreign_record_is_not_believed(tmp_path, record, change):
    undo.save(tmp_path, dataclasses.replace(record, **change))

    assert undo.load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"queue": 0}', '{"future": 1}', "\x00\xff", "[" * 100_000])
def test_a_damaged_record_is_not_believed(tmp_path, text):
    (tmp_path / "undo.json").write_text(text)

    assert undo.load(tmp_path) is None


@pytest.mark.parametrize("change", [
    {"queue": "0"}, {"programs": None}, {"programs": {"inet": None}}, {"programs": {"ipx": "iptables-restore"}},
    {"base_chains": []}, {"base_chains": {"inet": {}}}, {"base_chains": {"inet": {}, "inet6": {"raw": "PREROUTING"}}},
    {"sysctls": {"net/ipv4/ip_forward": 0}}, {"sysctls": None}, {"addresses": [["192.168.10.1"]]},
    {"addresses": [["192.168.10.256", "eth0"]]}, {"addresses": [["192.168.10.1", 2]]}, {"addresses": "none"}])
def test_a_record_that_cannot_be_undone_is_not_believed(tmp_path, record, change):
    undo.save(tmp_path, dataclasses.replace(record, **change))

    assert undo.load(tmp_path) is None


def test_a_record_that_cannot_be_read_is_told_of(tmp_path):
    (tmp_path / "undo.json").mkdir()

    with pytest.raises(HostError, match=r"cannot read .*undo\.json: Is a directory; remove it"):
        undo.load(tmp_path)


def test_no_record_is_no_error(tmp_path):
    undo.discard(tmp_path)

    assert undo.load(tmp_path) is None
