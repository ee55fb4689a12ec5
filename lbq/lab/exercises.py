"""Exercises for a class: a lab that is broken on purpose, to be repaired with what an operator has.

    lbq lab nat --exercise 1             builds the lab, breaks it, says what users complain of, and leaves it up
    lbq lab nat --exercise 1 --check     says whether it works again
    lbq lab nat --exercise 1 --hint      where to look; --solution: what it was, and the command that mends it
    lbq lab nat --down                   takes it down

Each is something that really happens to people who set up a virtual server.  ``Exercise.mend`` is the solution as
code: the tests break, see that the check fails, mend, and see that it passes.
"""
from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from lbq.control.client import ControlClient
from lbq.errors import ConfigError, HostError
from lbq.host.setup import state_directory
from lbq.lab import signals
from lbq.lab.routed import RoutedLab
from lbq.lab.topology import GATEWAY, Lab, host_name, require_root

REQUESTS = 8
TIMEOUT = 2             # seconds; a request in the lab takes a millisecond
LARGE = 6000            # bytes of a request that does not fit into one packet
SMALL_MTU = 1300
BUILT = "exercise"      # in the lab's folder: which one it is


class Exercise(NamedTuple):
    """One thing that is broken."""

    mode: str
    title: str
    complaint: str              # what users see
    hint: str
    solution: str               # the command that mends it, {lbq} being lbq, and why
    break_it: Callable[[Lab], None]
    mend: Callable[[Lab], None]
    large: bool = False         # requests that do not fit into one packet must pass, too


def _run(host, *words: str) -> None:
    host.run([str(word) for word in words], check=True)


def _forget_neighbours(lab: RoutedLab) -> None:
    """Let the router ask anew who has the VIP."""
    lab.router.run(["ip", "neigh", "flush", "dev", "segment"], check=True)


# ---- What is broken, and what mends it ------------------------------------------------------------------------


def _no_gateway(lab: Lab) -> None:
    _run(lab.servers[1], "ip", "route", "del", "default")


def _gateway(lab: Lab) -> None:
    _run(lab.servers[1], "ip", "route", "add", "default", "via", GATEWAY)


def _quiesce(lab: Lab) -> None:
    lab.lbq("set", "server", f"{lab.vip}:80", f"{lab.servers[0].address},weight=0")


def _weigh(lab: Lab) -> None:
    lab.lbq("set", "server", f"{lab.vip}:80", f"{lab.servers[0].address},weight=1")


def _stop_forwarding(lab: Lab) -> None:
    lab.director.sysctl("net.ipv4.ip_forward", 0)


def _forward(lab: Lab) -> None:
    lab.director.sysctl("net.ipv4.ip_forward", 1)


def _forbid(lab: Lab) -> None:
    _run(lab.director, "iptables", "-P", "FORWARD", "DROP")


def _allow(lab: Lab) -> None:
    _run(lab.director, "iptables", "-P", "FORWARD", "ACCEPT")


def _wrong_port(lab: Lab) -> None:
    service = f"{lab.vip}:80"
    lab.lbq("del", "server", service, f"{lab.servers[1].address}:80")
    lab.lbq("add", "server", service, f"{lab.servers[1].address}:8080")


def _right_port(lab: Lab) -> None:
    service = f"{lab.vip}:80"
    lab.lbq("del", "server", service, f"{lab.servers[1].address}:8080")
    lab.lbq("add", "server", service, f"{lab.servers[1].address}:80")


ARP_ANSWERED = {"all": 0, "lo": 0, "eth0": 0}


def _answer_arp(lab: RoutedLab) -> None:
    """Let web01 answer for the VIP, and be the one the router has heard."""
    web01 = lab.servers[0]
    for device, value in ARP_ANSWERED.items():
        web01.sysctl(f"net.ipv4.conf.{device}.arp_ignore", value)
    [link] = json.loads(web01.run(["ip", "-j", "link", "show", "dev", "eth0"], check=True).stdout)
    _run(lab.router, "ip", "neigh", "replace", lab.vip, "lladdr", link["address"], "nud", "stale", "dev", "segment")


def _keep_silent(lab: RoutedLab) -> None:
    lab.servers[0].sysctl("net.ipv4.conf.all.arp_ignore", 1)
    _forget_neighbours(lab)


def _take_vip(lab: RoutedLab) -> None:
    _run(lab.servers[1], "ip", "address", "del", f"{lab.vip}/32", "dev", "lo")


def _give_vip(lab: RoutedLab) -> None:
    _run(lab.servers[1], "ip", "address", "add", f"{lab.vip}/32", "dev", "lo")


def _check_reverse_path(lab: RoutedLab) -> None:
    lab.servers[1].sysctl("net.ipv4.conf.all.rp_filter", 1)


def _do_not_check(lab: RoutedLab) -> None:
    lab.servers[1].sysctl("net.ipv4.conf.all.rp_filter", 0)


def _narrow(lab: RoutedLab) -> None:
    """Make the way to the servers narrower than anybody is told."""
    for number in (1, 2):
        _run(lab.router, "ip", "link", "set", f"net{number}", "mtu", SMALL_MTU)
    _run(lab.router, "iptables", "-A", "OUTPUT", "-p", "icmp", "--icmp-type", "fragmentation-needed", "-j", "DROP")


def _widen(lab: RoutedLab) -> None:
    _run(lab.router, "iptables", "-D", "OUTPUT", "-p", "icmp", "--icmp-type", "fragmentation-needed", "-j", "DROP")


EXERCISES = (
    Exercise("nat", "a real server without a way back", "Every second request hangs until the browser gives up.",
             "The director sends the SYN to web02; what does it hear from there?  ip route, on each web server",
             f"ip netns exec lbq-web02 ip route add default via {GATEWAY}\n"
             "With NAT the replies must pass the director again, or nobody puts the VIP into them: it must be the real "
             "servers' gateway.", _no_gateway, _gateway),
    Exercise("nat", "a quiesced real server", "web01 has been bored since the maintenance yesterday; web02 groans.",
             "lbq list; lbq explain says why web01 loses",
             "ip netns exec lbq-director {lbq} set server 192.168.10.1:80 192.168.20.1,weight=1\n"
             "Weight 0 means: finish what you have, take nothing new.  Nobody had given the weight back.",
             _quiesce, _weigh),
    Exercise("nat", "a director that does not forward", "Since the security hardening nothing works any more.",
             "lbq trace shows packets that are rewritten; which sysctl lets the host send on what is not for itself?",
             "ip netns exec lbq-director sysctl -w net.ipv4.ip_forward=1\n"
             "lbq rewrites a packet and gives it back; the host routes it to the real server only if it is a router.",
             _stop_forwarding, _forward),
    Exercise("nat", "a firewall in the way", "Since the firewall was installed nothing works any more.",
             "lbq trace shows packets that are rewritten; iptables -S FORWARD, in lbq-director",
             "ip netns exec lbq-director iptables -P FORWARD ACCEPT\n"
             "With NAT, packets to the real servers and back pass the host's FORWARD rules (lbq --accept-forward adds "
             "rules for them).", _forbid, _allow),
    Exercise("nat", "a port where nobody listens", "Every second request is refused at once.",
             "Who says no?  lbq trace --only-drops is silent; which port has each server in lbq list?",
             "ip netns exec lbq-director {lbq} del server 192.168.10.1:80 192.168.20.2:8080\n"
             "ip netns exec lbq-director {lbq} add server 192.168.10.1:80 192.168.20.2:80\n"
             "web02 was added with port 8080, where it has no web server: it answers with a reset.",
             _wrong_port, _right_port),
    Exercise("dr", "a real server that answers ARP", "web01 gets every request, whatever the weights say.",
             "Does the director see the requests (lbq list, lbq trace)?  Whose MAC has the router for the VIP?  "
             "ip neigh, there",
             "ip netns exec lbq-web01 sysctl -w net.ipv4.conf.all.arp_ignore=1\n"
             "ip netns exec lbq-router ip neigh flush dev segment\n"
             "Every machine with the VIP answers when the router asks who has it, unless it is told not to; then "
             "requests go past the director.", _answer_arp, _keep_silent),
    Exercise("dr", "a real server without the VIP", "Every second request hangs until the browser gives up.",
             "The packets arrive at web02 (their destination is still the VIP); does it know that this is itself?  "
             "ip address, on each web server",
             "ip netns exec lbq-web02 ip address add 172.16.10.1/32 dev lo\n"
             "With direct routing nothing in the packet is changed, so a real server must have the VIP, on lo.",
             _take_vip, _give_vip),
    Exercise("tun", "a path that is narrower than it says", "Pages load, but uploads hang.",
             "Small requests pass and large ones do not: which is the first link that they do not pass, and who should "
             "have said so?  ip link and iptables -S, on the router",
             "ip netns exec lbq-router iptables -D OUTPUT -p icmp --icmp-type fragmentation-needed -j DROP\n"
             "A tunnel's packets are longer by their outer header, and a router that cannot pass them on says so by "
             "ICMP.  Who drops that ICMP leaves a black hole behind.", _narrow, _widen, large=True),
    Exercise("tun", "a real server that mistrusts the way", "Every second request hangs until the browser gives up.",
             "The tunnel's packets arrive at web02.  What comes out of them comes from a client: by which device would "
             "web02 send to that (ip route get), and what does rp_filter make of packets that come in by another?",
             "ip netns exec lbq-web02 sysctl -w net.ipv4.conf.all.rp_filter=0\n"
             "Reverse path filtering drops a packet whose source would be answered by another device than it came by; "
             "behind a tunnel that is the usual case (lbq realserver switches it off).",
             _check_reverse_path, _do_not_check),
    Exercise("tun", "a real server without the VIP", "Every second request hangs until the browser gives up.",
             "What is in the tunnel is still addressed to the VIP.  ip address, on each web server",
             "ip netns exec lbq-web02 ip address add 172.16.10.1/32 dev lo\n"
             "A real server unpacks the packet, and what comes out is for the VIP: it must have it, on lo.",
             _take_vip, _give_vip),
)


def of(mode: str) -> list[Exercise]:
    """Return the exercises of a forwarding method, in their order."""
    return [each for each in EXERCISES if each.mode == mode]


def find(mode: str, number: int) -> Exercise:
    """Return exercise *number* of *mode*, counted from 1."""
    known = of(mode)
    if not 1 <= number <= len(known):
        raise ConfigError(f"there is no exercise {number} for {mode}; there are 1 to {len(known)}")
    return known[number - 1]


# ---- Does it work? -----------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What came of some requests."""

    answers: Counter            # by who answered
    failed: list[str]           # why, each
    seen: int                   # requests during which packets came past the director
    large_failed: list[str]

    def trouble(self, servers: list[str]) -> list[str]:
        """Return what is still wrong, one line each."""
        found = []
        if self.failed:
            found.append(f"{len(self.failed)} of {REQUESTS} requests failed: {self.failed[0]}")
        silent = [name for name in servers if not self.answers[name]]
        if silent and len(self.failed) < REQUESTS:
            found.append(f"{' and '.join(silent)} answered none of them")
        if self.seen < self.answers.total():
            found.append(f"the director saw {self.seen} of {self.answers.total()} requests that were answered")
        if self.large_failed:
            found.append(f"a request of {LARGE} bytes failed: {self.large_failed[0]}")
        return found


def try_out(lab: Lab, exercise: Exercise) -> Result:
    """Send some requests, and count who answers."""
    answers, failed, large_failed = Counter(), [], []
    seen = 0
    with ControlClient(lab.director.call(state_directory)) as director:
        before = _packets_ever(director)
        for _ in range(REQUESTS):
            signals.check()
            try:
                answers[_request(lab, _new_port(lab, director))] += 1
            except OSError as error:
                failed.append(_reason(error))
            after = _packets_ever(director)
            seen += after > before
            before = after
        if exercise.large and not failed:
            try:
                _request(lab, _new_port(lab, director), LARGE)
            except OSError as error:
                large_failed.append(_reason(error))
    return Result(answers, failed, seen, large_failed)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _packets_ever(director: ControlClient) -> int:
    # not connections: a client's port that comes again soon belongs to the connection that is there
    return sum(row["stats"]["packets_in"] for row in director.call("list"))


def _new_port(lab: Lab, director: ControlClient) -> int:
    """Return a port of the client that the director does not remember, 0 when there is none.

    A connection from one that it does remember goes where that one went, perhaps minutes ago: nothing is scheduled.
    """
    known = {row["cport"] for row in director.connections()}
    with lab.client.inside(), ExitStack() as tried:
        while True:
            try:
                sock = tried.enter_context(socket.socket())
                sock.bind(("", 0))      # to one that nobody has, and none of those that were tried
            except OSError:
                return 0
            if (port := sock.getsockname()[1]) not in known:
                return port


def _request(lab: Lab, port: int, size: int = 0) -> str:
    """Ask for the page, from *port*, with a cookie of *size* bytes; return who answered."""
    connection = http.client.HTTPConnection(lab.vip, 80, timeout=TIMEOUT, source_address=("", port) if port else None)
    try:
        with lab.client.inside():
            connection.connect()
        connection.request("GET", "/", headers={"Cookie": "x" * size} if size else {})
        return connection.getresponse().read().decode().strip()
    except http.client.HTTPException as error:
        raise OSError(type(error).__name__) from error
    finally:
        connection.close()


def check(lab: Lab, exercise: Exercise) -> list[str]:
    """Return what is still wrong with the lab, nothing when it is repaired."""
    if missing := [host.name for host in lab.namespaces if not host.exists()]:
        raise HostError(f"the lab is not up: there is no network namespace {', '.join(missing)}; "
                        f"build it with lbq lab {exercise.mode} --exercise N")
    if lab.lbq("list", check=False).returncode != 0:
        return [f"no director answers in {lab.director.name}"]
    return try_out(lab, exercise).trouble([host_name(server) for server in lab.servers])


# ---- lbq lab MODE --exercise N -----------------------------------------------------------------------------------


def begin(mode: str, number: int) -> int:
    """Build the lab, break it, say what is complained of, and leave it up; return the exit status."""
    from lbq.lab import tour  # it has the pictures; and writes reports, which needs more

    exercise = find(mode, number)
    require_root()
    lab = _lab(mode, keep=True)
    if taken := ", ".join(host.name for host in lab.existing()):
        raise HostError(f"cannot build the lab: network namespace {taken} exists already; take that lab down with: "
                        f"lbq lab {mode} --down")
    signals.listen()
    is_up = False
    try:
        lab.up()
        signals.check()
        lab.start_web_servers()
        lab.start_director("--vip", f"{lab.vip}:80", "--mode", mode, "--scheduler", "rr",
                           *(word for server in lab.servers for word in ("--real", f"{server.address}:80")))
        signals.check()
        exercise.break_it(lab)
        (lab.folder / BUILT).write_text(_name(mode, number))
        is_up = True
    except signals.Interrupted as interrupted:
        print(f"\n{interrupted}: the lab ends here.", flush=True)
        return interrupted.status
    finally:
        signals.ignore()
        if not is_up:
            lab.down()
    own = tour.own_command()
    lbq = f"{own} lab {mode} --exercise {number}"
    print(f"Exercise {number} of {len(of(mode))}, {mode}.\n\n{tour.PICTURES[mode]}")
    print(f"Virtual service {lab.vip}:80, scheduler rr, web01 and web02.  Something is wrong.  Users say:\n\n"
          f"    {exercise.complaint}\n\nFind out what it is, and mend it.  Commands of a machine: "
          "ip netns exec lbq-director COMMAND.")
    commands = {
        "is it mended?": f"{lbq} --check", "where to look": f"{lbq} --hint", "what it was": f"{lbq} --solution",
        "one request": f"ip netns exec lbq-client curl -m 2 http://{lab.vip}/",
        "the director": f"ip netns exec lbq-director {own} list (or doctor, trace, explain)",
        "take it down": f"{own} lab {mode} --down"}
    for purpose, command in commands.items():
        print(f"  {purpose:14} {command}")
    return 0


def report(mode: str, number: int) -> int:
    """Say whether the lab that is up is mended; return 0 when it is, else 1."""
    exercise = find(mode, number)
    require_root()
    lab = _lab(mode)
    _require_built(lab, mode, number)
    trouble = check(lab, exercise)
    if not trouble:
        print(f"It works: {REQUESTS} requests, answered by all web servers.  It was: {exercise.title}.")
        return 0
    print("Not yet:", *trouble, sep="\n  ")
    return 1


def _require_built(lab: Lab, mode: str, number: int) -> None:
    """Raise when the lab that is up is another one: what is said about it would be about this."""
    if not lab.existing():
        return              # check() says so
    try:
        built = (lab.folder / BUILT).read_text()
    except OSError:
        built = "no exercise"
    if built != _name(mode, number):
        raise HostError(f"the lab that is up is {built}, not {_name(mode, number)}; check that one, or take it down "
                        "(--down) and build this one")


def _name(mode: str, number: int) -> str:
    return f"exercise {number} of {mode}"


def tell(mode: str, number: int, what: str) -> int:
    """Print the *what*, ``hint`` or ``solution``, of an exercise; return the exit status."""
    from lbq.lab import tour

    exercise = find(mode, number)
    print(exercise.hint if what == "hint" else
          f"It is {exercise.title}.\n{exercise.solution.format(lbq=tour.own_command())}")
    return 0


def _lab(mode: str, keep: bool = False) -> Lab:
    return Lab(keep=keep) if mode == "nat" else RoutedLab(mode, keep=keep)
