"""NAT (``masq``, ipvsadm -m): both directions pass through the director.

    in    CIP:cport -> VIP:vport   becomes   CIP:cport -> RIP:rport
    out   RIP:rport -> CIP:cport   becomes   VIP:vport -> CIP:cport

What happens to the TCP or UDP checksum depends on the packet's *form*, the NFQA_SKB_INFO bits:

    will be segmented (GSO), TCP    left alone: the kernel writes it into every segment;
                                    but summed in full when *delivered_here*, where nobody segments
    will be segmented (GSO), UDP    the field is a pseudo-header sum: add the change of address to it
    not ready                       only a pseudo-header sum is there: compute the whole
    otherwise                       RFC 1624, so that a wrong checksum stays wrong;
                                    a UDP checksum of 0 ("none") is replaced by a real one, as IPVS does
                                    (in IPv6 there should be none; RFC 6935 allows it to tunnels)

SCTP's checksum covers no address, so only a change of port concerns it; a CRC cannot be adjusted, so it
is then computed in full, and a wrong one becomes right.  The kernel writes those of the segments (GSO).

Kernel: ip_vs_xmit.c, ip_vs_nat_xmit(); ip_vs_proto_tcp.c, ip_vs_proto_udp.c and ip_vs_proto_sctp.c,
*_snat_handler() and *_dnat_handler(); what survives mangling in a queue: nfnetlink_queue.c, nfqnl_mangle().
"""
from __future__ import annotations

from lbq import packet as pkt


def to_real_server(packet, end: int, rip: int, rport: int, form: int, delivered_here: bool) -> None:
    """Address the client's IPv4 packet of *end* bytes to the real server."""
    rewrite(packet, end, pkt.IP_DESTINATION, rip, pkt.PORT_DESTINATION, rport, form, delivered_here)


def to_client(packet, end: int, vip: int, vport: int, form: int, delivered_here: bool) -> None:
    """Make the real server's IPv4 packet of *end* bytes come from the virtual service."""
    rewrite(packet, end, pkt.IP_SOURCE, vip, pkt.PORT_SOURCE, vport, form, delivered_here)


def to_real_server6(packet, protocol: int, header: int, end: int, rip, rport: int, form: int,
                    delivered_here: bool) -> None:
    """Address the client's IPv6 packet of *end* bytes, whose *protocol* header is at *header*, to the real server."""
    rewrite6(packet, protocol, header, end, pkt.IP6_DESTINATION, rip, pkt.PORT_DESTINATION, rport, form,
             delivered_here)


def to_client6(packet, protocol: int, header: int, end: int, vip, vport: int, form: int,
               delivered_here: bool) -> None:
    """Make the real server's IPv6 packet of *end* bytes come from the virtual service."""
    rewrite6(packet, protocol, header, end, pkt.IP6_SOURCE, vip, pkt.PORT_SOURCE, vport, form, delivered_here)


def rewrite(packet, end: int, at_address: int, address: int, at_port: int, port: int,
            form: int, delivered_here: bool) -> None:
    """Write *address* and *port* into an IPv4 packet and bring both checksums into line."""
    header = (packet[0] & 0x0F) * 4
    moved = pkt.change32(pkt.get32(packet, at_address), address)
    pkt.put32(packet, at_address, address)
    pkt.put16(packet, pkt.IP_CHECKSUM, ~pkt.fold((~pkt.get16(packet, pkt.IP_CHECKSUM) & 0xFFFF) + moved) & 0xFFFF)
    _rewrite_port(packet, packet[pkt.IP_PROTOCOL], header, end, moved, at_port, port, form, delivered_here)


def rewrite6(packet, protocol: int, header: int, end: int, at_address: int, address, at_port: int, port: int,
             form: int, delivered_here: bool) -> None:
    """Write the 16 bytes of *address* and *port* into an IPv6 packet and bring its checksum into line."""
    moved = (~pkt.word_sum(packet, at_address, at_address + 16) & 0xFFFF) + pkt.word_sum(address, 0, 16)
    pkt.put_address(packet, at_address, address)
    _rewrite_port(packet, protocol, header, end, moved, at_port, port, form, delivered_here)


def _rewrite_port(packet, protocol: int, header: int, end: int, moved: int, at_port: int, port: int, form: int,
                  delivered_here: bool) -> None:
    """Write *port*; *moved* is what the change of address adds to the sum that the checksum is of."""
    old_port = pkt.get16(packet, header + at_port)
    pkt.put16(packet, header + at_port, port)
    tcp = protocol == pkt.TCP
    if not tcp and protocol == pkt.SCTP:
        if form & pkt.SEGMENTED_LATER == 0 and (port != old_port or form & pkt.CHECKSUM_NOT_READY):
            pkt.put_crc32c(packet, header, end)
        return
    field = header + (pkt.TCP_CHECKSUM if tcp else pkt.UDP_CHECKSUM)
    checksum = pkt.get16(packet, field)
    if form & pkt.SEGMENTED_LATER and tcp and not delivered_here:
        return
    if form & pkt.SEGMENTED_LATER and not tcp:
        checksum = pkt.fold(checksum + moved)
    elif form & (pkt.SEGMENTED_LATER | pkt.CHECKSUM_NOT_READY) or (checksum == 0 and not tcp):
        checksum = pkt.transport_checksum(packet, protocol, header, end, field)
    else:
        checksum = ~pkt.fold((~checksum & 0xFFFF) + moved + (~old_port & 0xFFFF) + port) & 0xFFFF
        if checksum == 0 and not tcp:
            checksum = 0xFFFF
    pkt.put16(packet, field, checksum)
