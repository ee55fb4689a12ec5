"""What devices do by themselves with packets, and conntrack where it carries flows."""
from __future__ import annotations

from collections.abc import Iterator

from lbq.doctor.facts import DIRECTOR, LINKS, Facts
from lbq.doctor.finding import Finding, check
from lbq.host import flows, sysctl
from lbq.model import UDP

LRO, UDP_GRO, GRO_LIST = "rx-lro", "rx-udp-gro-forwarding", "rx-gro-list"
NAMES = {LRO: "lro", UDP_GRO: UDP_GRO, GRO_LIST: GRO_LIST}     # as ethtool takes them
FULL = 0.95
COUNT, MOST = f"{sysctl.CONNTRACK}nf_conntrack_count", f"{sysctl.CONNTRACK}nf_conntrack_max"


def offloads(facts: Facts) -> bool:
    """Return True when conntrack carries flows."""
    return any(service.data_path == "offload" for service in facts.services)


@check(DIRECTOR, LINKS)
def device_offloads(facts: Facts) -> Iterator[Finding]:
    """no device joins packets that cannot be taken apart again"""
    used = {device for devices in facts.client_devices.values() for device in devices}
    used |= {server.device for server in facts.servers() if server.device}
    datagrams = any(service.key.protocol == UDP and server.mode != "nat"
                    for service in facts.services for server in service.servers)
    for name in sorted(used & set(facts.devices)):
        features = facts.devices[name].features
        if LRO in features:
            yield Finding(f"{name} joins segments (large receive offload)", "the kernel does not forward what was "
                          "joined so: downloads and uploads crawl", f"ethtool -K {name} lro off")
        for feature in sorted({UDP_GRO, GRO_LIST} & features if datagrams else ()):
            yield Finding(f"{name} joins datagrams ({feature})", "DR and TUN send them on, and nobody tells where one "
                          "ends: they are dropped (dropped_unsegmentable)", f"ethtool -K {name} {NAMES[feature]} off")


@check(DIRECTOR, LINKS, concerns=offloads)
def conntrack_settings(facts: Facts) -> Iterator[Finding]:
    """conntrack counts and tells of the flows that it carries, and has room for more"""
    for key, why in ((flows.ACCOUNTING, "lbq counts packets and bytes by it, and they stay at nothing"),
                     (flows.TELLING, "lbq follows the flows by it, and does not hear when one ends")):
        if facts.value(key) == "0":
            yield Finding(f"{sysctl.spoken(key)} is 0", f"conntrack carries flows: {why}",
                          f"sysctl -w {sysctl.spoken(key)}=1")
    count, most = (int(facts.value(key) or 0) for key in (COUNT, MOST))
    if most and count > FULL * most:
        yield Finding(f"conntrack has {count} of at most {most} connections", "a full one drops what begins anew",
                      f"sysctl -w {sysctl.spoken(MOST)}={2 * most}")
