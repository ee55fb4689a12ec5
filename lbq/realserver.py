"""``lbq realserver dr|tun``: make this machine a real server of DR or TUN, and take it back.

Such a server has the VIP, so that it accepts what the director sends on, and must not answer ARP for it, or clients on
its link would come past the director:

    the VIP/32 on lo               accepted, and on no link
    arp_ignore=1, arp_announce=2   no ARP answer for addresses of other devices, none announced as a source
    tun: the tunnel's end          an ipip device where the kernel has one, else ``lbq decap``

An IPv6 VIP (/128) needs no such settings: a neighbour solicitation is answered only for addresses of the device it
came in on, and lo is no such device.  It is deprecated (preferred lifetime 0), so that it is nobody's choice for the
source of a connection that the server begins itself.

What was before is kept in /run/lbq/<inode of the network namespace>/realserver.json, written first.  It also says of
which boot and namespace: inode numbers are used again.

Kernel: Documentation/networking/ip-sysctl.rst (arp_ignore, arp_announce, rp_filter); ip_vs's own how-to says the same.
ndisc_recv_ns() in net/ipv6/ndisc.c.
"""
from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from pathlib import Path

from lbq.errors import ConfigError, HostError
from lbq.grammar import format_address, parse_address, parse_balanced_address
from lbq.host import addresses, sysctl
from lbq.host.netlink import BITS
from lbq.host.probes import check_ipv6, check_permission
from lbq.host.setup import state_directory
from lbq.host.undo import boot_id, is_address, netns_cookie
from lbq.model import AF_INET, AF_INET6
from lbq.options import Parser

EPILOG = """\
What it does, and --undo takes back (the answers go past the director, so nothing must ask this machine for the VIP):
  the VIP/32 on lo                         packets to it are accepted here
  arp_ignore=1, arp_announce=2             nobody learns this machine's MAC as the VIP's (all and lo)
  tun: tunl0 up, rp_filter=0               it ends IPIP tunnels; for gue and gre, or without ipip: lbq decap
An IPv6 VIP/128 on lo needs no settings: nobody answers neighbour solicitations for it; its tunnels end in lbq decap.
All of it is gone after a reboot, like everything in /run/lbq.

examples:
  lbq realserver dr --vip 172.16.10.1
  lbq realserver dr --undo"""
FILE = "realserver.json"
TUNNEL = "tunl0"
ARP = {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2",
       "net/ipv4/conf/lo/arp_ignore": "1", "net/ipv4/conf/lo/arp_announce": "2"}
REVERSE_PATH = {"net/ipv4/conf/all/rp_filter": "0", f"net/ipv4/conf/{TUNNEL}/rp_filter": "0"}


def main(words: list[str]) -> int:
    """Do what ``lbq realserver WORDS`` says; return the exit status."""
    parser = Parser("lbq realserver", "On a real server of DR or TUN: the VIP on lo without ARP or NDP for it (and, "
                    "for tun, the tunnel's end), or all of it undone.",
                    usage="lbq realserver dr|tun --vip VIP [--vip VIP]...\n       lbq realserver dr|tun --undo",
                    epilog=EPILOG)
    parser.add_argument("mode", metavar="MODE", help="dr or tun")
    parser.add_argument("--vip", metavar="VIP", action="append", default=[], help="a virtual address; again for more")
    parser.add_argument("--undo", action="store_true", help="put everything back as it was before")
    said = parser.parse_args(words)
    if said.mode not in ("dr", "tun"):
        raise ConfigError(f"unknown mode '{said.mode}': a real server is prepared for dr or tun; with nat it needs "
                          "only a route back through the director")
    if said.undo and said.vip:
        raise ConfigError("--undo puts everything back, so it takes no --vip")
    if not said.undo and not said.vip:
        raise ConfigError("no --vip: say which virtual address this real server is to accept")
    vips = [parse_balanced_address(vip) for vip in said.vip]
    check_permission()
    for line in undo() if said.undo else prepare(said.mode, vips):
        print(line)
    return 0


def prepare(mode: str, vips: list[tuple[int, int]]) -> list[str]:
    """Give this machine the *vips*; return what was changed, one line each.  Once more changes nothing."""
    families = {family for _, family in vips}
    if AF_INET6 in families:
        check_ipv6()
    record = _load() or {"here": _here(), "sysctls": {}, "addresses": [], "device": False}
    lines = []
    if mode == "tun":
        lines += _bring_up_tunnel(record) if families == {AF_INET} else [
            "run `lbq decap --vip VIP` beside the service, it ends the tunnel whatever is in it and around it"]
    wanted = ARP if AF_INET in families else {}
    wanted = {**wanted, **(REVERSE_PATH if mode == "tun" and wanted else {})}
    wanted = {key: value for key, value in wanted.items() if sysctl.read(key) not in (None, value)}
    for key in wanted:
        record["sysctls"].setdefault(key, sysctl.read(key))
    _save(record)
    lines += sysctl.write_all(wanted)           # before the VIP is there: nobody must answer ARP for it
    for vip, family in vips:
        name = format_address(vip, family)
        if addresses.is_local(vip, family):
            lines.append(f"{name} is an address of this host already")
            continue
        record["addresses"].append(name)
        _save(record)
        addresses.add(vip, family, "lo")
        lines.append(f"{name}/{BITS[family]} added to lo")
    return lines


def undo() -> list[str]:
    """Put back what ``prepare`` changed; return what was done, one line each."""
    record = _load()
    if record is None:
        return ["nothing to undo in this network namespace"]
    lines = []
    for name in record["addresses"]:
        vip, family = parse_address(name)
        if addresses.remove(vip, family, "lo"):
            lines.append(f"{name}/{BITS[family]} removed from lo")
    if record["device"]:
        _ip("link", "set", TUNNEL, "down")
        lines.append(f"{TUNNEL} is down")
    lines += sysctl.restore(record["sysctls"])
    _file().unlink()
    with contextlib.suppress(OSError):      # a director may run here, too
        _file().parent.rmdir()
    return lines


def _bring_up_tunnel(record: dict) -> list[str]:
    """Bring the kernel's own tunnel device up, or say what ends the tunnel instead."""
    if tunnel_is_up() is None:
        subprocess.run(["modprobe", "-q", "ipip"], check=False, capture_output=True)
    is_up = tunnel_is_up()
    if is_up is None:
        return ["this kernel has no ipip: run `lbq decap --vip VIP` beside the service, it ends the tunnel"]
    if is_up:
        return []
    record["device"] = True
    _save(record)
    done = _ip("link", "set", TUNNEL, "up")
    if done.returncode:
        raise HostError(f"cannot bring {TUNNEL} up: {done.stderr.strip()}")
    return [f"{TUNNEL} is up: it ends IPIP tunnels over IPv4 (over IPv6: lbq decap --vip VIP --over ipv6)"]


def tunnel_is_up(device: str = TUNNEL) -> bool | None:
    """Return whether the kernel's own end of tunnels is up, None when there is none.

    By netlink alone: to ask by name loads the module, and a device that is there and down refuses tunnels.
    """
    if device not in (name for _, name in socket.if_nameindex()):
        return None
    shown = _ip("link", "show", device)
    return None if shown.returncode else "UP" in shown.stdout.split(">")[0].split("<")[-1].split(",")


def _ip(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *words], check=False, capture_output=True, text=True)


def _file() -> Path:
    return state_directory() / FILE


def _here() -> list:
    return [boot_id(), netns_cookie()]


def _load() -> dict | None:
    """Return what was recorded in this very namespace, or None."""
    try:
        record = json.loads(_file().read_text())
        if not _is_record(record):
            raise ValueError("something is missing or of another type")
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, OSError) as error:
        raise HostError(f"cannot read {_file()}: {error}; remove it, and put the sysctls back by hand") from error
    return record if record["here"] == _here() else None


def _is_record(value) -> bool:
    """Return True when *value* holds what ``undo`` needs."""
    if not isinstance(value, dict) or set(value) != {"sysctls", "addresses", "device", "here"}:
        return False
    return (isinstance(value["device"], bool) and isinstance(value["sysctls"], dict)
            and all(isinstance(text, str) for text in value["sysctls"].values())
            and isinstance(value["addresses"], list)
            and all(is_address(vip) for vip in value["addresses"]))


def _save(record: dict) -> None:
    _file().parent.mkdir(parents=True, exist_ok=True)
    _file().write_text(json.dumps(record))
