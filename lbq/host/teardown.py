"""Put a network namespace back as it was: rules, sets, empty tables, addresses, sysctls.

"As it was" means that iptables-save, ``nft list ruleset``, the sets and /proc/sys are the same but for
comments and counters.  Two things cannot be had: iptables-legacy's tables stay loaded once they were used
(the kernel unloads them with the namespace), empty and without effect; and empty nf_tables tables stay
while another program has a queue bound.
"""
from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

from lbq.errors import HostError, RulesNotApplied
from lbq.host import addresses, iptables, nftables, rules, sysctl, undo
from lbq.host.sets import set_named

QUEUES = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")


def cleanup(directory: Path) -> list[str]:
    """Undo what a killed director left in this network namespace; return lines that say what was done.

    The caller holds ``lock`` in *directory*: a running director is not to be cleaned away.
    """
    record = undo.load(directory)
    lines = undo_all(record) if record is not None else _remove_unrecorded()
    undo.discard(directory)
    return lines


def undo_all(record: undo.UndoRecord, own_queue: int | None = None) -> list[str]:
    """Undo all of *record*; a step that fails does not keep the others from being done."""
    lines: list[str] = []
    failures: list[str] = []
    steps: list[Callable[[], list[str]]] = [
        lambda: remove_rules(iptables.Iptables(record.iptables_restore)),
        _destroy_sets,
        lambda: _remove_empty_tables(record, own_queue),
        lambda: _remove_addresses(record),
        lambda: sysctl.restore(record.sysctls),
    ]
    for step in steps:
        try:
            lines += step()
        except (HostError, OSError) as error:
            failures.append(str(error))
    if failures:
        raise RulesNotApplied(f"cannot undo everything: {'; '.join(failures)}; then run `lbq cleanup`")
    return lines


def leave_variant(record: undo.UndoRecord, own_queue: int) -> list[str]:
    """Take a killed director's rules out of the variant of iptables that the new one does not use."""
    lines = remove_rules(iptables.Iptables(record.iptables_restore))
    return lines + _remove_empty_tables(record, own_queue)


def remove_rules(tables: iptables.Iptables) -> list[str]:
    """Remove our chains and the jumps to them."""
    for table in tables.unreadable_tables():
        if nftables.holds_chain(table, rules.CHAINS.get(table, ())):
            raise RulesNotApplied(f"{tables.command()} cannot take lbq's rules out of table {table}: "
                                  f"somebody put rules there that only nft can write; move those away")
    text = rules.removal_text(rules.parse(tables.save()))
    if not text:
        return []
    tables.restore(text)
    return [f"{tables.command()} rules removed"]


def bound_queues() -> list[int]:
    """Return the numbers of the queues that programs in this namespace have bound."""
    try:
        return [int(line.split()[0]) for line in QUEUES.read_text().splitlines()]
    except FileNotFoundError:
        return []


def _destroy_sets() -> list[str]:
    return [f"set {name} is empty but stays: a rule that is not lbq's uses it"
            for name in rules.SETS if not set_named(name).destroy()]


def _remove_empty_tables(record: undo.UndoRecord, own_queue: int | None) -> list[str]:
    """Delete the nf_tables tables that iptables-nft made for us, when nothing else is in them.

    Deleting a base chain drops what waits in *any* queue of the namespace, so while another program has a
    queue bound they stay: they hold no rule and do nothing.
    """
    if iptables.Iptables(record.iptables_restore).variant != iptables.NFT:
        return []
    others = [number for number in bound_queues() if number != own_queue]
    if others and nftables.newcomers(record.base_chains, rules.TABLES):
        return [f"empty tables stay: queue {others[0]} is in use, and removing them would drop its packets"]
    return [f"empty table ip {table} removed"
            for table in nftables.delete_newcomers(record.base_chains, rules.TABLES)]


def _remove_addresses(record: undo.UndoRecord) -> list[str]:
    return [f"{address}/32 removed from {device}" for address, device in record.addresses
            if addresses.remove(int(ipaddress.IPv4Address(address)), device)]


def _remove_unrecorded() -> list[str]:
    """Remove rules and sets by their names alone: somebody has deleted undo.json."""
    lines = [line for tables in iptables.installed() for line in remove_rules(tables)]
    return lines + _destroy_sets()
