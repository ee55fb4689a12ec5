"""Put a network namespace back as it was: rules, sets, empty tables, addresses, sysctls.

"As it was" means that iptables-save, ``nft list ruleset``, the sets and /proc/sys are the same but for
comments and counters.  Two things cannot be had: iptables-legacy's tables stay loaded once they were used
(the kernel unloads them with the namespace), empty and without effect; and empty nf_tables tables stay
while another program has a queue bound.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lbq.errors import HostError, RulesNotApplied
from lbq.grammar import parse_address
from lbq.host import addresses, flows, iptables, nftables, rules, sysctl, undo
from lbq.host.netlink import BITS
from lbq.host.offloading import Offloading
from lbq.host.sets import set_named
from lbq.host.steering import Steering
from lbq.model import AF_INET, AF_INET6, FAMILY_NAMES
from lbq.netlink import bound_queues


def cleanup(directory: Path) -> list[str]:
    """Undo what a killed director left in this network namespace; return lines that say what was done.

    The caller holds ``lock`` in *directory*: a running director is not to be cleaned away.
    """
    record = undo.load(directory)
    lines = undo_all(record) if record is not None else _remove_unrecorded()
    undo.discard(directory)
    return lines


def undo_all(record: undo.UndoRecord, own: range = range(0)) -> list[str]:
    """Undo all of *record*; a step that fails does not keep the others from being done."""
    return _do_all([*(step for family in FAMILY_NAMES for step in _steps(record, family, own)),
                    lambda: _restore_sysctls(record, sysctl.EITHER)])


def undo_family(record: undo.UndoRecord, family: int, own: range) -> list[str]:
    """Undo what was done for one *family*, and take it out of *record*."""
    lines = _do_all(_steps(record, family, own))
    record.programs.pop(FAMILY_NAMES[family], None)
    record.sysctls = {key: value for key, value in record.sysctls.items() if sysctl.family_of(key) != family}
    record.addresses = [entry for entry in record.addresses if parse_address(entry[0])[1] != family]
    return lines


def _steps(record: undo.UndoRecord, family: int, own: range) -> list[Callable[[], list[str]]]:
    program = record.programs.get(FAMILY_NAMES[family])
    of_rules: list[Callable[[], list[str]]] = [] if program is None else [
        lambda: remove_rules(iptables.Iptables(program), family),
        lambda: _stop_kernel(Steering(family), own),
        lambda: _stop_kernel(Offloading(family), own),
        lambda: _end_flows(family),
        lambda: _destroy_sets(family),
        lambda: _remove_empty_tables(record, family, own),
    ]
    return [*of_rules,
            lambda: _remove_addresses(record, family),
            lambda: _restore_sysctls(record, family)]


def _restore_sysctls(record: undo.UndoRecord, family: int) -> list[str]:
    return sysctl.restore({key: value for key, value in record.sysctls.items() if sysctl.family_of(key) == family})


def _do_all(steps: list[Callable[[], list[str]]]) -> list[str]:
    """Do every step, and only then tell of those that failed."""
    lines: list[str] = []
    failures: list[str] = []
    for step in steps:
        try:
            lines += step()
        except (HostError, OSError) as error:
            failures.append(str(error))
    if failures:
        raise RulesNotApplied(f"cannot undo everything: {'; '.join(failures)}; then run `lbq cleanup`")
    return lines


def leave_variant(record: undo.UndoRecord, family: int, own: range) -> list[str]:
    """Take a killed director's rules out of the variant of iptables that the new one does not use."""
    lines = remove_rules(iptables.Iptables(record.programs[FAMILY_NAMES[family]]), family)
    return lines + _remove_empty_tables(record, family, own)


def remove_rules(tables: iptables.Iptables, family: int) -> list[str]:
    """Remove our chains and the jumps to them."""
    for table in tables.unreadable_tables():
        if nftables.holds_chain(family, table, rules.CHAINS.get(table, ())):
            raise RulesNotApplied(f"{tables.command()} cannot take lbq's rules out of table {table}: "
                                  f"somebody put rules there that only nft can write; move those away")
    text = rules.removal_text(rules.parse(tables.save()))
    if not text:
        return []
    tables.restore(text)
    return [f"{tables.command()} rules removed"]


def _others(own: range) -> list[int]:
    """Return the numbers of the queues that other programs in this namespace have bound; *own* are ours."""
    return [number for number in bound_queues() if number not in own]


def _stop_kernel(part: Steering | Offloading, own: range = range(0)) -> list[str]:
    """Remove the chains that rewrite; while another program has a queue bound, they only lose what is in them."""
    others = _others(own)
    if others and part.empty():
        return [f"the table {part.table} is empty but stays: queue {others[0]} is in use, and removing it would "
                "drop its packets"]
    return [f"table {part.table} removed"] if part.take_out() else []


def _end_flows(family: int) -> list[str]:
    """Have conntrack forget the flows to offloaded services; without rules no new ones begin."""
    services = set_named(rules.SETS[family].offload_vip, family).members()
    if not services:
        return []
    count = flows.forget(family, lambda flow: flow.is_translated and (flow.protocol, flow.vip, flow.vport) in services)
    return [f"flows of offloaded services that end: {count}"]


def _destroy_sets(family: int) -> list[str]:
    return [f"set {name} is empty but stays: a rule that is not lbq's uses it"
            for name in rules.SETS[family] if not set_named(name, family).destroy()]


def _remove_empty_tables(record: undo.UndoRecord, family: int, own: range) -> list[str]:
    """Delete the nf_tables tables that iptables-nft made for us, when nothing else is in them.

    Deleting a base chain drops what waits in *any* queue of the namespace, so while another program has a
    queue bound they stay: they hold no rule and do nothing.
    """
    name = FAMILY_NAMES[family]
    if iptables.Iptables(record.programs[name]).variant != iptables.NFT:
        return []
    before = record.base_chains[name]
    others = _others(own)
    if others and nftables.newcomers(family, before, rules.TABLES):
        return [f"empty tables stay: queue {others[0]} is in use, and removing them would drop its packets"]
    return [f"empty table {nftables.NAMES[family]} {table} removed"
            for table in nftables.delete_newcomers(family, before, rules.TABLES)]


def _remove_addresses(record: undo.UndoRecord, family: int) -> list[str]:
    lines = []
    for text, device in record.addresses:
        address, its_family = parse_address(text)
        if its_family == family and addresses.remove(address, family, device):
            lines.append(f"{text}/{BITS[family]} removed from {device}")
    return lines


def _remove_unrecorded() -> list[str]:
    """Remove rules and sets by their names alone: somebody has deleted undo.json."""
    lines = []
    for family in (AF_INET, AF_INET6):
        lines += [line for tables in iptables.installed(family) for line in remove_rules(tables, family)]
        lines += _stop_kernel(Steering(family)) + _stop_kernel(Offloading(family))
        lines += _end_flows(family)
        lines += _destroy_sets(family)
    return lines
