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

SCTP's checksum covers no address, so only a change of port concerns it; a CRC cannot be adjusted, so it
is then computed in full, and a wrong one becomes right.  The kernel writes those of the segments (GSO).

Kernel: ip_vs_xmit.c, ip_vs_nat_xmit(); ip_vs_proto_tcp.c, ip_vs_proto_udp.c and ip_vs_proto_sctp.c,
*_snat_handler() and *_dnat_handler(); what survives mangling in a queue: nfnetlink_queue.c, nfqnl_mangle().
"""
from __future__ import annotations

from lbq import packet as pkt


def to_real_server(packet, end: int, rip: int, rport: int, form: int, delivered_here: bool) -> None:
    """Address the client's packet of *end* bytes to the real server."""
    rewrite(packet, end, pkt.IP_DESTINATION, rip, pkt.PORT_DESTINATION, rport, form, delivered_here)


def to_client(packet, end: int, vip: int, vport: int, form: int, delivered_here: bool) -> None:
    """Make the real server's packet of *end* bytes come from the virtual service."""
    rewrite(packet, end, pkt.IP_SOURCE, vip, pkt.PORT_SOURCE, vport, form, delivered_here)


def rewrite(packet, end: int, at_address: int, address: int, at_port: int, port: int,
            form: int, delivered_here: bool) -> None:
    """Write *address* and *port* and bring both checksums into line."""
    header = (packet[0] & 0x0F) * 4
    old_address = pkt.get32(packet, at_address)
    old_port = pkt.get16(packet, header + at_port)
    pkt.put32(packet, at_address, address)
    pkt.put16(packet, header + at_port, port)
    pkt.put16(packet, pkt.IP_CHECKSUM,
              pkt.adjust32(pkt.get16(packet, pkt.IP_CHECKSUM), old_address, address))

    tcp = packet[pkt.IP_PROTOCOL] == pkt.TCP
    if not tcp and packet[pkt.IP_PROTOCOL] == pkt.SCTP:
        if form & pkt.SEGMENTED_LATER == 0 and (port != old_port or form & pkt.CHECKSUM_NOT_READY):
            pkt.put_crc32c(packet, header, end)
        return
    field = header + (pkt.TCP_CHECKSUM if tcp else pkt.UDP_CHECKSUM)
    checksum = pkt.get16(packet, field)
    if form & pkt.SEGMENTED_LATER and tcp and not delivered_here:
        return
    if form & pkt.SEGMENTED_LATER and not tcp:
        checksum = ~pkt.adjust32(~checksum & 0xFFFF, old_address, address) & 0xFFFF
    elif form & (pkt.SEGMENTED_LATER | pkt.CHECKSUM_NOT_READY) or (checksum == 0 and not tcp):
        checksum = pkt.transport_checksum(packet, header, end, field)
    else:
        checksum = pkt.adjust(pkt.adjust32(checksum, old_address, address), old_port, port)
        if checksum == 0 and not tcp:
            checksum = 0xFFFF
    pkt.put16(packet, field, checksum)
