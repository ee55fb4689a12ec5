"""The mistakes of ``mutants.py``, written by hand: (name, file, what it says, what it says wrongly[, behind what])."""
from __future__ import annotations

LEAST = "best is None or best_load * server.weight > load * best.weight"
MUTATIONS = [
    # Schedulers: one comparison each, and what else their result hangs on.
    ("rr: the cursor's own server comes first", "schedulers/rr.py", "self.last.position + 1", "self.last.position"),
    ("rr: deletion leaves the cursor where it was", "schedulers/rr.py", "if server.position > 0 else None",
     "if server.position < 0 else None"),
    ("wrr: weight above the level, not at it", "schedulers/wrr.py", "server.weight >= self.level",
     "server.weight > self.level"),
    ("wrr: an edit starts at the top level", "schedulers/wrr.py",
     "if self.level > self.top or self.level == 0", "if self.level >= 0"),
    ("wrr: the level is not rounded after an edit", "schedulers/wrr.py",
     "self.level // self.divisor * self.divisor + 1", "self.level"),
    ("lc: the last of equals wins", "schedulers/lc.py", "load < best_load", "load <= best_load"),
    ("wlc: the last of equals wins", "schedulers/wlc.py", LEAST, LEAST.replace(">", ">=")),
    ("sed: the last of equals wins", "schedulers/sed.py", LEAST, LEAST.replace(">", ">=")),
    ("sed: without the one to come", "schedulers/sed.py", "server.active_conns + 1", "server.active_conns"),
    ("nq: idle means at most one", "schedulers/nq.py", "server.active_conns == 0", "server.active_conns <= 1"),
    ("nq: the last of equals wins", "schedulers/nq.py", LEAST, LEAST.replace(">", ">=")),
    ("fo: the last of equals wins", "schedulers/fo.py", "server.weight > best.weight", "server.weight >= best.weight"),
    ("ovf: full at its weight", "schedulers/ovf.py", "server.active_conns > server.weight",
     "server.active_conns >= server.weight"),
    ("ovf: the last of equals wins", "schedulers/ovf.py", "server.weight > best.weight",
     "server.weight >= best.weight"),
    ("dh: overloaded servers are chosen", "schedulers/dh.py", "return server if server.can_schedule() else None",
     "return server if server.weight > 0 else None"),
    ("dh: an edit makes the table anew, without the quiesced", "schedulers/dh.py",
     "servers = service.servers\n", "servers = [each for each in service.servers if each.weight > 0]\n"),
    ("sh: weight 0 takes two buckets, and so does 1", "schedulers/sh.py", "max(server.weight, 1)",
     "max(server.weight, 2)"),
    ("sh: falls back from the hash, not from twice the hash", "schedulers/sh.py", "(hashed + hashed + step)",
     "(hashed + step)"),
    ("mh: quiesced servers lose their slots", "schedulers/mh.py", "server.last_weight", "server.weight"),
    ("mh: a turn too few", "schedulers/mh.py", "max(weight // divisor >> shift, 1)",
     "max(weight // divisor >> shift, 2)"),
    ("mh: falls back from the first slot", "schedulers/mh.py", "(slot + step) % SIZE", "step"),
    ("lblc: overload is looked at", "schedulers/lblc.py", "server.available and server.weight > 0",
     "server.available and server.can_schedule()"),
    ("lblc: never too busy", "schedulers/lblc.py", "not is_too_busy(server, service)", "True"),
    ("lblcr: never too busy", "schedulers/lblcr.py", "not is_too_busy(server, service)", "True"),
    ("lblcr: the last of equals wins", "schedulers/lblcr.py",
     "best.overhead() * server.weight > server.overhead() * best.weight",
     "best.overhead() * server.weight >= server.overhead() * best.weight"),
    ("lblcr: new members go last", "schedulers/lblcr.py", "self.servers.insert(0, server)",
     "self.servers.append(server)"),
    ("model: new servers go last", "model.py", "self.servers.insert(0, server)", "self.servers.append(server)"),
    ("model: quiesced servers are chosen", "model.py", "return self.weight > 0 and not self.overloaded",
     "return self.weight >= 0 and not self.overloaded"),
    ("model: overloaded servers are chosen", "model.py", "return self.weight > 0 and not self.overloaded",
     "return self.weight > 0"),
    ("model: last_weight is kept from weight 0 only", "services.py", "if weight:\n", "if not weight:\n"),
    ("profiles: the new one weighs 256", "services.py", "257 if self.is_new else 256", "256"),
    ("profiles: the classic one weighs 257", "services.py", "257 if self.is_new else 256", "257"),
    # Thresholds.
    ("classic: full above U, not at U", "thresholds.py", "total >= upper)", "total > upper)"),
    ("classic: free again at L", "thresholds.py", "overloaded and total >= lower\n", "overloaded and total > lower\n"),
    ("classic: free again at three quarters", "thresholds.py", "4 * total >= 3 * upper", "4 * total > 3 * upper"),
    ("classic: raising U does not free", "thresholds.py", "upper != 0 and upper <= before", "upper != 0"),
    ("new: full above U, not at U", "thresholds.py", "total != upper", "total != upper + 1"),
    ("new: templates count", "thresholds.py", "if template or total != upper", "if total != upper"),
    ("new: free again one later", "thresholds.py", "total + 1 != lower_of(upper, lower)",
     "total + 2 != lower_of(upper, lower)"),
    ("new: an edit below U does not fill", "thresholds.py", "if total >= upper:", "if total > upper:"),
    ("new: an edit frees below U", "thresholds.py", "return overloaded and total >= lower_of(upper, lower)",
     "return False"),
    ("new: three quarters rounded down", "thresholds.py", "upper - (upper >> 2)", "upper * 3 >> 2"),
    # Timers and the rules around connections.
    ("TCP: ESTABLISHED lives shorter", "protocols/tcp.py", "(2, 900, 120, 60,", "(2, 800, 120, 60,"),
    ("TCP: SYN_SENT lives shorter", "protocols/tcp.py", "(2, 900, 120, 60,", "(2, 900, 110, 60,"),
    ("TCP: SYN_RECV lives shorter", "protocols/tcp.py", "(2, 900, 120, 60,", "(2, 900, 120, 50,"),
    ("TCP: TIME_WAIT lives shorter", "protocols/tcp.py", "60, 120, 120, 10,", "60, 120, 60, 10,"),
    ("TCP: FIN_WAIT lives shorter", "protocols/tcp.py", "60, 120, 120, 10,", "60, 60, 120, 10,"),
    ("TCP: CLOSE lives longer", "protocols/tcp.py", "120, 10, 60,", "120, 15, 60,"),
    ("TCP: CLOSE_WAIT lives shorter", "protocols/tcp.py", "10, 60, 30,", "10, 30, 30,"),
    ("TCP: SYNACK lives shorter", "protocols/tcp.py", "30, 120, 120)", "30, 120, 60)"),
    ("UDP: lives shorter", "protocols/udp.py", "(300,)", "(200,)"),
    ("SCTP: INIT1 lives longer", "protocols/sctp.py", "TIMEOUTS = (2, 4,", "TIMEOUTS = (2, 10,"),
    ("SCTP: ESTABLISHED lives shorter", "protocols/sctp.py", "900, 61,", "600, 61,"),
    ("TCP: SYNACK counts as inactive", "protocols/tcp.py", "SYN_RECV, SYNACK)", "SYN_RECV)"),
    ("TCP: SYN_SENT counts as inactive", "protocols/tcp.py", "(ESTABLISHED, SYN_SENT,", "(ESTABLISHED,"),
    ("TCP: FIN comes before SYN", "protocols/tcp.py", "if flags & SYN:\n        return EVENT_SYN",
     "if flags & SYN and not flags & FIN:\n        return EVENT_SYN"),
    ("TCP: SYN comes before RST", "protocols/tcp.py", "if flags & RST:", "if flags & RST and not flags & SYN:"),
    ("templates: not restarted by use", "director.py", "        self.connections.restart_timer(template, now_ns)\n",
     "        if template.expires_ns == 0:\n            self.connections.restart_timer(template, now_ns)\n"),
    ("templates: quiesced servers lose theirs", "director.py",
     'self.services.sysctls["expire_quiescent_template"] or', "True or"),
    ("persistence: the netmask is ignored", "services.py", "service.client(client)", "client"),
    ("port reuse: never", "director.py", "connection.state in (tcp.TIME_WAIT, tcp.CLOSE)", "False"),
    ("port reuse: CLOSE_WAIT, too", "director.py", "connection.state in (tcp.TIME_WAIT, tcp.CLOSE)",
     "connection.state in (tcp.TIME_WAIT, tcp.CLOSE, tcp.CLOSE_WAIT)"),
    ("port reuse: of NAT in FIN_WAIT, too", "director.py",
     "connection.state == tcp.FIN_WAIT\n            and connection.flags & NO_OUTPUT != 0",
     "connection.state == tcp.FIN_WAIT"),
    ("deleted servers: their connections are scheduled afresh", "director.py",
     'if not (self.services.sysctls["expire_nodest_conn"] or', "if not (True or"),
    ("drop_packet: one later", "director.py", "if self.drop_counter > 0:", "if self.drop_counter >= 0:"),
    ("source port 20 is scheduled", "director.py", "if parsed.source_port == FTP_DATA:", "if False:"),
    ("replies do not restart the timer", "director.py", "        self.connections.restart_timer(connection, now_ns)\n"
     '        return "rewritten"', '        return "rewritten"'),
    ("templates in use: postponed by half", "conntrack.py", "POSTPONED = 60", "POSTPONED = 30"),
    ("service lookup: the port-0 service before the exact one", "services.py",
     "found = self.by_key.get(ServiceKey(protocol, address, port, family))", "found = None"),
    # Bytes.
    ("NAT: UDP without a checksum stays without", "modes/nat.py", "or (checksum == 0 and not tcp)", ""),
    ("NAT: SCTP's checksum is never made anew", "modes/nat.py", "port != old_port or", ""),
    ("ICMP: the client's type of service is not copied", "protocols/icmp.py", "TOS_KEPT = 0x1E", "TOS_KEPT = 0x00"),
    # IPv6.
    ("IPv6: extension headers are taken for the transport's", "packet.py",
     "elif is_extension(protocol):\n            if at + 2", "elif False:\n            if at + 2"),
    ("IPv6: authentication headers are as long as others", "packet.py",
     "(packet[at + 1] + 2) * 4 if protocol == AUTHENTICATION else (packet[at + 1] + 1) * 8",
     "(packet[at + 1] + 1) * 8"),
    ("IPv6: prefixes are a bit shorter", "model.py", "hidden = 128 - self.netmask", "hidden = 129 - self.netmask"),
    ("IPv6: the last word of an address is hashed, not all four", "model.py",
     "(address >> 96 ^ address >> 64 ^ address >> 32 ^ address)", "address"),
    ("IPv6: a mark's template is not under its first word", "services.py", "(96 if family == AF_INET6 else 0)",
     "(64 if family == AF_INET6 else 0)"),
    ("IPv6: a tunnel over it takes 48 bytes", "modes/tun.py",
     "header = pkt.IP6_HEADER if in_ipv6 else IP_HEADER\n    if kind",
     "header = pkt.IP6_HEADER + 8 if in_ipv6 else IP_HEADER\n    if kind"),
    ("IPv6: a tunnel over it may have less than 1280 bytes", "forwarding.py",
     "(LEAST_MTU6 if server.family == AF_INET6 else LEAST_MTU)", "LEAST_MTU"),
    ("IPv6: what came in fragments is too big", "forwarding.py", "return parsed.length > self.largest_mtu ",
     "return False "),
    ("IPv6 and IPv4: one byte too many fits", "forwarding.py", "parsed.length > room and not large",
     "parsed.length > room + 1 and not large"),
    ("TUN: 'congestion experienced' is copied outside", "modes/tun.py",
     "return tos & 0xFC | 2 if tos & 3 == 3 else tos", "return tos"),
    ("GRE: IPv6 inside is called IPv4", "modes/tun.py",
     "ETHER_IPV6 if packet[0] >> 4 == 6 else ETHER_IPV4)\n    if flags", "ETHER_IPV4)\n    if flags"),
    ("GUE: IPv6 inside is called IPv4", "modes/tun.py", "out[at + 9] = IN_IPV6 if packet[0] >> 4 == 6 else IN_IP",
     "out[at + 9] = IN_IP"),
    ("ICMPv6: types from 100 on are no errors", "protocols/icmpv6.py", "FIRST_QUESTION = 128", "FIRST_QUESTION = 100"),
    ("ICMPv6: less than 1280 bytes are answered", "protocols/icmpv6.py", "MAX_BYTES - HEADERS)",
     "MAX_BYTES - HEADERS - 8)"),
    ("ICMPv6, classic: errors about NAT reach clients", "related.py",
     "and (self.services.is_new or family == AF_INET)", ""),
    ("ICMPv6, classic: checksums of errors to servers matter", "related.py",
     "is_new and mode == NAT if family == AF_INET6", "mode == NAT if family == AF_INET6"),
    ("ICMPv6: no way there is called no route", "protocols/icmp.py", "0x03_01_01_03", "0x03_01_01_00"),
    ("ICMPv6: nobody there is called no way", "protocols/icmp.py", "0x03_03_01_04", "0x03_03_01_03"),
    ("ICMPv6: 'too big' quotes the hop limit that came", "forwarding.py", "if mode == NAT:\n                dr.",
     "if mode == NAT and parsed.family == AF_INET:\n                dr."),
    ("ICMPv6: the quoted packet keeps its address", "protocols/icmpv6.py",
     "    pkt.put_address(packet, at + inner, address)\n", ""),
    ("ICMPv6: ports are where they would be without extension headers", "parsing.py",
     "found = pkt.find_transport(packet, at, length)",
     "found = at + 40 << pkt.START_SHIFT | packet[at + pkt.IP6_NEXT]"),
    ("IPv6: nothing follows an authentication header", "packet.py", "FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS)",
     "FRAGMENT, DESTINATION_OPTIONS)", "def is_extension"),
    ("IPv6: the hop limit is never used up", "forwarding.py", "return packet[pkt.IP6_HOPS] if packet[0]",
     "return 64 if packet[0]"),
    ("IPv6: UDP without a checksum stays without", "modes/nat.py", "or (checksum == 0 and not tcp)",
     "or (checksum == 0 and not tcp and packet[0] >> 4 == 4)"),
    ("IPv6: this host is bypassed, too", "forwarding.py", "here = parsed.family == AF_INET6 and", "here = False and"),
    ("IPv6: a bypass to this host is not even tried", "director.py", "return is_unicast6(parsed.destination)",
     "return is_unicast6(parsed.destination) and parsed.destination not in self.local[AF_INET6]"),
    ("TUN in IPv6: the traffic class stays inside", "modes/tun.py", "out[0] = 0x60 | tos >> 4", "out[0] = 0x60"),
    ("TUN in IPv6: the hop limit stays inside", "modes/tun.py",
     "out[pkt.IP6_HOPS] = packet[pkt.IP6_HOPS] if of_ipv6 else packet[pkt.IP_TTL]", "out[pkt.IP6_HOPS] = 64"),
    ("TUN in IPv4: an IPv6 packet forbids fragments", "modes/tun.py", "forbidden = pmtu_disc and not of_ipv6 and pkt",
     "forbidden = (pmtu_disc and of_ipv6) or pkt"),
    ("mh: of an IPv6 server behind an IPv4 service all is hashed", "schedulers/mh.py",
     "server.family > family", "False"),
    ("mh: of an IPv6 server behind an IPv4 service the last word is hashed", "schedulers/mh.py", "address >> 96",
     "address & ALL_ONES", "def fill"),
]
STATE_ROWS = [
    ("protocols/tcp.py", "TABLE", """
IN syn ES SR
IN fin ES TW
IN ack SR SR
IN rst SR CL
OUT syn SR SS
OUT fin ES CW
OUT ack SR SR
OUT rst ES TW
INO syn ES SR
INO fin ES CW
INO ack SR SR
INO rst ES TW
"""),
    ("protocols/tcp.py", "SECURE_TABLE", """
IN syn NO SA
IN fin SR CW
IN ack SR ES
IN rst SR CL
OUT syn SR SR
OUT fin SR ES
OUT ack SA SA
OUT rst SR SR
INO syn NO SR
INO fin SA CW
INO ack SA SA
INO rst SA SA
"""),
    ("protocols/sctp.py", "TABLE", """
IN d I1 ES
IN i I1 I1
IN ia I1 IN
IN ce I1 I1
IN ca I1 ES
IN s I1 SR
IN sa I1 I1
IN sc I1 I1
IN err I1 CL
IN ab I1 I1
OUT d I1 ES
OUT i I1 I1
OUT ia I1 I1
OUT ce I1 I1
OUT ca I1 I1
OUT s I1 I1
OUT sa I1 I1
OUT sc I1 CL
OUT err I1 I1
OUT ab I1 CL
INO d I1 ES
INO i I1 I1
INO ia I1 IN
INO ce I1 I1
INO ca I1 ES
INO s I1 SR
INO sa I1 I1
INO sc I1 I1
INO err I1 CL
INO ab I1 I1
"""),
]
