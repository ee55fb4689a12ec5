"""Fill in a ``Facts``: ask the director, the kernel and the neighbours.  Nothing here judges, and nothing is changed.

Each part that fails leaves one line in ``missing``: an odd machine is no reason for a traceback, and what could be
seen of it is still told.
"""
from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from itertools import islice
from pathlib import Path

from lbq import sysctls
from lbq.control.client import ControlClient
from lbq.control.rows import key_of, server_of
from lbq.doctor import facts as topics
from lbq.doctor import nft
from lbq.doctor.facts import SILENT, Device, Facts, NftChain, Ruleset, Server, Service, Vip
from lbq.doctor.finding import NOT_UNDERSTOOD
from lbq.doctor.probing import SMALLEST, Attempt, Ears, Echo
from lbq.errors import ConfigError, LbqError, NoSuchService, NotRunning, PeerError, PermissionMissing
from lbq.grammar import format_address, format_service, parse_address, parse_service
from lbq.host import addresses, ethtool, flows, iptables, nftables, probes, routes, rules, sysctl
from lbq.host.netlink import NETLINK_ROUTE, NLM_F_DUMP, ask, walk
from lbq.host.setup import state_directory
from lbq.host.stack import Stack
from lbq.log import one_line
from lbq.model import AF_INET, AF_INET6, MODE_NAMES, NAT, NOCSUM, TCP, TUN
from lbq.modes import tun
from lbq.netlink import MARK_MASK, bound_queues
from lbq.queues import Queues

MOST_PAGES = 40             # of connections that are looked through, each look
MOST_SERVERS = 128          # that are probed
MOST_ASKED = 256            # … of all services together
MOST_RETRIED = 128          # connections that are tried once more; select() takes no more than 1024 sockets
MOST_VIPS = 128             # that are looked at
NAT_ICMP_SEND = "nat_icmp_send"
ANSWER_SECONDS = 10         # for the director
SYN_RECV_SECONDS = 60       # that lbq waits after a SYN
PATIENCE_SECONDS = 9        # after which a client has sent another one, or given up: it does after 1, 3, 7 and 15
FIRST_PART = 0.4            # of the look, after which the neighbours' MACs are known
LENGTHS = (1492, 1400, 1280, 576, SMALLEST)     # of echo requests, below the MTU of the way
# What an odd machine makes of looking at it.
ODD = (LbqError, OSError, struct.error, subprocess.SubprocessError, *NOT_UNDERSTOOD)
COUNTED = re.compile(r"^\[(\d+):\d+\] ")
CONNTRACK_ROOM = tuple(f"{sysctl.CONNTRACK}nf_conntrack_{name}" for name in ("count", "max"))
SETTINGS = ("rp_filter", "send_redirects", "accept_local", "forwarding")
RTM_GETLINK = 18
IFINFOMSG = struct.Struct("=BxHiII")
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU = 1, 3, 4
IFF_UP, IFF_NOARP = 0x1, 0x80
ARPHRD_ETHER = 1
FAMILY = {nftables.NFPROTO_INET: "inet", **nftables.NAMES}
HOOKS = {0: "prerouting", nftables.NF_INET_FORWARD: "forward"}
Waiting = dict[tuple, tuple[int, int]]      # connections whose SYN has no answer: their client, seconds they have left


def gather(service: str | None, seconds: float, passive: bool) -> Facts:
    """Return what there is to know, after looking for so many *seconds*; *passive* sends nothing.

    Raises when the doctor may not look at all, or is asked about a service that is not there.
    """
    probes.check_permission()
    facts = Facts(release=os.uname().release, seconds=seconds)
    wanted = None if service is None else parse_service(service)
    with ExitStack() as stack:
        before = _director(facts, wanted, lambda: _ask_director(facts, _client(stack), wanted))
        _attempt(facts, topics.QUEUES, _read_queues)
        _attempt(facts, topics.LINKS, _read_links)
        _attempt(facts, topics.RULES, _read_rules)
        if passive:
            facts.missing[topics.PROBES] = topics.PASSIVE
            time.sleep(seconds)
        else:
            _attempt(facts, topics.PROBES, _probe)
        if topics.RULES not in facts.missing:
            _attempt(facts, topics.RULES, _count_hits)
        if before is not None:
            _director(facts, wanted, lambda: _ask_again(facts, *before))
    _attempt(facts, topics.LINKS, _read_ways_back)
    return facts


def _client(stack: ExitStack) -> ControlClient:
    return stack.enter_context(ControlClient(state_directory(), ANSWER_SECONDS))


def _director(facts: Facts, wanted, ask: Callable):
    """Return what the director answers; without a word of it there is still the host, unless one service is meant."""
    try:
        return ask()
    except (ConfigError, *NOT_UNDERSTOOD) as error:     # ConfigError: rows that say something else than words do
        reason = (f"the director's answers are not understood ({error!r}); is it of another version? Restart it "
                  "with this one")
        if wanted is not None:
            raise PeerError(reason) from error
    except (NotRunning, PeerError) as error:
        if wanted is not None:
            raise
        reason = topics.NO_DIRECTOR if isinstance(error, NotRunning) else str(error)
    facts.missing[topics.DIRECTOR] = one_line(reason)
    return None


def _attempt(facts: Facts, topic: str, look: Callable[[Facts], None]) -> None:
    """Have a look; what hinders it is why the *topic* is missing."""
    try:
        look(facts)
    except ODD as error:
        if isinstance(error, PermissionMissing):
            raise
        facts.missing.setdefault(topic, one_line(f"cannot look: {_reason(error)}"))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, LbqError) else f"this host says what nobody understands ({error!r})"


# ---- The director ----------------------------------------------------------------------------------------


def _ask_director(facts: Facts, client: ControlClient, wanted) -> tuple[ControlClient, dict, Waiting, float]:
    """Learn which services there are; return whom to ask later, counters and waiting connections, and when that was."""
    facts.status = client.call("status")
    stats = client.call("stats")
    for row in stats["services"]:
        key = key_of(row)
        if wanted is None or key == wanted:
            facts.services.append(Service(key, [_server(key, server) for server in row["servers"]],
                                          row.get("data_path", "rewrite"), tuple(row["flags"])))
    if wanted is not None and not facts.services:
        raise NoSuchService(f"no service {format_service(wanted)}; `lbq list` shows those there are")
    facts.refuses_strangers = client.call("sysctl", settings=[NAT_ICMP_SEND])[f"{sysctls.PREFIX}{NAT_ICMP_SEND}"] != 0
    queues = Queues(facts.status["queue"], facts.status.get("workers", 1))
    by_kernel = any(row.get("data_path", "rewrite") != "rewrite" for row in stats["services"])
    facts.queues = list(queues.all if by_kernel else queues.whole)
    return client, _counters(stats), _waiting(client), time.monotonic()


def _server(key, row: dict) -> Server:
    words = server_of(row)
    server = Server(key, words.address, words.port, words.family, MODE_NAMES[words.mode], words.weight)
    server.packets_in, server.packets_out = _packets(row)
    if words.mode == TUN:
        server.tunnel = (words.tunnel, words.tunnel_port, words.tunnel_csum)
        server.overhead = tun.overhead(words.tunnel, words.tunnel_csum, words.family == AF_INET6)
    return server


def _packets(row: dict) -> tuple[int, int]:
    return row["stats"]["packets_in"], row["stats"]["packets_out"]


def _counters(stats: dict) -> dict[str, int]:
    return {name: value for name, value in {**stats["counters"], **(stats["queue"] or {})}.items()
            if isinstance(value, int)}


def _waiting(client: ControlClient) -> Waiting:
    """Return the connections whose SYN was not answered yet, or whose client has not heard so, and who still tries."""
    found, cursor = {}, 0
    for _ in range(MOST_PAGES):
        page = client.call("connections", cursor=cursor)
        for row in page["connections"]:
            if row["state"] == "SYN_RECV" and row["expires_seconds"] >= SYN_RECV_SECONDS - PATIENCE_SECONDS:
                place = tuple(row[name] for name in ("caddr", "cport", "vaddr", "vport", "daddr", "dport"))
                found[place] = parse_address(row["caddr"])[0], row["expires_seconds"]
        cursor = page["next"]
        if cursor is None:
            break
    return found


def _ask_again(facts: Facts, client: ControlClient, counters: dict, waiting: Waiting, asked_at: float) -> None:
    """See what has changed during the look."""
    stats = client.call("stats")
    facts.counters, facts.last_lost = _counters(stats), stats.get("last_lost", {})
    facts.grown = {name: value - counters.get(name, 0) for name, value in facts.counters.items()}
    now = {(key_of(row), server["address"], server["port"]): _packets(server)
           for row in stats["services"] for server in row["servers"]}
    passed = time.monotonic() - asked_at
    still = {place: seen for place, seen in _waiting(client).items() if place in waiting}
    # Nobody has less time left than the look took off, unless a SYN has begun it anew (what is told is whole seconds).
    trying = {place for place, (_, left) in still.items() if left >= waiting[place][1] + 1 - passed}
    for server in facts.servers():
        before = server.packets_in, server.packets_out
        server.packets_in, server.packets_out = now.get((server.service, server.host(), server.port), before)
        server.grown_in, server.grown_out = server.packets_in - before[0], server.packets_out - before[1]
        server.waiting = [client_address for place, (client_address, _) in still.items() if _is_of(place, server)]
        server.trying = [still[place][0] for place in still if place in trying and _is_of(place, server)]


def _is_of(place: tuple, server: Server) -> bool:
    """Return True when the connection *place* is one of *server* and its service; port 0 stands for every port."""
    *_, vaddr, vport, rip, rport = place
    key = server.service
    return rip == server.host() and server.port in (0, rport) and (key.fwmark != 0 or (
        vaddr == format_address(key.address, key.family) and key.port in (0, vport)))


# ---- This host -------------------------------------------------------------------------------------------


def _read_queues(facts: Facts) -> None:
    """See whether packets can be queued, and who holds which queue."""
    facts.bound = bound_queues()
    for family in facts.families() or [AF_INET]:
        try:
            tables = iptables.find(None, family)
            facts.backends[family] = f"{tables.command()} ({tables.variant})"
            if family == AF_INET6:
                probes.check_ipv6()
            probes.check(tables, ("raw", "mangle"), family, several_workers=len(facts.queues) > 1)
        except LbqError as error:
            facts.unsupported[family] = str(error)


def _read_links(facts: Facts) -> None:
    """Read devices, their settings, and where VIPs and real servers are."""
    for body in ask(NETLINK_ROUTE, RTM_GETLINK, IFINFOMSG.pack(0, 0, 0, 0, 0), NLM_F_DUMP):
        _, kind, _, flags, _ = IFINFOMSG.unpack_from(body)
        said = dict(walk(body[IFINFOMSG.size:]))
        name = said[IFLA_IFNAME].rstrip(b"\0").decode()
        facts.devices[name] = Device(name, struct.unpack("=I", said[IFLA_MTU])[0], said.get(IFLA_ADDRESS, b"").hex(),
                                     bool(flags & IFF_UP), kind == ARPHRD_ETHER and not flags & IFF_NOARP,
                                     ethtool.active_features(name))
    keys = [sysctl.IP_FORWARD, sysctl.FORWARDING6, flows.ACCOUNTING, flows.TELLING, *CONNTRACK_ROOM]
    keys += [f"{folder}/{name}/{setting}" for folder in (sysctl.INTERFACES, sysctl.INTERFACES6)
             for name in ("all", *facts.devices) for setting in SETTINGS]
    facts.sysctls = sysctl.read_all(keys)
    facts.reverse_path_drops = _reverse_path_drops()
    for family in facts.families():
        vips = sorted({service.key.address for service in facts.services
                       if service.key.family == family and service.key.address})
        if len(vips) > MOST_VIPS:
            facts.left_out.append(f"looked at {MOST_VIPS} of {len(vips)} VIPs; --service looks at one")
            vips = vips[:MOST_VIPS]
        facts.client_devices[family] = addresses.client_devices(vips, family)
        facts.vips += [_vip(vip, family) for vip in vips]
    ways: dict[tuple[int, int], Server] = {}
    for server in facts.servers():
        known = ways.setdefault((server.address, server.family), server)
        if known is server:
            _find_way(server)
        else:
            server.mtu, server.source = known.mtu, known.source
            server.device, server.gateway = known.device, known.gateway


def _vip(vip: int, family: int) -> Vip:
    own = addresses.addresses(family)
    return Vip(vip, family, next((entry.device for entry in own if entry.address == vip), None),
               addresses.is_local(vip, family), addresses.links_of(vip, family, own),
               addresses.unanswered_device(vip, family), addresses.gateway_towards(vip, family))


def _find_way(server: Server) -> None:
    server.mtu, server.source, number, hop = routes.way(server.address, server.family)
    if server.mtu == routes.NO_ROUTE:
        return
    server.device = socket.if_indextoname(number) if number else None
    if hop != server.address:
        server.gateway = addresses.gateway_towards(server.address, server.family)


def _reverse_path_drops() -> int:
    """Return how many packets rp_filter has dropped in this network namespace."""
    lines = [line.split() for line in Path("/proc/net/netstat").read_text().splitlines()
             if line.startswith("TcpExt:")]
    if len(lines) < 2:
        return 0
    return int(dict(zip(*lines[:2], strict=True)).get("IPReversePathFilter", 0))


def _read_ways_back(facts: Facts) -> None:
    """See by which device each client that waits would be answered; servers of DR and TUN answer by themselves."""
    for client, family in {(client, server.service.family) for server in facts.servers("nat")
                           for client in server.waiting}:
        facts.towards[client, family] = addresses.device_towards(client, family)


def _read_rules(facts: Facts) -> None:
    """Read the rules of every iptables there is, and what is in our sets."""
    for family in facts.families() or (AF_INET, AF_INET6):      # without a service, for what a killed director left
        with nullcontext() if family in facts.families() else suppress(LbqError):
            for tables in iptables.installed(family):
                ruleset = read_rules(family, tables.command(), tables.save(counted=True))
                if family in facts.families() and any(" LBQ-" in rule for _, rule in ruleset.hits):
                    ruleset.read_by = tables
                    ruleset.hits |= _hits(ruleset, "raw")       # last: _count_hits() says why
                facts.rulesets.append(ruleset)
    facts.nft = _nft_chains()
    queues = Queues(facts.queues[0] if facts.queues else 0)
    for family in facts.families():
        stack = Stack(family, queues, False, facts.status.get("mark_mask", MARK_MASK), logging.getLogger("lbq.doctor"))
        for kernel_set in stack.sets:
            held = kernel_set.members()
            if held is not None:
                facts.members[kernel_set.name] = held
        for service in facts.services:
            if service.key.family == family:
                facts.wanted += _wanted(stack, service)


def _count_hits(facts: Facts) -> None:
    """See what lbq's rules have met during the look.

    The raw table is read last before it and first after it, so that the mangle table, which a packet meets next, has
    counted each that the raw table has.
    """
    for ruleset in facts.rulesets:
        if ruleset.read_by is not None:
            ruleset.grown = grown(ruleset.hits, _hits(ruleset, "raw") | _hits(ruleset, "mangle"))


def _hits(ruleset: Ruleset, table: str) -> dict[tuple[str, str], int]:
    """Return what the rules of one *table* have met by now; a table that was not there is not made."""
    if table not in ruleset.tables:
        return {}
    return read_rules(ruleset.family, ruleset.command, ruleset.read_by.save(counted=True, table=table)).hits


def grown(before: dict[tuple[str, str], int], after: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Return what rules have met between two looks; nothing when one has begun to count anew."""
    changes = {rule: count - before.get(rule, 0) for rule, count in after.items()}
    return {} if any(change < 0 for change in changes.values()) else changes


def _nft_chains() -> list[NftChain]:
    """Return the chains of nf_tables that are not iptables'; where nft does not tell, without their rules."""
    program = shutil.which("nft", path=iptables.SEARCH)
    done = None if program is None else subprocess.run(
        [program, "-j", "list", "ruleset"], capture_output=True, text=True, check=False, timeout=iptables.RUN_SECONDS)
    if done is None or done.returncode != 0:        # or it is an old one that knows no JSON
        return [NftChain(FAMILY[family], chain.table, chain.name, HOOKS.get(chain.hook, ""),
                         policy=("drop", "accept")[chain.policy == nftables.NF_ACCEPT])
                for family in FAMILY for chain in nftables.base_chains(family) if not _is_iptables(FAMILY[family],
                                                                                                    chain.table)]
    return [chain for chain in nft.chains_of(json.loads(done.stdout)) if not _is_iptables(chain.family, chain.table)
            and not chain.table.startswith("lbq")]


def _is_iptables(family: str, table: str) -> bool:
    return family in nftables.NAMES.values() and table in nftables.IPTABLES_OWN


def read_rules(family: int, command: str, saved: str) -> Ruleset:
    """Return what ``iptables-save -c`` has *saved*."""
    hits: dict[tuple[str, str], int] = {}
    lines, table = [], ""
    for line in saved.splitlines():
        counted = COUNTED.match(line)
        if line.startswith("*"):
            table = line[1:].strip()
        if counted:
            line = line[counted.end():]
            hits[table, line] = hits.get((table, line), 0) + int(counted[1])
        lines.append(line)
    return Ruleset(family, command, rules.parse("\n".join(lines)), hits)


def _wanted(stack: Stack, service: Service) -> Iterable[tuple]:
    """Return what should be in the sets for one service and its servers."""
    if service.data_path == "steer":
        stack.steered.add(service.key)
    if service.data_path == "offload":
        stack.offloaded.add(service.key)
    places = list(stack.places_of_service(service.key))
    for server in service.servers:
        by_number = int(service.data_path != "rewrite" and server.port != 0)
        mode = {name: number for number, name in MODE_NAMES.items()}[server.mode]
        if mode == NAT or server.family == service.key.family:
            places += stack.places_of_server(service.key, server.address, server.port, mode, by_number,
                                             bool(by_number) and service.data_path == "offload")
    return [(where.name, member, service) for where, member in places]


# ---- The neighbours --------------------------------------------------------------------------------------


def _probe(facts: Facts) -> None:
    """Ask the hosts around, and hear what they say."""
    vips = {family: {vip.address for vip in facts.vips if vip.family == family} for family in (AF_INET, AF_INET6)}
    hosts = _hosts(facts)
    with Ears(vips, facts.devices) as ears:
        _ask_for_vips(facts, ears)
        _find_macs(hosts)
        asked = _ask_about_vips(facts, hosts, ears)     # first: whoever has our MAC by then does not ask for it
        for (address, family), servers in hosts.items():
            if servers[0].device not in (None, "lo"):
                for length in (servers[0].mtu, *(length for length in LENGTHS if length < servers[0].mtu)):
                    ears.send_echo((address, family), address, family, length)
        attempts = _connect(facts, hosts)
        ears.listen(facts.seconds * FIRST_PART, attempts)
        _find_macs(hosts)
        _ask_for_vips(facts, ears)
        asked += _ask_about_vips(facts, hosts, ears)
        _learn_mtus(hosts)
        _ask_once_more(hosts, ears)
        attempts += _connect_once_more(attempts)
        ears.listen(facts.seconds * (1 - FIRST_PART), attempts)
    for attempt in attempts:
        attempt.give_up()
        if getattr(*attempt.meant) in (None, SILENT):
            setattr(*attempt.meant, attempt.outcome)
    _note_answers(facts, ears, hosts, asked)


def _hosts(facts: Facts) -> dict[tuple[int, int], list[Server]]:
    """Return the real servers by address and family, as many as are probed."""
    found: dict[tuple[int, int], list[Server]] = {}
    for server in facts.servers():
        found.setdefault((server.address, server.family), []).append(server)
    if len(found) > MOST_SERVERS:
        facts.left_out.append(f"asked {MOST_SERVERS} of {len(found)} real servers; --service looks at one service's")
    asked = dict(islice(found.items(), MOST_SERVERS))
    times = sum(map(len, asked.values()))
    if times > MOST_ASKED:
        facts.left_out.append(f"of {times} places that these have in services {MOST_ASKED} were asked for more than "
                              "whether they are there; --service looks at one service's")
    return asked


def _asked(hosts: dict[tuple[int, int], list[Server]]) -> Iterator[Server]:
    """Give the real servers that are asked for more than whether they are there: one may be in many services."""
    return islice((server for servers in hosts.values() for server in servers), MOST_ASKED)


def _ask_for_vips(facts: Facts, ears: Ears) -> None:
    for vip in facts.vips:
        for name in set(vip.links):
            device = facts.devices.get(name)
            if device is None or not device.is_up or not device.is_ethernet:
                continue
            source = 0
            if vip.family == AF_INET6:
                own = [entry.address for entry in addresses.addresses(AF_INET6)
                       if entry.device == name and entry.address != vip.address]
                if not own:
                    continue
                source = own[0]
            ears.ask_who_has(vip.address, vip.family, device, source)


def _connect(facts: Facts, hosts: dict) -> list[Attempt]:
    """Try to connect to NAT servers from the address on the way to them, and from the VIP."""
    attempts: list[Attempt] = []
    if facts.refuses_strangers:             # what they answer, too
        return attempts
    for server in _asked(hosts):
        if server.mode != "nat" or server.service.protocol != TCP or server.port == 0 or server.device in (None, "lo"):
            continue
        sources = {"connect": server.source}
        if _can_ask_from_vip(facts, server):
            sources["connect_from_vip"] = server.service.address
        for name, source in sources.items():
            with suppress(OSError):         # no more sockets, or the address is gone
                attempts.append(Attempt(server.family, source, server.address, server.port, (server, name)))
    return attempts


def _connect_once_more(attempts: list[Attempt]) -> list[Attempt]:
    """Try again what has come to nothing yet: one SYN may get lost, and the kernel's next is a second away."""
    again: list[Attempt] = []
    for before in islice((attempt for attempt in attempts if attempt.outcome is None), MOST_RETRIED):
        with suppress(OSError):
            again.append(Attempt(*before.ends, before.meant))
    return again


def _can_ask_from_vip(facts: Facts, server: Server) -> bool:
    """Return True when a NAT server answers the VIP by way of its gateway alone, and the VIP is ours to ask from."""
    return any(vip.is_local and server.device not in vip.links for vip in facts.vips
               if (vip.address, vip.family) == (server.service.address, server.family))


def _find_macs(hosts: dict) -> None:
    known = {family: routes.neighbours(family) for family in {family for _, family in hosts}}
    for (_, family), servers in hosts.items():
        for server in servers:
            if server.device is not None:
                hop = server.address if server.gateway is None else parse_address(server.gateway)[0]
                _, server.mac = known[family].get((socket.if_nametoindex(server.device), hop), (0, ""))


def _ask_about_vips(facts: Facts, hosts: dict, ears: Ears) -> list[Server]:
    """Hand DR and TUN servers an echo request for their VIP, and NAT servers one from it; return those that were."""
    asked = []
    for server in _asked(hosts):
        vip, family = server.service.address, server.service.family
        if not vip or server.device in (None, "lo"):
            continue
        if server.mode == "dr" and server.is_on_link() and server.mac and family == server.family:
            ears.send_echo_to(id(server), vip, server.source, family, server.device, server.mac)
        elif server.mode == "tun" and family == server.family and server.tunnel[2] == NOCSUM:
            with suppress(OSError):
                ears.send_echo_in_tunnel(id(server), vip, server.source, server.address, family, *server.tunnel)
        elif server.mode == "nat" and _can_ask_from_vip(facts, server):
            ears.send_echo(id(server), server.address, family, source=vip)
        else:
            continue
        asked.append(server)
    return asked


def _learn_mtus(hosts: dict) -> None:
    """Take in what routers have said by ICMP of the echo requests that were too long: then the kernel knows the way."""
    for (address, family), servers in hosts.items():
        mtu, *_ = routes.way(address, family)
        for server in servers:
            server.mtu = mtu


def _ask_once_more(hosts: dict, ears: Ears) -> None:
    """Send the longest echo request again to who has not answered it: one packet may get lost."""
    answered = set(ears.answered)
    for (address, family), servers in hosts.items():
        if servers[0].device not in (None, "lo") and Echo((address, family), servers[0].mtu) not in answered:
            ears.send_echo((address, family), address, family, servers[0].mtu)


def _note_answers(facts: Facts, ears: Ears, hosts: dict, asked: list[Server]) -> None:
    came: dict[object, int] = {}
    for echo in ears.answered:
        came[echo.name] = max(echo.length, came.get(echo.name, 0))
    for place, servers in hosts.items():
        if servers[0].device not in (None, "lo"):
            for server in servers:
                server.echo = came.get(place, 0)
    for server in asked:
        server.vip_echo = id(server) in came
    own = facts.own_macs()
    local = {family: set(addresses.local_addresses(family)) for family in facts.families()}
    for vip in facts.vips:
        place = vip.family, vip.address
        vip.answers = _others(ears.answers.get(place, ()), own)
        vip.announcers = _others(ears.announcers.get(place, ()), own)
        vip.passing = _others((heard for heard, destination in ears.passing.get(place, ())
                               if destination not in local[vip.family]), own)


def _others(heard: Iterable, own: set[str]) -> dict[str, str]:
    return {mac: device for device, mac in heard if mac not in own}
