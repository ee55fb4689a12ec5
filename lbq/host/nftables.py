"""The nf_tables objects behind iptables-nft: which base chains there are, and taking empty ones away.

``iptables-nft`` makes the table and the base chains (``ip raw``, ``ip6 mangle``) that a rule needs, and never
removes them.  Leaving them would not be "as before", so this file remembers what was there and afterwards
deletes what is new *and* empty.  The kernel does the checking: NLM_F_NONREC refuses to delete anything
that still holds a rule, so a rule somebody added meanwhile is never lost.

The ``nft`` program is not needed.  Kernel: include/uapi/linux/netfilter/nf_tables.h, nf_tables_compat.h
"""
from __future__ import annotations

import errno
from typing import NamedTuple

from lbq.host.netlink import (
    NETLINK_NETFILTER,
    NLM_F_DUMP,
    NLM_F_NONREC,
    ask,
    netfilter,
    text,
    transact,
    walk,
)
from lbq.model import AF_INET, AF_INET6

NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETTABLE, NFT_MSG_DELTABLE = NFNL_SUBSYS_NFTABLES << 8 | 1, NFNL_SUBSYS_NFTABLES << 8 | 2
NFT_MSG_GETCHAIN, NFT_MSG_DELCHAIN = NFNL_SUBSYS_NFTABLES << 8 | 4, NFNL_SUBSYS_NFTABLES << 8 | 5
NFTA_TABLE_NAME = 1
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_USE = 1, 3, 4, 5, 6
NFTA_HOOK_HOOKNUM = 1
NFPROTO_INET = 1            # those of one family are numbered as AF_INET and AF_INET6
NAMES = {AF_INET: "ip", AF_INET6: "ip6"}
NF_INET_FORWARD = 2
NF_DROP, NF_ACCEPT = 0, 1
IPTABLES_OWN = ("raw", "mangle", "nat", "filter", "security")

BaseChains = dict[str, list[str]]       # the base chains of each table


class BaseChain(NamedTuple):
    """A chain that hangs in one of the kernel's hooks."""

    table: str
    name: str
    hook: int
    policy: int
    rules: int


def base_chains(family: int) -> list[BaseChain]:
    """Return the base chains of *family*; none when this kernel has no nf_tables."""
    found = []
    for body in _dump(NFT_MSG_GETCHAIN, family):
        chain = dict(walk(body[4:]))
        if NFTA_CHAIN_HOOK in chain:
            hook = dict(walk(chain[NFTA_CHAIN_HOOK]))[NFTA_HOOK_HOOKNUM]
            found.append(BaseChain(_text(chain[NFTA_CHAIN_TABLE]), _text(chain[NFTA_CHAIN_NAME]),
                                   _number(hook), _number(chain[NFTA_CHAIN_POLICY]),
                                   _number(chain[NFTA_CHAIN_USE])))
    return found


def holds_chain(family: int, table: str, names: tuple[str, ...]) -> bool:
    """Return True when the *table* of *family* has one of the chains *names*."""
    chains = [dict(walk(body[4:])) for body in _dump(NFT_MSG_GETCHAIN, family)]
    return any(_text(chain[NFTA_CHAIN_TABLE]) == table and _text(chain[NFTA_CHAIN_NAME]) in names
               for chain in chains)


def tables(family: int) -> list[str]:
    """Return the names of the tables of *family*."""
    return [_text(dict(walk(body[4:]))[NFTA_TABLE_NAME]) for body in _dump(NFT_MSG_GETTABLE, family)]


def snapshot(family: int) -> BaseChains:
    """Return the tables of *family* there are now with their base chains."""
    found: BaseChains = {table: [] for table in tables(family)}
    for chain in base_chains(family):
        found.setdefault(chain.table, []).append(chain.name)
    return found


def newcomers(family: int, before: BaseChains, candidates: tuple[str, ...]) -> list[BaseChain]:
    """Return the empty base chains in the tables *candidates* that were not there *before*."""
    return [chain for chain in base_chains(family)
            if chain.table in candidates and chain.name not in before.get(chain.table, [])
            and chain.rules == 0 and chain.policy == NF_ACCEPT]


def delete_newcomers(family: int, before: BaseChains, candidates: tuple[str, ...]) -> list[str]:
    """Delete empty base chains and tables that were not there *before*; return the tables gone."""
    for chain in newcomers(family, before, candidates):
        _delete(family, NFT_MSG_DELCHAIN, text(NFTA_CHAIN_TABLE, chain.table) + text(NFTA_CHAIN_NAME, chain.name))
    new = [table for table in tables(family) if table in candidates and table not in before]
    return [table for table in new if _delete(family, NFT_MSG_DELTABLE, text(NFTA_TABLE_NAME, table))]


def foreign_forward_drops(family: int) -> list[str]:
    """Return the tables, beside those of iptables, whose policy for forwarded packets of *family* is drop."""
    names = [f"{NAMES[family]} {chain.table}" for chain in base_chains(family)
             if chain.table not in IPTABLES_OWN and _drops_forwarded(chain)]
    return names + [f"inet {chain.table}" for chain in base_chains(NFPROTO_INET) if _drops_forwarded(chain)]


def _drops_forwarded(chain: BaseChain) -> bool:
    return chain.hook == NF_INET_FORWARD and chain.policy == NF_DROP


def _delete(family: int, kind: int, body: bytes) -> bool:
    try:
        transact(NFNL_SUBSYS_NFTABLES, [(kind, NLM_F_NONREC, netfilter(family) + body)])
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOENT):      # a rule came in meanwhile, or somebody was faster
            return False
        raise
    return True


def _dump(kind: int, family: int) -> list[bytes]:
    try:
        return ask(NETLINK_NETFILTER, kind, netfilter(family), NLM_F_DUMP)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            return []
        raise


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")
