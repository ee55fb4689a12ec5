"""Real programs on the lab's machines: nginx, curl, wrk, iperf3, and what to ask them afterwards.

``lbq.lab.topology`` builds the network; here is the traffic.  Every wait has an end.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lbq.control.client import ControlClient
from lbq.host.setup import state_directory
from lbq.lab.namespace import Namespace, Process
from lbq.lab.topology import Lab, host_name
from lbq.losses import queue_counters
from lbq.netlink import QUEUES, bound_queues
from tests.helpers import endpoints

FULL = os.environ.get("LBQ_FULL") == "1"    # the whole load, not the slice for every run
IN_SOCKETS = 4 + 32 << 20       # most that both ends hold of what iperf3 has sent: net.ipv4.tcp_wmem, tcp_rmem
ENDPOINTS = Path(endpoints.__file__)

ESTABLISHED, TIME_WAIT, CLOSED, LISTEN = "01", "06", "07", "0A"     # <net/tcp_states.h>
IP_RECVERR, IPV6_RECVERR = 11, 25            # <linux/in.h>, <linux/in6.h>
RECEIVE_ERRORS = {socket.AF_INET: (socket.IPPROTO_IP, IP_RECVERR),
                  socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_RECVERR)}

# A counter that moved in any namespace is a packet that somebody broke.
BROKEN = ("IpInHdrErrors", "IpInAddrErrors", "IpReasmFails", "IpFragFails", "IpInCsumErrors", "TcpInErrs",
          "TcpInCsumErrors", "UdpInCsumErrors", "IcmpInErrors", "IcmpInCsumErrors", "TcpPAWSEstab",
          "TcpTCPAbortOnTimeout", "Ip6InHdrErrors", "Ip6InAddrErrors", "Ip6InTruncatedPkts", "Ip6ReasmFails",
          "Ip6FragFails", "Udp6InCsumErrors", "Icmp6InErrors", "Icmp6InCsumErrors")

SWITCHED: set[str] = set()      # what features() has switched in this visit

# In `lbq stats`: overruns of the queue, and what the director could not make sense of or refused to carry.
LOST = ("queue_dropped", "user_dropped", "verdict_errors", "scheduler_errors", "dropped_truncated",
        "dropped_malformed", "dropped_fragment", "dropped_table_full")

NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
worker_processes 1;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    keepalive_timeout 600s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address}{port} backlog=8192;
        location / {{ return 200 "{title}\\n"; }}
    }}
}}
"""


def start_nginx(lab: Lab, port: int = 80, ipv6: bool = False) -> None:
    """Run nginx on every server; it answers each request with the server's name."""
    for server in lab.servers:
        server.sysctl("net.core.somaxconn", 8192)
        folder = lab.folder / f"nginx{6 if ipv6 else ''}-{host_name(server)}"
        folder.mkdir()
        config = folder / "nginx.conf"
        address = "[::]:" if ipv6 else ""
        config.write_text(NGINX.format(folder=folder, address=address, port=port, title=host_name(server)))
        server.popen(["nginx", "-p", folder, "-c", config])
    for server in lab.servers:
        wait_for_listener(server, port, table="tcp6" if ipv6 else "tcp")


def start_endpoint(host: Namespace, kind: str, port: int = 80, ipv6: bool = False) -> Process:
    """Run one of endpoints.py on *host*."""
    process = host.popen([sys.executable, ENDPOINTS, kind, port, host_name(host), *(["ipv6"] if ipv6 else [])])
    process.wait_for("ready")
    return process


def start_endpoints(lab: Lab, kind: str, port: int = 80, ipv6: bool = False) -> None:
    """Run one of endpoints.py on every server."""
    for server in lab.servers:
        start_endpoint(server, kind, port, ipv6)


def wait_for_listener(host: Namespace, port: int, timeout: float = 10.0, table: str = "tcp") -> None:
    """Wait until something listens on TCP *port*, without connecting to it (connections are counted)."""
    wanted = f":{port:04X}"
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if any(local.endswith(wanted) and state == LISTEN for local, state in tcp_sockets(host, table)):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port} in {host} after {timeout:g} s")


def tcp_sockets(host: Namespace, table: str = "tcp") -> list[tuple[str, str]]:
    """Return local address and state of each TCP socket of *host*, as /proc has them."""
    with host.inside():
        lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]
    return [(words[1], words[3]) for words in map(str.split, lines)]


def connect(host: Namespace, address: str, port: int = 80, timeout: float = 10.0) -> socket.socket:
    """Return a TCP connection from *host*."""
    with host.inside():
        return socket.create_connection((address, port), timeout=timeout)


def udp_socket(host: Namespace, address: str, port: int, timeout: float = 10.0) -> socket.socket:
    """Return a UDP socket of *host*, connected so that it hears ICMP errors (icmp.error_about tells more of them)."""
    with host.inside():
        sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
    sock.setsockopt(*RECEIVE_ERRORS[sock.family], 1)
    sock.settimeout(timeout)
    sock.connect((address, port))
    return sock


def family_of(address: str) -> socket.AddressFamily:
    """Return the family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def udp_server(host: Namespace, address: str, port: int, timeout: float = 10.0) -> socket.socket:
    """Return a UDP socket of *host* that others can send to."""
    with host.inside():
        sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
    sock.settimeout(timeout)
    sock.bind((address, port))
    return sock


def hold(host: Namespace, address: str, port: int = 80) -> tuple[str, socket.socket]:
    """Open a connection to ``endpoints.py hold``; return who took it, and the socket."""
    sock = connect(host, address, port)
    name = b""
    while not name.endswith(b"\n"):
        data = sock.recv(64)
        assert data, "the server closed a connection that it should hold"
        name += data
    return name.decode().strip(), sock


def still_answers(sock: socket.socket) -> bool:
    """Return True when a held connection still carries bytes both ways."""
    message = os.urandom(64)
    sock.sendall(message)
    received = b""
    while len(received) < len(message):
        data = sock.recv(64)
        if not data:
            return False
        received += data
    return received == message


def curl(host: Namespace, url: str, *options: str, timeout: int = 20) -> str:
    """Return what curl gets from *url*."""
    command = ["curl", "-sS", "--fail", "--max-time", timeout, *options, url]
    return host.run(command, timeout=timeout + 5).stdout


def download(host: Namespace, url: str, timeout: float = 60.0) -> str:
    """Return the SHA-256 of what curl gets from *url*, hashed as it comes."""
    process = host.popen(["curl", "-sS", "--fail", "--max-time", timeout, url])
    digest = hashlib.sha256()
    while block := process.stdout.read1(endpoints.BLOCK):
        digest.update(block)
    assert process.wait(10) == 0, process.log.read_text()
    process.stdout.close()
    return digest.hexdigest()


def upload(host: Namespace, url: str, size: int, timeout: float = 60.0) -> str:
    """Send *size* bytes of known content with curl; return the SHA-256 that the server answers."""
    headers = ["-H", f"Content-Length: {size}", "-H", "Transfer-Encoding:"]
    process = host.popen(["curl", "-sS", "--fail", "--max-time", timeout, *headers, "-T", "-", url],
                         stdin=-1)
    for block in endpoints.content(size):
        process.stdin.write(block)
    process.stdin.close()
    answer = process.stdout.read().decode()
    assert process.wait(10) == 0, process.log.read_text()
    process.stdout.close()
    return answer


def wrk(host: Namespace, url: str, connections: int, seconds: int, close: bool = False) -> int:
    """Load *url* with wrk and return how many requests were answered; any error fails."""
    headers = ["-H", "Connection: close"] if close else []
    command = ["wrk", "-t", 2, "-c", connections, "-d", f"{seconds}s", "--timeout", "20s", *headers, url]
    report = host.run(command, timeout=seconds + 40).stdout
    assert "Socket errors" not in report and "Non-2xx" not in report, report
    return int(re.search(r"(\d+) requests in", report)[1])


def iperf3(host: Namespace, address: str, *options: str) -> dict:
    """Return the end of iperf3's JSON report."""
    seconds = 10 if FULL else 1
    command = ["iperf3", "--json", "--connect-timeout", "5000", "-c", address, "-t", seconds, *options]
    report = json.loads(host.run(command, timeout=seconds + 20).stdout)
    assert "error" not in report, report["error"]
    return report["end"]


def listing(lab: Lab) -> dict:
    """Return the one service of ``lbq list --json``."""
    [service] = json.loads(lab.lbq("list", "--json").stdout)
    return service


def ask_director(method: str, **parameters):
    """Return what the director of this namespace answers."""
    with ControlClient(state_directory()) as client:
        return client.call(method, **parameters)


def tell(lab: Lab, method: str, **parameters):
    """Return what the director of *lab* answers; `lbq` itself takes longer to start than to be answered."""
    return lab.director.call(ask_director, method, **parameters)


def server_row(lab: Lab, server: Namespace) -> dict:
    """Return the row of *server* in ``lbq list --json``."""
    [row] = [row for row in listing(lab)["servers"] if row["address"] == server.address]
    return row


def new_lab(kind, *arguments, **options) -> Lab:
    """Return a lab of this *kind* with names of this run; one at a time, as they share them."""
    return kind(*arguments, prefix=f"lbqt{os.getpid()}-", **options)


@contextmanager
def visit(lab: Lab, forgiven: set[str] = frozenset()) -> Iterator[Lab]:
    """Use *lab* for one test: what it starts ends with it, and no packet may have been broken or lost.

    *forgiven* are the counters that the test's own packets are to move; where nobody makes segments, TcpPAWSEstab is
    moved by plain forwarding, too.
    """
    SWITCHED.clear()
    started = {host: len(host.processes) for host in lab.namespaces}
    before = broken_packets(lab)
    try:
        yield lab
        grown = {name: count - before.get(name, 0) for name, count in broken_packets(lab).items()}
        late = {"TcpPAWSEstab"} if any("tso off" in words for words in SWITCHED) else set()
        broken = {name: count for name, count in grown.items() if count and name.split()[1] not in forgiven | late}
        assert not broken, broken
        if any({"--vip", "serve"} & set(process.args) and process.poll() is None for process in lab.director.processes):
            lost = {name: count for name, count in lost_packets(lab).items() if name not in forgiven}
            assert not lost, lost
    finally:
        for process in lab.director.processes[started[lab.director]:]:      # pytest shows this beside a failure
            print(f"--- {process.title()}\n{process.log.read_text(errors='replace')}")
        for host, number in started.items():
            for process in reversed(host.processes[number:]):
                process.stop()
                process.log.unlink(missing_ok=True)     # the next one takes its place
            del host.processes[number:]


def broken_packets(lab: Lab) -> dict[str, int]:
    """Return what the kernel counted as broken in any of the lab's namespaces, by ``namespace counter``.

    A SYN ACK that a client has already is counted, too, though nobody broke it: a server says it again after a second,
    in which a busy machine may not have carried the client's answer.
    """
    found = {}
    for namespace in lab.namespaces:
        counters = namespace.counters()
        counters["TcpInErrs"] -= min(counters["TcpInErrs"], counters["TcpTCPSYNChallenge"])
        found |= {f"{namespace} {name}": counters[name] for name in BROKEN if counters.get(name)}
    return found


def lost_packets(lab: Lab) -> dict[str, int]:
    """Return what the director dropped for another reason than that no server was there, by counter."""
    stats = tell(lab, "stats")
    counters = stats["counters"] | stats["queue"]
    return {name: counters[name] for name in LOST if counters[name]}


def resets_suffered(host: Namespace) -> int:
    """Return how many connections of *host* were reset, but for those a program closed with data unread.

    wrk does that with what is under way when its time is over.
    """
    counters = host.counters()
    return counters["TcpEstabResets"] - counters["TcpTCPAbortOnClose"]


def settle(lab: Lab, quiet: float = 0.1, timeout: float = 10.0) -> None:
    """Wait until all is said: no connection begins or ends, no packet waits for the director, and none comes anywhere.

    That none has come for *quiet* seconds is not enough: a busy machine pauses longer between two packets.
    """
    deadline = time.monotonic() + timeout
    before, now = None, -1
    while before != now or (unfinished := _beginning_or_ending(lab)) or (waiting := _waiting(lab)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"packets arrive after {timeout:g} s, or wait ({waiting}), or will: {unfinished}")
        time.sleep(quiet)
        unfinished, waiting = [], 0
        before, now = now, sum(host.counters()[name] for host in lab.namespaces
                               for name in ("IpInReceives", "Ip6InReceives"))


def _beginning_or_ending(lab: Lab) -> list[str]:
    return [f"{host} {local} {state}" for host in lab.namespaces for table in ("tcp", "tcp6")
            for local, state in tcp_sockets(host, table) if state not in (ESTABLISHED, TIME_WAIT, CLOSED, LISTEN)]


def _waiting(lab: Lab) -> int:
    """Return how many packets wait for the director's verdict."""
    counted = lab.director.call(lambda: queue_counters(bound_queues(), QUEUES))
    return counted.waiting if counted else 0


@contextmanager
def route(host: Namespace, *words: str) -> Iterator[None]:
    """Give *host* a route, ``ip route add WORDS``, for the length of a ``with`` block."""
    host.run(["ip", "route", "add", *words])
    try:
        yield
    finally:
        host.run(["ip", "route", "del", *words])


@contextmanager
def features(host: Namespace, words: str) -> Iterator[None]:
    """Switch *words* such as ``tso off`` of ethtool on eth0 of *host* for the length of a ``with`` block."""
    SWITCHED.add(words)
    host.run(["ethtool", "-K", "eth0", *words.split()])
    try:
        yield
    finally:
        host.run(["ethtool", "-K", "eth0", *words.replace("off", "on").split()])


def received_bytes(host: Namespace, device: str = "eth0") -> int:
    """Return how many bytes have come in by *device*, as its driver counts them."""
    with host.inside():
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    [line] = [line for line in lines if line.strip().startswith(device + ":")]
    return int(line.partition(":")[2].split()[0])


def grown(host: Namespace, before: dict[str, int], *names: str) -> tuple[int, ...]:
    """Return by how much counters have grown since *before*."""
    now = host.counters()
    return tuple(now[name] - before[name] for name in names)
