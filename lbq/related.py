"""Packets that are about other connections: ICMP errors, in both directions, and FTP control connections.

    towards the server    an error about what it sent: it must speak of the server's own address and port
    towards the client    an error about what the client sent: it must come from, and speak of, the VIP
    towards ourselves     an error about a tunnel packet of ours: the client is told what is left of it
    FTP                   announces a data connection, which must be known before it comes

ICMP errors never start a timer again.

ICMP and ICMPv6 go the same way; what differs is in ``protocols/icmp.py`` and ``icmpv6.py``.  The kernel does not look
for its own tunnel packets in ICMPv6 errors.

Kernel: ip_vs_core.c, ip_vs_in_icmp(), ip_vs_out_icmp(), and their _v6 twins; ip_vs_ftp.c.
Differs from IPVS: the first report of a smaller path MTU behind a tunnel already names the new one, where the kernel
still has the old one.  FTP works over IPv6 in both profiles; a classic kernel drops what such clients send.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from lbq import packet as pkt
from lbq.conntrack import Connection
from lbq.forwarding import DONT_FRAGMENT, LEAST_MTU, icmp_error
from lbq.model import AF_INET, AF_INET6, GUE, IPIP, NAT, NO_CPORT, ONE_PACKET, TCP, TUN, RealServer, packed
from lbq.modes import tun
from lbq.parsing import addresses, family_of, has_ports, is_cut, read_error, read_quote
from lbq.protocols import ftp, icmp, icmpv6, tcp

if TYPE_CHECKING:
    from lbq.parsing import Parsed

LOCAL_IN = 1
LOCAL_OUT = 3
UNREACHABLE, FRAGMENTATION_NEEDED = 3, 4
FTP_GROWTH = 64         # bytes that a rewritten FTP message may be longer


class Related:
    """The part of the director that looks into packets for others."""

    # ---- ICMP errors ---------------------------------------------------------------------------------

    def icmp_request(self, packet: bytearray, hook: int, form: int, mark: int, now_ns: int) -> str:
        """An ICMP packet towards the VIP: an error about what a server sent to a client goes to the server."""
        length, family = pkt.whole_length(packet), family_of(packet)
        at = errors_of(family).quoted(packet, length)
        if at == 0:
            return "passed_icmp"
        if family == AF_INET and addresses(packet, 0)[1] in self.local[AF_INET]:
            outcome = self._tunnel_error(packet, length, at, now_ns)
            if outcome is not None:
                return outcome
        quoted = read_quote(packet, at, length, hook, mark)
        if quoted is None:
            return self._without_ports(packet[at:length])
        about = quoted.turned_round()           # the quote is a server's packet: turned round it is the client's
        connection = self.connections.find(family, about.protocol, about.source, about.source_port, about.destination,
                                           about.destination_port)
        made = False
        if connection is None:
            if not self.services.sysctls["schedule_icmp"]:
                return "passed_icmp"
            connection = self.admit(about, now_ns)
            if isinstance(connection, str):
                return connection if connection.startswith("dropped") else "passed_icmp"
            made = True
            if not connection.flags & ONE_PACKET:       # its state is NONE until the client itself is heard
                connection.timeout_seconds = 3
                self.connections.restart_timer(connection, now_ns)
        outcome = self._icmp_to_server(packet, length, hook, form, connection, now_ns)
        if made and connection.flags & ONE_PACKET:
            self.connections.remove(connection)
        return outcome

    def _icmp_to_server(self, packet: bytearray, length: int, hook: int, form: int, connection: Connection,
                        now_ns: int) -> str:
        mode, family, is_new = connection.mode(), connection.family, self.services.is_new
        if family == AF_INET6 and not is_new and hook == LOCAL_OUT and mode != NAT:
            return "passed_icmp"
        # Which kernels look at the checksum has changed, and differs by family.
        looks = is_new and mode == NAT if family == AF_INET6 else not is_new or mode == NAT
        if looks and not errors_of(family).checksum_right(packet, length):
            return "dropped_icmp_checksum"
        if connection.server is None:
            return self.forward(packet, read_error(packet, length, hook), connection, form, now_ns)
        self.count_in(connection, length)
        if mode == NAT:
            errors_of(family).to_real_server(packet, length, written(connection.daddr, family), connection.dport)
            return "rewritten"
        connection.packets_in = connection.packets_in + 1 & 0xFFFFFFFF
        return self.forward(packet, read_error(packet, length, hook), connection, form, now_ns)

    def icmp_reply(self, packet: bytearray, hook: int, form: int, mark: int, now_ns: int) -> str:
        """An ICMP packet towards a client: an error about what we sent to a server must speak of the VIP.

        A classic kernel drops the ICMPv6 errors of NAT here: it takes their checksum for wrong.
        """
        length, family = pkt.whole_length(packet), family_of(packet)
        at = errors_of(family).quoted(packet, length)
        if at == 0:
            return "passed_icmp"
        if hook == LOCAL_IN and family == AF_INET:
            outcome = self._tunnel_error(packet, length, at, now_ns)
            if outcome is not None:
                return outcome
        about = read_quote(packet, at, length, hook, mark)
        if about is None:
            return self._without_ports(packet[at:length])       # the kernel tries the other direction, too
        connection = self.connections.find_reply(family, about.protocol, about.source, about.source_port,
                                                 about.destination, about.destination_port)
        if connection is None:
            return "passed_icmp"
        if connection.mode() == NAT and not (errors_of(family).checksum_right(packet, length)
                                             and (self.services.is_new or family == AF_INET)):
            return "dropped_icmp_checksum"
        self.count_out(connection, length)
        if connection.mode() != NAT:
            return "passed_reply"
        errors_of(family).to_client(packet, length, written(connection.vaddr, family), connection.vport)
        return "rewritten"

    def _without_ports(self, quote: bytearray) -> str:
        """Say what becomes of an error that quotes no ports: it cannot be scheduled (sysctl schedule_icmp).

        To a new kernel what ends within IPv6's extension headers has no protocol.
        """
        is_ours = has_ports(quote) and not (self.services.is_new and is_cut(quote))
        return "dropped_malformed" if self.services.sysctls["schedule_icmp"] and is_ours else "passed_icmp"

    def _tunnel_error(self, packet: bytearray, length: int, at: int, now_ns: int) -> str | None:
        """An error about a tunnel packet of ours: tell the client; None when it is about something else."""
        outer = packet[at:length]
        server = self._tunnel_to(outer)
        if server is None:
            return None
        inner = tun.inner_of(outer, len(outer))
        if inner < 0 and server.tunnel.type != IPIP:
            return None                 # not what this tunnel carries
        about = read_quote(packet, at + inner, length, LOCAL_IN, 0) if inner > 0 and outer[inner] >> 4 == 4 else None
        connection = about and self.connections.find(AF_INET, about.protocol, about.source, about.source_port,
                                                     about.destination, about.destination_port)
        if not connection:
            return "passed_icmp"
        if not icmp.checksum_right(packet, length):
            return "dropped_icmp_checksum"
        header = (packet[0] & 15) * 4
        kind, code, mtu, left = packet[header], packet[header + 1], 0, packet[at + inner:length]
        if (kind, code) == (UNREACHABLE, FRAGMENTATION_NEEDED):
            mtu = pkt.get16(packet, header + 6)
            self.learn_path_mtu(server, mtu, now_ns)
            mtu -= tun.overhead(server.tunnel.type, server.tunnel.flags, False) if self.services.is_new else 20
            if not left[6] & DONT_FRAGMENT or mtu <= LEAST_MTU:
                return "dropped_icmp_ours"
        self.count_out(connection, len(left))
        if not icmp.is_somebody(about.source) or not self.limit.allow(about.source, now_ns):
            self.counted["icmp_limited"] += 1
            return "dropped_icmp_ours"
        self.counted["icmp_sent"] += 1
        self.answer = icmp_error(kind, code, mtu, left, len(left))
        self.count_out(connection, len(self.answer))
        return "dropped_icmp_ours"

    def _tunnel_to(self, outer: bytearray) -> RealServer | None:
        """Return the server that the quoted packet *outer* is a tunnel packet to, if it is one."""
        if pkt.get16(outer, pkt.IP_FRAGMENT) & pkt.OFFSET_MASK:
            return None
        address, protocol = pkt.get32(outer, pkt.IP_DESTINATION), outer[pkt.IP_PROTOCOL]
        for server in self.slots:
            if (server is not None and server.available and server.mode == TUN
                    and (server.address, server.family) == (address, AF_INET)
                    and tun.protocol_of(server.tunnel.type, False) == protocol
                    and (server.tunnel.type != GUE or _destination_port(outer) == server.tunnel.port)):
                return server
        return None

    # ---- FTP -----------------------------------------------------------------------------------------

    def ftp_client(self, packet: bytearray, parsed: Parsed, connection: Connection, form: int,
                   now_ns: int) -> str | None:
        """A client's segment of an FTP control connection; return why it is dropped, or None."""
        control = self._ftp_control(connection)
        content = packet[:parsed.length]
        if _is_broken(content, parsed, form):
            return "dropped_ftp"
        announced = control.from_client(content, connection.state == tcp.ESTABLISHED)
        _put_back(packet, parsed.length, content)
        if announced is not None and not self._announce(connection, announced.address, announced.port,
                                                        connection.vport - 1, connection.dport - 1, 0, now_ns):
            return "dropped_ftp"
        return None

    def ftp_server(self, packet: bytearray, parsed: Parsed, connection: Connection, form: int,
                   now_ns: int) -> str | None:
        """A server's segment of an FTP control connection; return why it is dropped, or None."""
        control = self._ftp_control(connection)
        content = packet[:parsed.length]
        if _is_broken(content, parsed, form):
            return "dropped_ftp"
        announced = control.from_server(content, connection.state == tcp.ESTABLISHED, connection.daddr)
        if announced is not None and not self._announce(connection, connection.caddr, 0, announced.port,
                                                        announced.port, NO_CPORT, now_ns):
            return "dropped_ftp"
        try:
            control.answer_client(content, announced, connection.vaddr, announced.port if announced else 0)
        except ValueError:              # it would be larger than any packet
            return "dropped_ftp"
        if len(content) > parsed.length + FTP_GROWTH:
            return "dropped_ftp"
        _put_back(packet, parsed.length, content)
        return None

    def _ftp_control(self, connection: Connection) -> ftp.Control:
        connection.ftp = connection.ftp or ftp.Control()
        return connection.ftp

    def _announce(self, control: Connection, caddr: int, cport: int, vport: int, dport: int, flags: int,
                  now_ns: int) -> bool:
        """Make the data connection that *control* speaks of, if it is not there; return False when there is no room."""
        data = self.connections.find(control.family, TCP, caddr, cport, control.vaddr, vport)
        if data is None:
            data = Connection(TCP, caddr, cport, control.vaddr, vport, control.server, dport, flags, control.fwmark,
                              control.family)
            if not self.connections.add(data):
                return False
            data.control = control
            control.controlled += 1
        data.state = tcp.LISTEN
        data.timeout_seconds = self.timeout_table[TCP][tcp.LISTEN]
        self.connections.restart_timer(data, now_ns)
        return True


def errors_of(family: int):
    """Return the module that reads and translates the ICMP errors of *family*."""
    return icmpv6 if family == AF_INET6 else icmp


def written(address: int, family: int):
    """Return *address* as ``errors_of(family)`` wants it."""
    return packed(address, AF_INET6) if family == AF_INET6 else address


def _destination_port(quote: bytearray) -> int:
    header = (quote[0] & 15) * 4
    return pkt.get16(quote, header + pkt.PORT_DESTINATION) if len(quote) >= header + 4 else -1


def _is_broken(content: bytearray, parsed: Parsed, form: int) -> bool:
    """Return True when the checksum is there and wrong: what is to be changed must be right."""
    if form != pkt.CHECKSUM_NOT_VERIFIED:
        return False
    field = parsed.header + pkt.TCP_CHECKSUM
    return pkt.transport_checksum(content, TCP, parsed.header, parsed.length, field) != pkt.get16(content, field)


def _put_back(packet: bytearray, length: int, content: bytearray) -> None:
    """Write *content* over the packet of *length* bytes; what lies behind stays only when the length does."""
    if len(content) == length:
        packet[:length] = content
    else:
        packet[:] = content
