"""One scenario's network inside the guest: a director between a client side and a server side.

    client side                      director                       server side
    (this program) ---- tap c  |  VIPs 10.0.0.1-8  |  tap s ---- (this program)
     any address,                                        10.1.0.N: machine N of the segment,
     behind one router                                   10.2.0.N: behind a router on it

Both ends are tap devices: a frame written to one has gone through the whole kernel when ``write`` returns,
and what the kernel made of it waits to be read.  So every answer belongs to exactly one packet, and a packet
costs a handful of system calls, no process and no waiting.  Real servers have a MAC address each, so that
the chosen one is seen even when the packet does not name it.  What the director's own host is given is seen
by raw sockets.  Each world is a network namespace of its own: IPVS keeps all its state per namespace.

A world of IPv6 has all addresses in both families.  Neighbours are set by hand there, too, and the director has no
link-local address: nothing but IPVS talks, apart from multicast of the neighbour discovery (compare.py leaves it out).
"""
from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess

from tests.kernel import topology

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
TUN = "/run/tun"
IP_MTU_DISCOVER, IP_PMTUDISC_INTERFACE = 10, 4
HOST_PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, 132)
HOST_PROTOCOLS6 = (socket.IPPROTO_ICMPV6, socket.IPPROTO_AH)        # the host looks no further than authentication
IPV6_CHECKSUM = 7
SYSCTLS = {
    "ipv4/ip_forward": 1, "ipv4/icmp_ratemask": 0,          # no ICMP is limited
    **{f"ipv4/conf/{device}/{name}": value for device in ("all", "c", "s")
       for name, value in (("rp_filter", 0), ("send_redirects", 0), ("accept_redirects", 0))},
    "ipv4/conf/s/accept_local": 1,          # a DR server's answer comes from the VIP, which is the director's own
}
# Before there are devices, and for good; addr_gen_mode 1: no link-local address.
IPV6_DEFAULTS = {f"ipv6/conf/default/{name}": value for name, value in (
    ("disable_ipv6", 0), ("accept_dad", 0), ("accept_ra", 0), ("addr_gen_mode", 1), ("router_solicitations", 0))}
# Of ICMPv6 only "packet too big" (2) is to be limited, which it never is.
IPV6_SYSCTLS = {"ipv6/conf/all/forwarding": 1, "ipv6/icmp/ratemask": 2, "ipv6/auto_flowlabels": 0}
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWNEIGH, RTM_NEWRULE = 16, 20, 24, 28, 32
MAIN, DIVERTED = 254, 100                                       # routing tables
UNICAST, LOCAL, UNREACHABLE, UNIVERSE, HOST = 1, 2, 7, 0, 254   # kinds and scopes of routes
NODAD = 2
NLM_F_REQUEST_ACK_CREATE = 0x1 | 0x4 | 0x400
# Asked for after each command: when this has been answered, all before it is done.
SENTINEL, SENTINEL_ANSWER = "-L --timeout", b"Timeout (tcp tcpfin udp): "

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> int:
    """Raise what a C call that returned *result* failed with."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class World:
    """A fresh network namespace with its devices, its sockets and its ipvsadm."""

    def __init__(self, options: dict):
        check(libc.unshare(CLONE_NEWNET))
        self.namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        has_ipv6 = options.get("family") == 6
        sysctl(IPV6_DEFAULTS if has_ipv6 else {"ipv6/conf/default/disable_ipv6": 1})
        self.taps = {name: tap(name) for name in ("c", "s")}
        self.hosts = [host4(protocol) for protocol in (*HOST_PROTOCOLS, socket.IPPROTO_ICMP)]
        self.hosts6 = [host6(protocol) for protocol in (*HOST_PROTOCOLS, *HOST_PROTOCOLS6) if has_ipv6]
        configure(options)
        sysctl(SYSCTLS | IPV6_SYSCTLS if has_ipv6 else SYSCTLS)
        self.poll = select.poll()
        self.readers = {}
        for name, fd in self.taps.items():
            self._watch(fd, name, lambda fd=fd: os.read(fd, 70000))
        for each in self.hosts:
            self._watch(each.fileno(), "host", lambda each=each: each.recv(70000))
        for each in self.hosts6:
            self._watch(each.fileno(), "host", lambda each=each: received6(each))
        self.ipvsadm = Ipvsadm()

    def _watch(self, fd: int, name: str, read) -> None:
        self.poll.register(fd, select.POLLIN)
        self.readers[fd] = name, read

    def enter(self) -> None:
        """Make this world the one that files in /proc and new processes see."""
        check(libc.setns(self.namespace, CLONE_NEWNET))

    def send(self, side: str, packet: bytes) -> None:
        """Let *packet* arrive at the director from *side*."""
        os.write(self.taps[side], topology.ethernet(side, packet))

    def received(self) -> list[tuple[str, bytes]]:
        """Return all that the director sent since, as (side, frame), and gave its host, as ("host", packet)."""
        found = []
        while ready := self.poll.poll(0):
            for fd, _ in ready:
                name, read = self.readers[fd]
                found.append((name, read()))
        return found

    def close(self) -> None:
        self.ipvsadm.close()
        for fd in (*self.taps.values(), self.namespace):
            os.close(fd)
        for each in (*self.hosts, *self.hosts6):
            each.close()


class Ipvsadm:
    """The real ipvsadm, one process for all commands of a world: ``ipvsadm -R`` reads them line by line.

    A process for each command would cost more than a thousand packets.
    """

    def __init__(self):
        self.process = None

    def run(self, line: str) -> str:
        """Run one command line; return what it printed: nothing, a complaint, or the listing asked for."""
        if self.process is None:
            self.process = subprocess.Popen(["stdbuf", "-oL", "ipvsadm", "-R"], bufsize=0, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.process.stdin.write(f"{line}\n{SENTINEL}\n".encode())
        answer = b""
        while not (answer.endswith(b"\n") and SENTINEL_ANSWER in answer):
            part = os.read(self.process.stdout.fileno(), 4096)
            if not part:                            # it did not like the words, and ended
                self.close()
                break
            answer += part
        return answer.partition(SENTINEL_ANSWER)[0].decode().strip()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def host4(protocol: int) -> socket.socket:
    """Return a raw socket that sees what the host is given of an IPv4 *protocol*."""
    result = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    # A raw socket learns path MTUs from errors, which no other host's would.
    result.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_INTERFACE)
    return result


def host6(protocol: int) -> socket.socket:
    """Return a raw socket that sees what the host is given of an IPv6 *protocol*; it is told the header in parts."""
    result = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS):
        result.setsockopt(socket.IPPROTO_IPV6, option, 1)
    result.setsockopt(socket.IPPROTO_RAW, IPV6_CHECKSUM, -1)        # wrong ones are delivered, too
    return result


def received6(host: socket.socket) -> bytes:
    """Return the next packet of *host* with an IPv6 header; flow label and extension headers are not known."""
    segment, parts, _, sender = host.recvmsg(70000, 256)
    said = {kind: data for _, kind, data in parts}
    (number,), (kind,) = (struct.unpack("=i", said[each]) for each in (socket.IPV6_HOPLIMIT, socket.IPV6_TCLASS))
    head = struct.pack("!IHBB", 6 << 28 | kind << 20, len(segment), host.proto, number)
    return head + topology.packed(sender[0]) + said[socket.IPV6_PKTINFO][:16] + segment


def tap(name: str) -> int:
    """Make the tap device *name* in the present namespace and return its file."""
    if not os.path.exists(TUN):
        os.mknod(TUN, 0o20600, os.makedev(10, 200))
    fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def write(path: str, value) -> None:
    """Write a sysctl of the present namespace."""
    with open(path, "w") as file:
        file.write(str(value))


def sysctl(values: dict[str, int]) -> None:
    """Write sysctls of the present namespace."""
    for name, value in values.items():
        write(f"/proc/sys/net/{name}", value)


def configure(options: dict) -> None:
    """Give the present namespace its addresses, routes, neighbours and marks."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        index = {name: socket.if_nametoindex(name) for name in ("lo", "c", "s")}
        for name in ("lo", "c", "s"):
            attributes = [] if name == "lo" else [
                (1, topology.mac(topology.DIRECTOR_MACS[name])), (4, struct.pack("=I", topology.mtu(options, name)))]
            request(netlink, RTM_NEWLINK, struct.pack("=BxHiII", 0, 0, index[name], 1, 1), attributes)
        for machine, longer in topology.families(options):
            configure_family(netlink, options, index, machine, longer)
    if options.get("marks"):
        mark(options["marks"])


def configure_family(netlink: socket.socket, options: dict, index: dict[str, int], machine, longer: int) -> None:
    """Make the addresses, neighbours and routes of one family: *machine* gives an IPv4 address's in it."""
    def packed(address: str) -> bytes:
        return topology.packed(machine(address))

    family = socket.AF_INET6 if longer else socket.AF_INET
    for address, prefix, device in topology.ADDRESSES:
        flags = NODAD if longer else 0
        request(netlink, RTM_NEWADDR, struct.pack("=BBBBi", family, prefix + longer, flags, 0, index[device]),
                [(2, packed(address)), (1, packed(address))])
    for address, mac, device in topology.NEIGHBOURS:
        request(netlink, RTM_NEWNEIGH, struct.pack("=BxHiHBB", family, 0, index[device], 0x80, 0, 0),
                [(1, packed(address)), (2, topology.mac(mac))])
    for network, prefix, gateway, device in topology.ROUTES:
        route(netlink, MAIN, UNICAST, UNIVERSE, packed(network), prefix and prefix + longer,
              [(5, packed(gateway)), (4, struct.pack("=I", index[device]))])
    network, prefix = topology.UNREACHABLE
    route(netlink, MAIN, UNREACHABLE, UNIVERSE, packed(network), prefix + longer, [])
    if "divert" in options:             # packets with this mark are the host's, wherever they go
        route(netlink, DIVERTED, LOCAL, HOST, packed("0.0.0.0"), 0, [(4, struct.pack("=I", index["lo"]))])
        request(netlink, RTM_NEWRULE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, DIVERTED, 0, 0, 1, 0),
                [(10, struct.pack("=I", options["divert"]))])


def request(netlink: socket.socket, kind: int, header: bytes, attributes: list[tuple[int, bytes]]) -> None:
    """Send one rtnetlink request and raise when the kernel refuses it."""
    body = header
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    netlink.send(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST_ACK_CREATE, 1, 0) + body)
    error = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    if error:
        raise OSError(-error, f"rtnetlink request {kind}: {os.strerror(-error)}")


def route(netlink: socket.socket, table: int, kind: int, scope: int, network: bytes, prefix: int,
          attributes: list) -> None:
    """Add one route."""
    family = socket.AF_INET if len(network) == 4 else socket.AF_INET6
    request(netlink, RTM_NEWROUTE, struct.pack("=BBBBBBBBI", family, prefix, 0, 0, table, 4, scope, kind, 0),
            [(1, network), *attributes] if prefix else attributes)


def mark(marks: list[list]) -> None:
    """Mark packets by their destination, as users of fwmark services do: [[protocol or "", address, port, mark]]."""
    for program, is_ipv6 in (("iptables-legacy-restore", False), ("ip6tables-legacy-restore", True)):
        rules = ["*mangle"]
        for protocol, address, port, value in marks:
            match = f"-p {protocol} " if protocol else ""
            match += f"--dport {port} " if port else ""
            if (":" in address) == is_ipv6:
                rules.append(f"-A PREROUTING -i c -d {address} {match}-j MARK --set-mark {value}")
        if len(rules) > 1:
            restore(program, rules)


def restore(program: str, rules: list[str]) -> None:
    """Load *rules* of a table with an iptables-restore."""
    done = subprocess.run([program], input="\n".join([*rules, "COMMIT\n"]), text=True, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"{program}: {done.stderr.strip()}")
