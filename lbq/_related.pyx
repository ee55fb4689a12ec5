"""Packets that are about other connections, at C speed: ICMP errors, both ways, and FTP; replies of no connection's.

    icmp_…         errors about known connections, in both directions
    ftp_…          the control connection of an FTP service

``related.py`` tells the same in plain Python.
Kernel: ip_vs_core.c, ip_vs_in_icmp(), ip_vs_out_icmp(), and their _v6 twins; ip_vs_ftp.c.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from lbq._bounds cimport open_bytes
from lbq._flowtable cimport (DIRECTION_IN, DIRECTION_OUT, FLAG_NO_CPORT, FLAG_OFFLOADED, INET, INET6, MODE_MASK,
                             FlowEntry, Key, find, fold6, hash_key, set_deadline)
from lbq._forwarding cimport LEAST_MTU, Forwarding, count_in, count_out
from lbq._packet cimport (DROPPED_FTP, DROPPED_ICMP_CHECKSUM, DROPPED_ICMP_OURS, DROPPED_MALFORMED, DROPPED_NO_SERVER,
                          LOCAL_IN, LOCAL_OUT, PASSED_ICMP, PASSED_REPLY, REWRITTEN, SCTP, TCP, UDP, Packet,
                          client_key, turn_round)
from lbq._slots cimport (NO_SERVER, OPS, OPS_REPLIES, SERVER_AVAILABLE, SERVER_INET6, Address6, Route, ServerSlot,
                         ServiceSlot, place_address)
from lbq cimport packet as pkt
from lbq.modes cimport tun
from lbq.protocols cimport icmp, icmpv6, tcp

from lbq.protocols import ftp

cdef enum:
    NAT = 0
    IPIP = 0
    GUE = 1
    DONT_FRAGMENT = 0x40            # in byte 6 of the IPv4 header
    UNREACHABLE = 3                 # ICMP type and code
    FRAGMENTATION_NEEDED = 4
    PATH_MTU_SECONDS = 600          # net.ipv4.route.mtu_expires
    SECOND = 1000000000


cdef class Related(Forwarding):
    """The part of one fast director that looks into packets for others."""

    # ---- ICMP errors ---------------------------------------------------------------------------------------

    cdef int icmp_request(self, Packet *packet, uint64_t now) noexcept nogil:
        """An ICMP packet towards the VIP: an error about what a server sent to a client goes to the server."""
        cdef int at = quoted(packet), outcome
        cdef Packet about
        cdef uint32_t number
        cdef FlowEntry *entry
        cdef bint made = False
        if at == 0:
            return PASSED_ICMP
        if packet.family == INET and self.is_local(packet.destination):
            outcome = self._tunnel_error(packet, at, now)
            if outcome != REWRITTEN:
                return outcome
        if not read_quote(packet, at, &about):
            return self._without_ports(packet, at)
        turn_round(&about)                      # the quote is a server's packet: turned round it is the client's
        number = self._find(&about, DIRECTION_IN)
        if number == 0:
            if not self.settings.schedule_icmp:
                return PASSED_ICMP
            outcome = self.admit(&about, now, &number)
            if outcome != REWRITTEN:
                return PASSED_ICMP if outcome < DROPPED_NO_SERVER else outcome
            made, self.about = True, number
        entry = &self.table.entries[number]
        if entry.flags & FLAG_OFFLOADED:        # conntrack rewrites what is related to its connections, too
            return PASSED_ICMP
        if made and number:                     # its state is NONE until the client itself is heard
            entry.timeout = 3
            set_deadline(&self.table, number, now + 3 * <uint64_t> SECOND)
        outcome = self._icmp_to_server(packet, entry, about.hashed, now)
        if number == 0:
            self.end_one_packet(entry)
        return outcome

    cdef int _icmp_to_server(self, Packet *packet, FlowEntry *entry, uint64_t hashed, uint64_t now) noexcept nogil:
        cdef unsigned char *data = packet.queued.data
        cdef int mode = entry.flags & MODE_MASK
        cdef bint six = packet.family == INET6
        cdef ServerSlot *server
        if six and not self.is_new and packet.queued.hook == LOCAL_OUT and mode != NAT:
            return PASSED_ICMP
        # Which kernels look at the checksum has changed, and differs by family.
        if (self.is_new and mode == NAT if six else not self.is_new or mode == NAT) and not checksum_right(packet):
            return DROPPED_ICMP_CHECKSUM
        if entry.server == NO_SERVER:
            return self.forward(packet, entry, now)
        server = &self.servers[entry.server]
        if server.flags & SERVER_AVAILABLE:
            count_in(&server.counters, packet.length)
            count_in(&self.service_slots[server.service].counters, packet.length)
        if mode != NAT:
            entry.packets_in += 1
            packet.related = True
            packet.hashed = hashed
            return self.forward(packet, entry, now)
        if six:
            icmpv6.to_real_server(data, packet.length, self.table.addresses[entry - self.table.entries].daddr,
                                  entry.dport)
        else:
            icmp.to_real_server(data, packet.length, entry.daddr, entry.dport)
        return REWRITTEN

    cdef int icmp_reply(self, Packet *packet, uint64_t now) noexcept nogil:
        """An ICMP packet towards a client: an error about what we sent to a server must speak of the VIP.

        A classic kernel drops the ICMPv6 errors of NAT here: it takes their checksum for wrong.
        """
        cdef unsigned char *data = packet.queued.data
        cdef int at = quoted(packet), outcome
        cdef Packet about
        cdef uint32_t number
        cdef FlowEntry *entry
        cdef ServerSlot *server
        if at == 0:
            return PASSED_ICMP
        if packet.queued.hook == LOCAL_IN and packet.family == INET:
            outcome = self._tunnel_error(packet, at, now)
            if outcome != REWRITTEN:
                return outcome
        if not read_quote(packet, at, &about):
            return self._without_ports(packet, at)       # the kernel tries the other direction, too
        number = self._find(&about, DIRECTION_OUT)
        if number == 0:
            return PASSED_ICMP
        entry = &self.table.entries[number]
        if entry.flags & FLAG_OFFLOADED:
            return PASSED_ICMP
        if entry.flags & MODE_MASK == NAT and not (
                checksum_right(packet) and (self.is_new or packet.family == INET)):
            return DROPPED_ICMP_CHECKSUM
        if entry.server != NO_SERVER:
            server = &self.servers[entry.server]
            if server.flags & SERVER_AVAILABLE:
                count_out(&server.counters, packet.length)
                count_out(&self.service_slots[server.service].counters, packet.length)
        if entry.flags & MODE_MASK != NAT:
            return PASSED_REPLY
        if packet.family == INET6:
            icmpv6.to_client(data, packet.length, self.table.addresses[number].vaddr, entry.vport)
        else:
            icmp.to_client(data, packet.length, entry.vaddr, entry.vport)
        return REWRITTEN

    cdef uint32_t _find(self, Packet *about, int direction) noexcept nogil:
        """Return the connection that a client's packet, perhaps as its server saw it, belongs to, or 0."""
        cdef Key key = client_key(about)
        about.hashed = hash_key(&self.table, direction, &key)
        self.about = find(&self.table, about.hashed, direction, &key, FLAG_NO_CPORT)
        return self.about

    cdef int _without_ports(self, Packet *packet, int at) noexcept nogil:
        """Say what becomes of an error that quotes no ports: it cannot be scheduled (sysctl schedule_icmp).

        To a new kernel what ends within IPv6's extension headers has no protocol.
        """
        cdef bint is_ours = has_ports(packet, at) and not (self.is_new and is_cut(packet, at))
        return DROPPED_MALFORMED if self.settings.schedule_icmp and is_ours else PASSED_ICMP

    cdef int _tunnel_error(self, Packet *packet, int quoted, uint64_t now) noexcept nogil:
        """An error about a tunnel packet of ours: tell the client; REWRITTEN when it is about something else.

        Differs from IPVS: the first report already names the new path MTU, where the kernel still has the old one.
        """
        cdef unsigned char *data = packet.queued.data
        cdef unsigned char *outer = data + quoted
        cdef uint32_t address = pkt.get32(outer, pkt.IP_DESTINATION), number
        cdef int i, slot = -1, inner, kind = data[packet.header], code = data[packet.header + 1], mtu = 0
        cdef int protocol = outer[pkt.IP_PROTOCOL], overhead, left
        cdef ServerSlot *server
        cdef FlowEntry *entry
        cdef Packet about
        if pkt.get16(outer, pkt.IP_FRAGMENT) & 0x1FFF:
            return REWRITTEN
        for i in range(self.tunnel_count):
            server = &self.servers[self.tunnels[i]]
            if (server.address == address and tun.protocol_of(server.tunnel_type, False) == protocol and
                    (server.tunnel_type != GUE or server.tunnel_port == quoted_port(packet, quoted)) and
                    (slot < 0 or <int> self.tunnels[i] < slot)):
                slot = self.tunnels[i]      # of several, as in related.py, the one in the first slot
        if slot < 0:
            return REWRITTEN
        server = &self.servers[slot]
        inner = tun.inner_of(outer, packet.length - quoted)
        if inner < 0 and server.tunnel_type != IPIP:
            return REWRITTEN            # not what this tunnel carries
        if inner <= 0 or outer[inner] >> 4 != 4 or not read_quote(packet, quoted + inner, &about):
            return PASSED_ICMP
        number = self._find(&about, DIRECTION_IN)
        if number == 0:
            return PASSED_ICMP
        if not icmp.checksum_right(data, packet.length):
            return DROPPED_ICMP_CHECKSUM
        entry = &self.table.entries[number]
        left = packet.length - quoted - inner
        if kind == UNREACHABLE and code == FRAGMENTATION_NEEDED:
            overhead = tun.overhead(server.tunnel_type, server.tunnel_flags, False) if self.is_new else 20
            mtu = pkt.get16(data, packet.header + 6)
            learn_path_mtu(&self.routes[slot], mtu, now)
            mtu -= overhead
            if not data[quoted + inner + 6] & DONT_FRAGMENT or mtu <= LEAST_MTU:
                return DROPPED_ICMP_OURS
        self.count_own_error(entry, left)
        if not icmp.is_somebody(about.source) or not self.limit.allow(about.source, now):
            self.icmp_limited += 1
            return DROPPED_ICMP_OURS
        self.answer_length = icmp.error(kind, code, mtu, data + quoted + inner, left, self.answer)
        self.icmp_sent += 1
        self.count_own_error(entry, self.answer_length)
        return DROPPED_ICMP_OURS

    cdef int server_at(self, Packet *packet) noexcept nogil:
        """Return the slot of the NAT server from whose own address and port the packet comes, or -1."""
        cdef uint32_t slot
        cdef ServerSlot *server
        for slot in range(self.server_count):
            server = &self.servers[slot]
            if (server.flags & SERVER_AVAILABLE and server.mode == NAT and self._is_from(packet, slot) and
                    server.port == packet.source_port and (server.protocol == packet.protocol or
                                                           self.service_slots[server.service].fwmark)):
                return slot
        return -1

    cdef bint _is_from(self, Packet *packet, uint32_t slot) noexcept nogil:
        """Return True when the packet's source is the address of the server in *slot*."""
        cdef ServerSlot *server = &self.servers[slot]
        if server.address != packet.source or (server.flags & SERVER_INET6 != 0) != (packet.family == INET6):
            return False
        return packet.family == INET or memcmp(self.server_addresses[slot].octets, packet.source6, 16) == 0

    cdef int one_packet_server(self, Packet *packet) noexcept nogil:
        """Return the NAT server whose answer this is (OPS_REPLIES); -1 when there is none, or more than one."""
        cdef uint32_t slot
        cdef int found = -1
        cdef ServerSlot *server
        cdef ServiceSlot *service
        for slot in range(self.server_count):
            server = &self.servers[slot]
            if not (server.flags & SERVER_AVAILABLE and server.mode == NAT and server.protocol == UDP and
                    self._is_from(packet, slot)):
                continue
            service = &self.service_slots[server.service]
            if (service.flags & OPS and service.flags & OPS_REPLIES and service.fwmark == 0 and
                    (service.port == 0 or packet.source_port == (server.port if server.port else service.port))):
                if found >= 0:
                    return -1
                found = slot
        return found

    # ---- FTP ---------------------------------------------------------------------------------------------------

    cdef int ftp_client(self, Packet *packet, uint32_t number, uint64_t now) noexcept with gil:
        """A client's segment of an FTP control connection: it may announce an active data connection."""
        cdef FlowEntry *entry = &self.table.entries[number]
        try:
            control = self._ftp_control(number)
            content = bytearray(packet.queued.data[:packet.length])
            if is_broken(packet, content):
                return DROPPED_FTP
            announced = control.from_client(content, entry.state == tcp.ESTABLISHED)
            put_back(packet, content)
            if announced is not None and not self._announce(number, announced.address, announced.port, entry.vport - 1,
                                                            entry.dport - 1, 0, now):
                return DROPPED_FTP
        except Exception:
            return DROPPED_FTP
        return REWRITTEN

    cdef int ftp_server(self, Packet *packet, uint32_t number, uint64_t now) noexcept with gil:
        """A server's segment of an FTP control connection: it may announce a passive data connection."""
        cdef FlowEntry *entry = &self.table.entries[number]
        try:
            control = self._ftp_control(number)
            content = bytearray(packet.queued.data[:packet.length])
            if is_broken(packet, content):
                return DROPPED_FTP
            caddr, vaddr, daddr = self._addresses(number)
            announced = control.from_server(content, entry.state == tcp.ESTABLISHED, daddr)
            if announced is not None and not self._announce(number, caddr, 0, announced.port, announced.port,
                                                            FLAG_NO_CPORT, now):
                return DROPPED_FTP
            control.answer_client(content, announced, vaddr, announced.port if announced else 0)
            put_back(packet, content)
        except Exception:
            return DROPPED_FTP
        return REWRITTEN

    def _ftp_control(self, number):
        if number not in self.ftp:
            self.ftp[number] = ftp.Control()
        return self.ftp[number]

    def _addresses(self, uint32_t number):
        """Return the addresses of client, VIP and real server of connection *number*."""
        cdef FlowEntry *entry = &self.table.entries[number]
        if entry.family == INET:
            return entry.caddr, entry.vaddr, entry.daddr
        octets = (<unsigned char *> &self.table.addresses[number])[:48]
        return [int.from_bytes(octets[at:at + 16], "big") for at in (0, 16, 32)]

    def _announce(self, uint32_t number, caddr, int cport, int vport, int dport, int flags, uint64_t now):
        """Make the data connection that control connection *number* speaks of, if it is not there; False: no room."""
        cdef FlowEntry *entry = &self.table.entries[number]
        cdef FlowEntry *data
        cdef Address6 client
        cdef uint32_t made_number
        cdef Key key
        cdef bint made
        key.protocol, key.family = TCP, entry.family
        key.caddr, key.cport, key.caddr6 = place_address(&client, caddr, entry.family), cport, client.octets
        key.address, key.port, key.address6 = entry.vaddr, vport, self.table.addresses[number].vaddr
        made_number = find(&self.table, hash_key(&self.table, DIRECTION_IN, &key), DIRECTION_IN, &key, FLAG_NO_CPORT)
        if made_number == 0:
            made_number = self.create(&key, entry.server, dport, flags, entry.fwmark, now, &made)
            if not made:
                return False
            self.table.entries[made_number].control = number
            entry.controlled += 1
        data = &self.table.entries[made_number]
        data.state = tcp.LISTEN
        data.timeout = self.tcp_timeouts[tcp.LISTEN]
        set_deadline(&self.table, made_number, now + data.timeout * <uint64_t> SECOND)
        return True


# ---- Helpers ------------------------------------------------------------------------------------------------

cdef bint is_broken(Packet *packet, content):
    """Return True when the checksum is there and wrong: what is to be changed must be right."""
    if packet.queued.form != pkt.CHECKSUM_NOT_VERIFIED:
        return False
    return pkt.transport_checksum(content, TCP, packet.header, packet.length, packet.header + pkt.TCP_CHECKSUM) != (
        pkt.get16(content, packet.header + pkt.TCP_CHECKSUM))


cdef put_back(Packet *packet, bytearray content):
    """Write *content* over the packet, which has room for FTP_GROWTH more."""
    cdef unsigned char *changed = content
    if len(content) > packet.length + 64:
        raise ValueError("an FTP reply grew out of its buffer")
    open_bytes(packet.queued.data, len(content))
    memcpy(packet.queued.data, changed, len(content))
    if len(content) != packet.length:
        packet.length = packet.queued.length = len(content)


cdef inline void learn_path_mtu(Route *route, int mtu, uint64_t now) noexcept nogil:
    if mtu >= LEAST_MTU:
        route.learnt_mtu = mtu
        route.learnt_until = now + PATH_MTU_SECONDS * <uint64_t> SECOND


cdef inline int quoted(Packet *packet) noexcept nogil:
    """Return where the packet begins that an ICMP error is about, 0 when there is none that matters."""
    if packet.family == INET6:
        return icmpv6.quoted(packet.queued.data, packet.length)
    return icmp.quoted(packet.queued.data, packet.length)


cdef inline bint checksum_right(Packet *packet) noexcept nogil:
    """Return True when the checksum of an ICMP message is right."""
    if packet.family == INET6:
        return icmpv6.checksum_right(packet.queued.data, packet.length)
    return icmp.checksum_right(packet.queued.data, packet.length)


cdef inline bint is_transport(int protocol) noexcept nogil:
    return protocol == TCP or protocol == UDP or protocol == SCTP


cdef inline bint has_ports(Packet *packet, int at) noexcept nogil:
    """Return True when the packet quoted at *at* has ports, here or further on."""
    cdef unsigned char *quote = packet.queued.data + at
    cdef int found
    if quote[0] >> 4 == 6:
        found = pkt.find_transport(packet.queued.data, at, packet.length)
        return found >= 0 and not found & pkt.IS_LATER and is_transport(found & pkt.PROTOCOL_MASK)
    return is_transport(quote[pkt.IP_PROTOCOL]) and not pkt.get16(quote, pkt.IP_FRAGMENT) & pkt.OFFSET_MASK


cdef inline bint is_cut(Packet *packet, int at) noexcept nogil:
    """Return True when the packet quoted at *at* ends within IPv6's extension headers."""
    if packet.queued.data[at] >> 4 != 6:
        return False
    return pkt.find_transport(packet.queued.data, at, packet.length) >> pkt.START_SHIFT > packet.length


cdef inline int quoted_port(Packet *packet, int quoted) noexcept nogil:
    """Return the destination port of the packet quoted at *quoted*, -1 when that is not here."""
    cdef unsigned char *outer = packet.queued.data + quoted
    cdef int header = (outer[0] & 15) * 4
    return pkt.get16(outer, header + 2) if packet.length - quoted >= header + 4 else -1


cdef inline bint read_quote(Packet *packet, int at, Packet *about) noexcept nogil:
    """Fill *about* with the five-tuple of the packet quoted at *at*; False when it has none that matters."""
    cdef unsigned char *data = packet.queued.data + at
    cdef int left = packet.length - at, header
    memset(about, 0, sizeof(Packet))
    if left >= pkt.IP6_HEADER and data[0] >> 4 == 6:
        header = (pkt.find_transport(packet.queued.data, at, packet.length) >> pkt.START_SHIFT) - at
        if not has_ports(packet, at) or left < header + 4:
            return False
        about.family = INET6
        about.protocol = pkt.find_transport(packet.queued.data, at, packet.length) & pkt.PROTOCOL_MASK
        about.source6, about.destination6 = data + pkt.IP6_SOURCE, data + pkt.IP6_DESTINATION
        about.source, about.destination = fold6(about.source6), fold6(about.destination6)
    else:
        if left < 24 or data[0] >> 4 != 4:
            return False
        header = (data[0] & 15) * 4
        if header < 20 or left < header + 4 or not has_ports(packet, at):
            return False
        about.family = INET
        about.protocol = data[pkt.IP_PROTOCOL]
        about.source = pkt.get32(data, pkt.IP_SOURCE)
        about.destination = pkt.get32(data, pkt.IP_DESTINATION)
    about.queued.hook = packet.queued.hook
    about.queued.mark = packet.queued.mark
    about.related = True
    about.source_port = pkt.get16(data, header)
    about.destination_port = pkt.get16(data, header + 2)
    return True
