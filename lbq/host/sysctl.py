"""Kernel settings under /proc/sys: change what NAT needs, and put back exactly what was there.

A key is a path below /proc/sys, such as ``net/ipv4/conf/eth0/send_redirects``, because an interface name
may hold a dot.  Writing ``ip_forward`` is more than one change: the kernel then also sets ``forwarding`` of
every interface and of ``default`` to the same value, and ``accept_redirects`` of ``all`` to the opposite
(inet_forward_change() in net/ipv4/devinet.c).  A user's own values there would be lost by 0 -> 1 -> 0;
so all of them are recorded before, and written back after ``ip_forward``.

IPv6 has ``conf/all/forwarding`` for it, which writes that of every interface too.  A machine that forwards IPv6 no
longer listens to router advertisements, and at the moment of the change it forgets the default routes it has from them;
unless ``accept_ra`` is 2, which is therefore written first where it was 1.  There is no send_redirects for IPv6:
``rules.py`` keeps redirects from real servers.
"""
from __future__ import annotations

import errno
from pathlib import Path

from lbq.errors import HostError
from lbq.model import AF_INET, AF_INET6

ROOT = Path("/proc/sys")
IP_FORWARD = "net/ipv4/ip_forward"
INTERFACES = "net/ipv4/conf"
FORWARDING6 = "net/ipv6/conf/all/forwarding"
INTERFACES6 = "net/ipv6/conf"
CONNTRACK = "net/netfilter/"
EITHER = 0
FIRST = (IP_FORWARD, FORWARDING6)       # when values are put back: they overwrite others

Values = dict[str, str]


def read(key: str) -> str | None:
    """Return the value of *key*, or None when the kernel has none (an interface that is gone)."""
    try:
        return (ROOT / key).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(key: str, value: str) -> str | None:
    """Set *key* and return ``name old -> new`` for the log; None when it was so already, or is gone."""
    before = read(key)
    if before is None or before == value:
        return None
    try:
        (ROOT / key).write_text(value)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise HostError(f"cannot set {spoken(key)} to {value}: {error.strerror}; in a container, "
                        f"let the runtime set it (docker run --sysctl {spoken(key)}={value})") from error
    return f"{spoken(key)} {before} -> {value}"


def write_all(values: Values) -> list[str]:
    """Set all *values* in order; return lines for the log."""
    lines = [write(key, value) for key, value in values.items()]
    return [line for line in lines if line is not None]


def read_all(keys: list[str]) -> Values:
    """Return the values of those *keys* that the kernel has."""
    return {key: value for key in keys if (value := read(key)) is not None}


def spoken(key: str) -> str:
    """Return *key* as sysctl(8) and people write it: ``net.ipv4.ip_forward``."""
    return ".".join(part.replace(".", "/") for part in key.split("/"))


def family_of(key: str) -> int:
    """Return the family whose packets *key* concerns, EITHER for conntrack's settings."""
    if key.startswith(CONNTRACK):
        return EITHER
    return AF_INET6 if key.startswith("net/ipv6/") else AF_INET


def forwarding_values() -> Values:
    """Return ip_forward and every setting that the kernel changes together with it."""
    keys = [IP_FORWARD, f"{INTERFACES}/all/accept_redirects"]
    keys += [f"{INTERFACES}/{folder.name}/forwarding" for folder in sorted((ROOT / INTERFACES).iterdir())]
    return read_all(keys)


def forwarding6_values() -> Values:
    """Return the settings of IPv6 forwarding, and those of router advertisements that go with it."""
    names = sorted(folder.name for folder in (ROOT / INTERFACES6).iterdir())
    return read_all([f"{INTERFACES6}/{name}/forwarding" for name in names]
                    + [f"{INTERFACES6}/{name}/accept_ra" for name in names if name not in ("all", "lo")])


def wanted_forwarding6(before: Values) -> Values:
    """Return what is to be written so that IPv6 is forwarded and router advertisements mean what they did *before*."""
    if before[FORWARDING6] == "1":
        return {}
    listening = [key for key, value in before.items() if key.endswith("/accept_ra") and value == "1"
                 and before.get(key.replace("accept_ra", "forwarding")) == "0"]
    return {**dict.fromkeys(listening, "2"), FORWARDING6: "1"}


def redirect_keys(devices: list[str]) -> list[str]:
    """Return the settings that must be 0 so that no ICMP redirect leaves by *devices*.

    The kernel sends redirects when either ``all`` or the interface says so.
    """
    if not devices:
        return []
    return [f"{INTERFACES}/{name}/send_redirects" for name in ["all", *devices]]


def restore(values: Values) -> list[str]:
    """Write *values* back, those first that overwrite others; return lines for the log."""
    return write_all({key: values[key] for key in sorted(values, key=lambda key: (key not in FIRST, key))})
