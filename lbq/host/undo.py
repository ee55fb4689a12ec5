"""undo.json: what this network namespace looked like before lbq changed it.

The record is on disk before the first change is made, so a director that is killed at any moment can be
undone by ``lbq cleanup`` or by the next start.  A start over a crash keeps the *first* values: what it
finds changed now was changed by us.

A namespace's inode number, which names the folder, is used again once the namespace is gone, and a reboot
starts over.  Boot id and namespace cookie (unique until the next boot) tell such a stale record from ours.
"""
from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lbq.errors import HostError
from lbq.model import FAMILY_NAMES

NAME = "undo.json"
FAMILIES = set(FAMILY_NAMES.values())
SO_NETNS_COOKIE = getattr(socket, "SO_NETNS_COOKIE", 71)


@dataclass
class UndoRecord:
    """Everything needed to put a network namespace back as it was."""

    boot_id: str
    netns_cookie: int                   # 0: a kernel before 5.14 has none
    queue: int
    base_chains: dict[str, dict[str, list[str]]]    # nf_tables tables and base chains there before, by family
    programs: dict[str, str] = field(default_factory=dict)      # made the rules and can remove them, by family
    sysctls: dict[str, str] = field(default_factory=dict)
    addresses: list[list[str]] = field(default_factory=list)    # [address, device] pairs we added

    def is_whole(self) -> bool:
        """Return True when everything in it is of the type that it is used as."""
        return (isinstance(self.queue, int)
                and isinstance(self.base_chains, dict) and set(self.base_chains) == FAMILIES
                and all(isinstance(tables, dict) and all(map(_are_words, tables.values()))
                        for tables in self.base_chains.values())
                and isinstance(self.programs, dict) and set(self.programs) <= FAMILIES
                and _are_words([*self.programs.values()])
                and isinstance(self.sysctls, dict) and _are_words([*self.sysctls.values()])
                and isinstance(self.addresses, list) and all(map(_is_address_on_device, self.addresses)))

    def is_of_here_and_now(self) -> bool:
        """Return True when this record was written in this network namespace since the last boot."""
        return self.boot_id == boot_id() and self.netns_cookie == netns_cookie()


def _are_words(value) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_address_on_device(value) -> bool:
    return _are_words(value) and len(value) == 2 and is_address(value[0])


def is_address(value) -> bool:
    """Return True when *value* is an IPv4 or IPv6 address as text."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return isinstance(value, str)       # ipaddress takes integers, too


def boot_id() -> str:
    """Return the identity of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def netns_cookie() -> int:
    """Return the number that this network namespace has to itself until the next boot."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
        except OSError:
            return 0


def begin(queue: int, base_chains: dict[str, dict[str, list[str]]]) -> UndoRecord:
    """Return a record for this namespace and boot, of nothing changed yet."""
    return UndoRecord(boot_id(), netns_cookie(), queue, base_chains)


def load(directory: Path) -> UndoRecord | None:
    """Return the record in *directory* when it is whole and of this namespace and boot, else None."""
    try:
        record = UndoRecord(**json.loads((directory / NAME).read_text()))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None
    except OSError as error:
        raise HostError(f"cannot read {directory / NAME}: {error.strerror}; "
                        "remove it, then run `lbq cleanup`") from error
    return record if record.is_whole() and record.is_of_here_and_now() else None


def save(directory: Path, record: UndoRecord) -> None:
    """Write *record* so that a crash at any moment leaves the old or the new one, whole."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = directory / (NAME + ".new")
    with open(fresh, "w") as file:
        json.dump(asdict(record), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, directory / NAME)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(directory: Path) -> None:
    """Remove the record."""
    with contextlib.suppress(FileNotFoundError):
        (directory / NAME).unlink()
