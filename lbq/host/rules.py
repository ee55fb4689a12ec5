"""The iptables rules of the director, as text: twenty, whatever the number of services, and two a firewall mark.

The rules of ip6tables are the same with sets of their own, and are put in when the first service of IPv6 comes.

Sets hold the members: ``lbq-vip`` the services (VIP, protocol:vport), ``lbq-rip`` what replies come from (RIP,
protocol:rport with NAT; VIP, protocol:vport with DR and TUN, whose replies are already right and are only counted).
Where every port matters (services of port 0, FTP, replies to services of a firewall mark) whole addresses are in
``lbq-vip-any`` and ``lbq-rip-any``, and what the kernel is to rewrite (``steering.py``) in ``lbq-vip-steer`` and
``lbq-rip-steer``, and what conntrack is to carry (``offloading.py``) in ``lbq-vip-offload`` and ``lbq-rip-offload``.
Their rules are there only since one of them has a member: a look-up in vain is paid by every packet.  So rules change
when the first such address comes, and when a firewall mark's service does.

    client ─► raw PREROUTING ─► mangle PREROUTING ─► route ─► … ─► mangle POSTROUTING ─► client
              LBQ-NOTRACK       LBQ-REQUEST: queue                 LBQ-REPLY: queue

- **Requests** are queued in PREROUTING, or OUTPUT when the client is the director itself, so that the
  kernel routes the rewritten packet.
- **Replies** are queued in POSTROUTING, or INPUT when the client is the director itself.  Not in PREROUTING:
  there a packet whose new source is an address of this host is dropped as a martian (with IPv4; with IPv6 it is not,
  but one way is enough).
- **ICMP errors** (types 3, 4, 11; with IPv6 1 to 4) are queued on both ways: any router may be their sender.  With
  --queue-bypass, unlike all else: an error opens no service, and other flows must learn their path MTU when no
  director runs.  No other ICMP is queued, above all no neighbour discovery, without which no packet would leave.
- **Redirects** (IPv6): with one-armed NAT the director's kernel would teach a real server the direct way to the
  client, and the server's replies would reach the client without the VIP as their source.  IPv4 has sysctls against
  it; for IPv6 a redirect that the director is about to send to a real server is dropped.  An IP set takes the type and
  code of an ICMPv6 packet for its port, so the member that says so is (ICMPv6, RIP, REDIRECT).
- **What the director itself sends** through the host's IP layer carries OWN_MARK and is let through: ICMP answers,
  and packets of DR and TUN while the next hop's MAC is not known.
- **No conntrack.**  It would see one half of each rewritten conversation and call it INVALID.  Traffic to
  RIP:rport that does not come through the VIP is left untracked in *both* directions: tracking one
  half only would turn that half INVALID as well.  Packets with a service's firewall mark are untracked when they have
  it in the raw table already.
- **Fragments.**  A later fragment has no ports and matches no set.  The rule in LBQ-DEFRAG is never reached
  (nothing jumps there), but that it exists makes the kernel reassemble: the ``socket`` match asks for that
  when it is loaded, for all of the namespace.
- **Offloaded services** are tracked: conntrack carries their flows, and lbq sees what belongs to none yet
  (LBQ-OFFLOAD).  Once a flow's first packet is through (CONFIRMED) none of it comes back, answered or not.  What
  conntrack calls INVALID is dropped: it would reach this host with the VIP for its destination, and be reset.
- **No --queue-bypass** for services: when nobody listens, their packets are dropped, never let through unbalanced.
- **Workers** have a queue each and share the packets by bits of the client's port, which both directions have
  (LBQ-REQUEST-TO, LBQ-REPLY-TO): not the last bit, for Linux connects from even ports (inet_hash_connect()), but
  the next ones, for a client's ports follow each other.  NFQUEUE's --queue-balance looks at the addresses alone: a
  client would be one worker's, and the replies to it another's.

Kernel: xt_set, xt_CT, xt_NFQUEUE, xt_socket (nf_defrag_ipv4_enable(), nf_defrag_ipv6_enable()); ip6_forward() and
ndisc_send_redirect(); ip_set_get_ip6_port().
"""
from __future__ import annotations

import shlex
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from lbq.model import AF_INET, AF_INET6
from lbq.netlink import OWN_MARK
from lbq.queues import Queues


class Sets(NamedTuple):
    """The names of one family's sets."""

    vip: str
    rip: str
    any_vip: str
    any_rip: str
    steer_vip: str
    steer_rip: str
    offload_vip: str
    offload_rip: str


SETS = {AF_INET: Sets("lbq-vip", "lbq-rip", "lbq-vip-any", "lbq-rip-any", "lbq-vip-steer", "lbq-rip-steer",
                      "lbq-vip-offload", "lbq-rip-offload"),
        AF_INET6: Sets("lbq6-vip", "lbq6-rip", "lbq6-vip-any", "lbq6-rip-any", "lbq6-vip-steer", "lbq6-rip-steer",
                       "lbq6-vip-offload", "lbq6-rip-offload")}
ICMP = {AF_INET: "icmp", AF_INET6: "ipv6-icmp"}
ICMPV6 = 58
REDIRECT = 137 << 8             # type and code, as a port in a set
ERROR_MATCHES = {               # destination unreachable, source quench, time exceeded
    AF_INET: [f"-p icmp -m icmp --icmp-type {kind}" for kind in (3, 4, 11)],
    # destination unreachable, packet too big, time exceeded, parameter problem
    AF_INET6: [f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind}" for kind in (1, 2, 3, 4)]}

NOTRACK, UNTRACKED, DEFRAG = "LBQ-NOTRACK", "LBQ-UNTRACKED", "LBQ-DEFRAG"
REQUEST, REPLY, ERRORS, OFFLOAD = "LBQ-REQUEST", "LBQ-REPLY", "LBQ-ERRORS", "LBQ-OFFLOAD"
REQUEST_TO, REPLY_TO = "LBQ-REQUEST-TO", "LBQ-REPLY-TO"                     # one of several workers
REQUEST_HEADERS_TO, REPLY_HEADERS_TO = "LBQ-REQUEST-HEADERS-TO", "LBQ-REPLY-HEADERS-TO"
FORWARD = "LBQ-FORWARD"
CHAINS = {"raw": (NOTRACK, UNTRACKED, DEFRAG),
          "mangle": (REQUEST, REPLY, ERRORS, OFFLOAD, REQUEST_TO, REPLY_TO, REQUEST_HEADERS_TO, REPLY_HEADERS_TO),
          "filter": (FORWARD,)}
JUMPS = {"raw": (("PREROUTING", NOTRACK), ("OUTPUT", NOTRACK)),
         "mangle": (("PREROUTING", REQUEST), ("OUTPUT", REQUEST), ("POSTROUTING", REPLY), ("INPUT", REPLY)),
         "filter": (("FORWARD", FORWARD),)}
TABLES = tuple(CHAINS)

Saved = dict[str, list[str]]    # table -> the lines of iptables-save that belong to it


def parse(saved: str) -> Saved:
    """Return the lines of ``iptables-save`` output by table, without comments and counters of rules."""
    tables: Saved = {}
    lines: list[str] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            lines = tables.setdefault(line[1:].strip(), [])
        elif line.startswith((":", "-")):
            lines.append(line)
    return tables


def tables_for(accept_forward: bool) -> tuple[str, ...]:
    """Return the tables that get rules."""
    return TABLES if accept_forward else ("raw", "mangle")


def install_text(family: int, queues: Queues, accept_forward: bool, present: Saved, marks: Iterable[int] = (), *,
                 whole: bool = True, every_port: bool = False, steered: bool = False, offloaded: bool = False) -> str:
    """Return iptables-restore input that brings our chains up to date, whatever is *present* already.

    *marks* are the firewall marks that have a service; *whole*, *every_port*, *steered* and *offloaded* say which
    pairs of sets have members: packets of the last two go to the queues of headers, those of *steered* when they are
    not for one of the others.
    Naming a chain (``:LBQ-REPLY``) makes it or empties it; a jump that is there already is not added again.
    """
    sets, icmp = SETS[family], ICMP[family]
    no_redirects = [f"-m set --match-set {sets.rip} dst,dst -j DROP"] if family == AF_INET6 else []
    marked = [f"-m mark --mark {mark:#x}" for mark in marks]
    bodies: dict[str, list[str]] = {
        # CT lets a packet go on to the next rule; "goto" spares it the look-ups that are left.
        NOTRACK: [],
        UNTRACKED: ["-j CT --notrack"],
        DEFRAG: ["-m socket --nowildcard"],
        REQUEST: [],
        REPLY: [],
        ERRORS: [*no_redirects, f"-m mark --mark {OWN_MARK:#x} -j RETURN",
                 *(f"{match} {to_queue(queues.first)} --queue-bypass" for match in ERROR_MATCHES[family])],
        FORWARD: [],
    }

    def to_worker(numbers: range, chain: str, is_request: bool) -> str:
        """Return the target for packets to the queues of these *numbers*, of which *chain* chooses one."""
        if len(numbers) == 1:
            return to_queue(numbers.start)
        bodies[chain] = spread(family, numbers, is_request)
        return f"-g {chain}"

    if offloaded:
        bodies[NOTRACK].append(f"-m set --match-set {sets.offload_vip} dst,dst -j RETURN")
        bodies[REQUEST].append(f"-m set --match-set {sets.offload_vip} dst,dst -g {OFFLOAD}")
        bodies[OFFLOAD] = ["-m conntrack --ctstate INVALID,UNTRACKED -j DROP", "-m conntrack ! --ctstatus CONFIRMED "
                           + to_worker(queues.headers, REQUEST_HEADERS_TO, True)]
        bodies[FORWARD] += [f"-m set --match-set {sets.offload_rip} dst,dst -j ACCEPT",
                            f"-m set --match-set {sets.offload_rip} src,src -j ACCEPT"]

    def look_into(vip: str, rip: str, source: str, destination: str, request: str, reply: str) -> None:
        """Add the rules for one pair of sets, with the targets of its packets."""
        not_own = f"-m mark ! --mark {OWN_MARK:#x}"
        bodies[NOTRACK] += [f"-m set --match-set {vip} {destination} -g {UNTRACKED}",
                            f"-m set --match-set {rip} {source} -g {UNTRACKED}",
                            f"-m set --match-set {rip} {destination} -g {UNTRACKED}"]
        bodies[REQUEST].append(f"-m set --match-set {vip} {destination} {not_own} {request}")
        bodies[REPLY].append(f"-m set --match-set {rip} {source} {not_own} {reply}")
        bodies[FORWARD] += [f"-m set --match-set {rip} {destination} -j ACCEPT",
                            f"-m set --match-set {rip} {source} -j ACCEPT"]

    to_whole = (to_worker(queues.whole, REQUEST_TO, True), to_worker(queues.whole, REPLY_TO, False))
    if whole:
        look_into(sets.vip, sets.rip, "src,src", "dst,dst", *to_whole)
    bodies[NOTRACK] += [f"-m mark --mark {OWN_MARK:#x} -g {UNTRACKED}", *(f"{mark} -g {UNTRACKED}" for mark in marked)]
    bodies[REQUEST] += [f"-p {icmp} -g {ERRORS}", *(f"{mark} {to_whole[0]}" for mark in marked)]
    bodies[REPLY].append(f"-p {icmp} -g {ERRORS}")
    if every_port:
        look_into(sets.any_vip, sets.any_rip, "src", "dst", *to_whole)
    if steered:
        look_into(sets.steer_vip, sets.steer_rip, "src,src", "dst,dst",
                  to_worker(queues.headers, REQUEST_HEADERS_TO, True),
                  to_worker(queues.headers, REPLY_HEADERS_TO, False))
    lines = []
    for table in tables_for(accept_forward):
        lines.append(f"*{table}")
        chains = [chain for chain in CHAINS[table] if chain in bodies]
        lines += [f":{chain} - [0:0]" for chain in chains]
        lines += [f"-A {chain} {rule}" for chain in chains for rule in bodies[chain]]
        for base, chain in JUMPS[table]:
            lines += _jump(table, base, chain, present.get(table, []))
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def to_queue(number: int) -> str:
    """Return the target that queues a packet."""
    return f"-j NFQUEUE --queue-num {number}"


def spread(family: int, numbers: range, is_request: bool) -> list[str]:
    """Return the rules that share packets among the queues *numbers*, evenly, by the client's port.

    Where there are as many queues as some bits have values, each value is a queue's; else 256 values are shared.
    """
    workers = len(numbers)
    values = workers if workers.bit_count() == 1 else 256
    port = f"{'0>>22&0x3C@0' if family == AF_INET else 40}>>{17 if is_request else 1}&{values - 1:#x}"
    lines = []
    for i, number in enumerate(numbers[:-1]):
        first, last = values * i // workers, values * (i + 1) // workers - 1
        which = f"{first:#x}" if first == last else f"{first:#x}:{last:#x}"
        lines.append(f'-m u32 --u32 "{port}={which}" {to_queue(number)}')
    return [*lines, to_queue(numbers[-1])]      # and what has no port where one was looked for


def _jump(table: str, base: str, chain: str, present: list[str]) -> list[str]:
    """Return what puts the jump from *base* to our *chain* where it belongs.

    Ours go last, so that the user's rules in mangle (marks, for one) see a packet before it is queued, also those that
    came since; only the rules that accept forwarded packets must come before whatever drops them.
    """
    jump = f"{base} -j {chain}"
    if table == "filter":
        return [] if f"-A {jump}" in present else [f"-I {jump}"]
    rules = [line for line in present if line.startswith(f"-A {base} ")]
    if f"-A {jump}" not in rules:
        return [f"-A {jump}"]
    return [] if rules[-1] == f"-A {jump}" else [f"-D {jump}", f"-A {jump}"]


def sets_mark(present: Saved, mark: int) -> bool:
    """Return True when a rule of those *present* may give packets the firewall mark *mark*."""
    return any(f"--set-xmark {mark:#x}/" in line or "--restore-mark" in line
               for table in ("raw", "mangle") for line in present.get(table, []))


def removal_text(present: Saved) -> str:
    """Return iptables-restore input that removes our chains and all jumps to them; empty without any."""
    lines = []
    for table, saved in present.items():
        ours = [chain for chain in CHAINS.get(table, ())
                if any(line.startswith(f":{chain} ") for line in saved)]
        if not ours:
            continue
        lines.append(f"*{table}")
        lines += ["-D" + line.removeprefix("-A") for line in saved if _jumps_into(line, ours)]
        lines += [f"-F {chain}" for chain in ours] + [f"-X {chain}" for chain in ours]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n" if lines else ""


def _jumps_into(line: str, chains: list[str]) -> bool:
    if not line.startswith("-A "):
        return False
    words = shlex.split(line)
    return words[1] not in chains and any(
        word in ("-j", "-g") and target in chains for word, target in pairwise(words))
