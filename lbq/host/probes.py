"""Read-only questions whether this machine can run a director, each answered with the cure.

Nothing is tried out on the host's rules: the kernel says by itself which matches and targets it knows (and
loads their modules on that occasion), through the interface that iptables uses for the same question.
"""
from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from pathlib import Path

from lbq.errors import HostError, PermissionMissing, RulesNotApplied
from lbq.host import sets
from lbq.host.iptables import NFT, Iptables
from lbq.host.netlink import NETLINK_NETFILTER, ask, netfilter, number, text

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
MATCH, TARGET = 0, 1
EXTENSIONS = (      # kind, name, what it is for, module
    (TARGET, "NFQUEUE", "hands packets to lbq", "xt_NFQUEUE"),
    (MATCH, "set", "finds the packets of a service", "xt_set"),
    (TARGET, "CT", "keeps conntrack away from balanced packets", "xt_CT"),
    (MATCH, "socket", "has fragments reassembled", "xt_socket"),
)
NFNL_MSG_COMPAT_GET = 11 << 8
NFTA_COMPAT_NAME, NFTA_COMPAT_REV, NFTA_COMPAT_TYPE = 1, 2, 3
IPT_SO_GET_REVISION = {MATCH: 66, TARGET: 67}
XT_GET_REVISION = struct.Struct("=29sB")
NFPROTO_IPV4 = 2


def check(iptables: Iptables, tables: tuple[str, ...]) -> None:
    """Raise HostError for the first thing that rules in *tables* need and this machine lacks."""
    for kind, name, purpose, module in EXTENSIONS:
        if not extension_is_known(iptables.variant, kind, name):
            what = "target" if kind == TARGET else "match"
            raise HostError(f"this kernel has no iptables {what} {name}, which {purpose}; "
                            f"load its module (modprobe {module}) or use a kernel that has it")
    if not sets.type_is_known():
        raise HostError(f"this kernel has no IP sets of type {sets.SET_TYPE}; "
                        f"load the module (modprobe ip_set_hash_ipport) or use a kernel that has it")
    _check_tables(iptables, tables)


def check_permission() -> None:
    """Raise PermissionMissing unless this process may change rules and send raw packets."""
    held = int(_status_field("CapEff"), 16)
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        raise PermissionMissing(f"cannot change rules and queue packets: {' and '.join(missing)} missing; "
                                f"run lbq as root (sudo lbq …)")


def extension_is_known(variant: str, kind: int, name: str) -> bool:
    """Return True when the kernel's x_tables has the match or target *name*."""
    ask_kernel = _ask_nft if variant == NFT else _ask_legacy
    try:
        ask_kernel(kind, name)
    except OSError as error:
        return error.errno == errno.EPROTONOSUPPORT     # known, though not in revision 0
    return True


def _ask_nft(kind: int, name: str) -> None:
    body = text(NFTA_COMPAT_NAME, name) + number(NFTA_COMPAT_REV, 0) + number(NFTA_COMPAT_TYPE, kind)
    ask(NETLINK_NETFILTER, NFNL_MSG_COMPAT_GET, netfilter(NFPROTO_IPV4) + body)


def _ask_legacy(kind: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(XT_GET_REVISION.pack(name.encode(), 0), XT_GET_REVISION.size)
    length = ctypes.c_uint32(XT_GET_REVISION.size)
    option = IPT_SO_GET_REVISION[kind]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        if libc.getsockopt(sock.fileno(), socket.IPPROTO_IP, option, buffer, ctypes.byref(length)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _check_tables(iptables: Iptables, tables: tuple[str, ...]) -> None:
    """Refuse tables that hold what only nft can write: iptables-nft would refuse them in the middle."""
    for table in iptables.unreadable_tables():
        if table in tables:
            raise RulesNotApplied(f"{iptables.command()} cannot add rules to table {table}: it holds "
                                  f"rules that only nft can write; move those to a table of another name, "
                                  f"or try LBQ_IPTABLES_RESTORE=iptables-legacy-restore")


def _status_field(name: str) -> str:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.split()[1]
    return "0"


def free_pages() -> int:
    """Return how many pages of memory are free or hold buffers: what the automatic defences go by."""
    wanted = {"MemFree": 0, "Buffers": 0}
    with open("/proc/meminfo") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if name in wanted:
                wanted[name] = int(rest.split()[0]) * 1024
    return sum(wanted.values()) // os.sysconf("SC_PAGE_SIZE")
