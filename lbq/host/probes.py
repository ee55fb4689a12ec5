"""Read-only questions whether this machine can run a director, each answered with the cure.

Nothing is tried out on the host's rules: the kernel says by itself which matches and targets it knows (and
loads their modules on that occasion), through the interface that iptables uses for the same question.
"""
from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import struct
from pathlib import Path

from lbq.errors import HostError, PermissionMissing, RulesNotApplied
from lbq.host import sets, sysctl
from lbq.host.iptables import NAMES, NFT, Iptables
from lbq.host.netlink import NETLINK_NETFILTER, ask, netfilter, number, text
from lbq.model import AF_INET, AF_INET6

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
MATCH, TARGET = 0, 1
EXTENSIONS = (      # kind, name, what it is for, module
    (TARGET, "NFQUEUE", "hands packets to lbq", "xt_NFQUEUE"),
    (MATCH, "set", "finds the packets of a service", "xt_set"),
    (TARGET, "CT", "keeps conntrack away from balanced packets", "xt_CT"),
    (MATCH, "socket", "has fragments reassembled", "xt_socket"),
)
U32 = MATCH, "u32", "shares packets among --workers", "xt_u32"
NFNL_MSG_COMPAT_GET = 11 << 8
NFTA_COMPAT_NAME, NFTA_COMPAT_REV, NFTA_COMPAT_TYPE = 1, 2, 3
# The option that asks for a revision: level, and number for a match and a target.
GET_REVISION = {AF_INET: (socket.IPPROTO_IP, (66, 67)), AF_INET6: (socket.IPPROTO_IPV6, (68, 69))}
XT_GET_REVISION = struct.Struct("=29sB")
# Releases whose nfnetlink_queue finds packets in a table that all queues share, and may find one that is freed: by
# branch, the first with the fault and the first without (e19079adcd26 came with it, 936206e3f6ff took it away).
RACING_VERDICTS = {(6, 12): (75, 83), (6, 18): (14, 24), (6, 19): (4, 14)}


def check_ipv6() -> None:
    """Raise HostError when this machine, or this network namespace, has no IPv6."""
    folders = [folder.name for folder in (sysctl.ROOT / sysctl.INTERFACES6).glob("*") if folder.name != "default"]
    if not folders:
        raise HostError("cannot balance IPv6: this machine has none; boot it without ipv6.disable=1, "
                        "or load the module (modprobe ipv6)")
    if all(sysctl.read(f"{sysctl.INTERFACES6}/{name}/disable_ipv6") == "1" for name in folders):
        raise HostError("cannot balance IPv6: it is switched off on every interface; switch it on "
                        "(sysctl net.ipv6.conf.all.disable_ipv6=0), and give this host its addresses")


def check(iptables: Iptables, tables: tuple[str, ...], family: int, *, several_workers: bool = False) -> None:
    """Raise HostError for the first thing that rules of *family* in *tables* need and this machine lacks."""
    for kind, name, purpose, module in (*EXTENSIONS, U32) if several_workers else EXTENSIONS:
        if not extension_is_known(iptables.variant, kind, name, family):
            what = "target" if kind == TARGET else "match"
            raise HostError(f"this kernel has no {NAMES[family]} {what} {name}, which {purpose}; "
                            f"load its module (modprobe {module}) or use a kernel that has it")
    if not sets.type_is_known(family):
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


def extension_is_known(variant: str, kind: int, name: str, family: int) -> bool:
    """Return True when the kernel's x_tables has the match or target *name*."""
    ask_kernel = _ask_nft if variant == NFT else _ask_legacy
    try:
        ask_kernel(kind, name, family)
    except OSError as error:
        return error.errno == errno.EPROTONOSUPPORT     # known, though not in revision 0
    return True


def _ask_nft(kind: int, name: str, family: int) -> None:
    body = text(NFTA_COMPAT_NAME, name) + number(NFTA_COMPAT_REV, 0) + number(NFTA_COMPAT_TYPE, kind)
    ask(NETLINK_NETFILTER, NFNL_MSG_COMPAT_GET, netfilter(family) + body)


def _ask_legacy(kind: int, name: str, family: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(XT_GET_REVISION.pack(name.encode(), 0), XT_GET_REVISION.size)
    length = ctypes.c_uint32(XT_GET_REVISION.size)
    level, options = GET_REVISION[family]
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        if libc.getsockopt(sock.fileno(), level, options[kind], buffer, ctypes.byref(length)):
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


def verdicts_race(release: str) -> bool:
    """Return True when verdicts on two queues at once may crash the kernel *release* (CVE-2026-43084).

    A distribution may have cured it without another number, or brought the fault to one of its own: nobody can tell.
    """
    named = re.match(r"(\d+)\.(\d+)\.(\d+)(?!\d)", release)
    if named is None:
        return False
    branch, patch = (int(named[1]), int(named[2])), int(named[3])
    first, cured = RACING_VERDICTS.get(branch, (0, 0))
    return first <= patch < cured


def free_pages() -> int:
    """Return how many pages of memory are free or hold buffers: what the automatic defences go by."""
    wanted = {"MemFree": 0, "Buffers": 0}
    with open("/proc/meminfo") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if name in wanted:
                wanted[name] = int(rest.split()[0]) * 1024
    return sum(wanted.values()) // os.sysconf("SC_PAGE_SIZE")
