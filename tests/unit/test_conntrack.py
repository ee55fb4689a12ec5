"""lbq.conntrack: keys, bounds, counters, timers, records."""
from __future__ import annotations

import pytest

from lbq import conntrack
from lbq.conntrack import RECORD, VALID, Connection, ConnectionTable
from lbq.model import AF_INET, AF_INET6, DR, INACTIVE, NO_OUTPUT, ONE_PACKET, TCP, TEMPLATE, TUN, UDP, RealServer
from lbq.protocols import tcp
from tests.helpers.packets import address

CIP, VIP, RIP = address("192.168.10.9"), address("192.168.10.1"), address("192.168.20.1")
SECOND = 1_000_000_000
TICK = 1 << conntrack.TICK_BITS


@pytest.fixture
def server() -> RealServer:
    """Return a real server, the sixth in the engine's array."""
    server = RealServer(RIP, 8080)
    server.slot = 5
    return server


@pytest.fixture
def table() -> ConnectionTable:
    """Return a table with room for three."""
    return ConnectionTable(3)


def connect(table: ConnectionTable, server: RealServer, cport: int = 40000, vport: int = 80,
            protocol: int = TCP) -> Connection:
    """Enter and return a connection."""
    connection = Connection(protocol, CIP, cport, VIP, vport, server, server.port)
    assert table.add(connection)
    return connection


def test_a_connection_is_found_from_both_sides(table, server):
    connection = connect(table, server)

    assert table.find(AF_INET, TCP, CIP, 40000, VIP, 80) is connection
    assert table.find_reply(AF_INET, TCP, CIP, 40000, RIP, 8080) is connection


@pytest.mark.parametrize("key", [(AF_INET, UDP, CIP, 40000, VIP, 80), (AF_INET, TCP, CIP, 40001, VIP, 80),
                                 (AF_INET, TCP, CIP, 40000, VIP, 81), (AF_INET, TCP, VIP, 40000, VIP, 80),
                                 (AF_INET, TCP, CIP, 40000, RIP, 8080), (AF_INET6, TCP, CIP, 40000, VIP, 80)])
def test_every_part_of_the_key_counts(table, server, key):
    connect(table, server)

    assert table.find(*key) is None


def test_the_newest_of_two_equal_reply_keys_gets_the_replies(table, server):
    """One client port talks to two services that share a server; the kernel finds the entry made last."""
    older, newer = connect(table, server, vport=80), connect(table, server, vport=443)
    reply = (AF_INET, TCP, CIP, 40000, RIP, 8080)

    assert table.find_reply(*reply) is newer
    table.remove(newer)
    assert table.find_reply(*reply) is older
    table.remove(older)
    assert table.find_reply(*reply) is None


def test_the_older_of_two_equal_reply_keys_may_end_first(table, server):
    older, newer = connect(table, server, vport=80), connect(table, server, vport=443)

    table.remove(older)

    assert table.find_reply(*newer.reply_key()) is newer


@pytest.mark.parametrize("mode", [DR, TUN])
def test_replies_of_dr_and_tun_come_from_the_vip(table, server, mode):
    server.mode = mode
    connection = connect(table, server)

    assert table.find_reply(AF_INET, TCP, CIP, 40000, VIP, 80) is connection
    assert table.find_reply(AF_INET, TCP, CIP, 40000, RIP, 8080) is None


def test_a_template_is_found_as_one_and_as_nothing_else(table, server):
    template = Connection(TCP, CIP, 0, VIP, 80, server, 8080, TEMPLATE)
    assert table.add(template)

    assert table.find(AF_INET, TCP, CIP, 0, VIP, 80, TEMPLATE) is template
    assert table.find(AF_INET, TCP, CIP, 0, VIP, 80) is None
    assert (server.persistent_conns, server.inactive_conns) == (1, 0)


def test_what_governs_connections_lives_a_minute_longer_at_a_time(table, server):
    template = Connection(TCP, CIP, 0, VIP, 80, server, 8080, TEMPLATE)
    template.timeout_seconds = 30
    table.add(template)
    connection = timed(table, server, 100)
    connection.control = template
    template.controlled = 1
    table.restart_timer(template, 0)

    assert table.expire(32 * SECOND) == 0
    assert template.timeout_seconds == 60
    assert table.expire(102 * SECOND) == 1, "the connection, not its template"
    assert table.expire(152 * SECOND) == 1
    assert server.persistent_conns == 0


def test_a_one_packet_connection_is_bound_and_never_entered(table, server):
    connection = Connection(UDP, CIP, 1, VIP, 80, server, 8080, ONE_PACKET)
    assert table.add(connection)

    assert (len(table), server.inactive_conns) == (0, 1)
    table.remove(connection)
    assert server.inactive_conns == 0


def test_the_table_is_bounded(table, server):
    for cport in range(3):
        connect(table, server, cport)

    assert not table.add(Connection(TCP, CIP, 3, VIP, 80, server, 8080))
    assert len(table) == 3
    assert server.inactive_conns == 3


def test_a_place_is_used_again(table, server):
    connections = [connect(table, server, cport) for cport in range(3)]

    table.remove(connections[1])

    assert connect(table, server, 9).number == 2


def test_a_connection_is_born_inactive(table, server):
    connection = connect(table, server)

    assert connection.flags & INACTIVE
    assert (server.active_conns, server.inactive_conns) == (0, 1)


def test_its_state_moves_it_between_active_and_inactive(table, server):
    connection = connect(table, server)

    table.set_state(connection, tcp.SYN_RECV, active=True)
    assert (server.active_conns, server.inactive_conns) == (1, 0)
    table.set_state(connection, tcp.ESTABLISHED, active=True)
    assert (server.active_conns, server.inactive_conns) == (1, 0)
    table.set_state(connection, tcp.FIN_WAIT, active=False)
    assert (server.active_conns, server.inactive_conns) == (0, 1)


@pytest.mark.parametrize("active", [True, False])
def test_its_end_gives_the_server_its_place_back(table, server, active):
    connection = connect(table, server)
    table.set_state(connection, tcp.SYN_RECV, active)

    table.remove(connection)

    assert (server.active_conns, server.inactive_conns) == (0, 0)


def timed(table: ConnectionTable, server: RealServer, seconds: int, now_ns: int = 0,
          cport: int = 40000) -> Connection:
    """Enter and return a connection that lives for *seconds* from *now_ns* on."""
    connection = connect(table, server, cport)
    connection.timeout_seconds = seconds
    table.restart_timer(connection, now_ns)
    return connection


def test_nothing_ends_early_and_at_most_one_tick_late(table, server):
    timed(table, server, 60)

    assert table.expire(60 * SECOND) == 0
    assert table.expire(60 * SECOND + TICK) == 1
    assert len(table) == 0


def test_a_packet_restarts_the_timer(table, server):
    connection = timed(table, server, 60)
    table.restart_timer(connection, 50 * SECOND)

    assert table.expire(61 * SECOND) == 0
    assert table.expire(110 * SECOND) == 0
    assert table.expire(111 * SECOND) == 1


def test_a_shorter_timeout_counts_at_once(table, server):
    """ESTABLISHED 900 s -> CLOSE 10 s."""
    connection = timed(table, server, 900)
    connection.timeout_seconds = 10
    table.restart_timer(connection, SECOND)

    assert table.expire(10 * SECOND) == 0
    assert table.expire(12 * SECOND) == 1


def test_a_timer_brought_forward_and_put_back_counts_once(table, server):
    """CLOSE 10 s, and then the ports are used again: SYN_RECV 60 s."""
    connection = timed(table, server, 900)
    connection.timeout_seconds = 10
    table.restart_timer(connection, SECOND)
    connection.timeout_seconds = 60
    table.restart_timer(connection, 2 * SECOND)

    assert table.expire(12 * SECOND) == 0
    assert table.expire(63 * SECOND) == 1
    assert table.expire(2000 * SECOND) == 0


def test_the_alarm_of_an_ended_connection_ends_nothing_else(table, server):
    table.remove(timed(table, server, 10))
    timed(table, server, 60)            # same keys, same place in the table

    assert table.expire(11 * SECOND) == 0
    assert table.expire(61 * SECOND) == 1


def test_a_clock_jump_ends_all_that_is_due(table, server):
    for cport, seconds in enumerate((10, 60, 900)):
        timed(table, server, seconds, cport=cport)

    assert table.expire(899 * SECOND) == 2
    assert table.expire(10**18) == 1


def test_packets_do_not_make_the_heap_grow(table, server):
    connection = timed(table, server, 900)
    for second in range(1000):
        table.restart_timer(connection, second * SECOND)

    assert len(table.alarms) == 1


def test_timers_brought_forward_do_not_make_the_heap_grow(table, server):
    """ESTABLISHED, then CLOSE, then the ports are used again, and so on for a day."""
    connection = timed(table, server, 900)
    for second in range(0, 86_400, 5):
        connection.timeout_seconds = 10 if second % 100 else 900
        table.restart_timer(connection, second * SECOND)
        assert table.expire(second * SECOND) == 0

    assert len(table.alarms) < 12       # nine of the last 900 s, and the one that counts


def test_a_record_is_one_cache_line():
    assert RECORD.size == 64


def test_a_record_in_words(table, server):
    connection = timed(table, server, 60)
    connection.packets_in = 7
    table.set_state(connection, tcp.SYN_RECV, active=True)
    page, cursor = table.page(0, 10)

    assert cursor is None
    assert RECORD.unpack(page)[conntrack.FIELDS.index("server")] == 5
    assert conntrack.decode(page, 20 * SECOND + 1) == {
        "protocol": "tcp", "caddr": "192.168.10.9", "cport": 40000, "vaddr": "192.168.10.1", "vport": 80,
        "daddr": "192.168.20.1", "dport": 8080, "state": "SYN_RECV", "expires_seconds": 39, "packets_in": 7,
        "flags": 0, "fwmark": 0}


def test_a_record_shows_valid_but_words_do_not(table, server):
    connect(table, server, protocol=UDP)
    page, _ = table.page(0, 10)

    assert RECORD.unpack(page)[conntrack.FIELDS.index("flags")] == VALID | INACTIVE
    words = conntrack.decode(page, 0)
    assert (words["flags"], words["state"], words["protocol"]) == (INACTIVE, "UDP", "udp")


def test_an_overdue_record_has_zero_seconds_left(table, server):
    timed(table, server, 1)

    assert conntrack.decode(table.page(0, 1)[0], 5 * SECOND)["expires_seconds"] == 0


def test_pages_hold_every_connection_once_and_no_free_place(server):
    table = ConnectionTable(100)
    connections = [connect(table, server, cport) for cport in range(50)]
    for connection in connections[::3]:
        table.remove(connection)

    ports, cursor = [], 0
    while cursor is not None:
        page, cursor = table.page(cursor, 7)
        ports += [conntrack.decode(page[at:at + 64], 0)["cport"] for at in range(0, len(page), 64)]

    assert ports == [cport for cport in range(50) if cport % 3]


# ---- IPv6 ----------------------------------------------------------------------------------------------


CIP6, VIP6, RIP6 = address("2001:db8:a::9"), address("2001:db8:a::1"), address("2001:db8:b::1")


def server6(family: int = AF_INET6) -> RealServer:
    """Return a real server that is tunnelled to, of either family."""
    server = RealServer(RIP6 if family == AF_INET6 else RIP, 8080, mode=TUN, family=family)
    server.slot = 6
    return server


def connect6(table: ConnectionTable, server: RealServer, caddr: int = CIP6, cport: int = 40000) -> Connection:
    """Enter and return an IPv6 connection."""
    connection = Connection(TCP, caddr, cport, VIP6, 80, server, server.port, family=AF_INET6)
    assert table.add(connection)
    return connection


@pytest.mark.parametrize("word", range(4))
def test_every_word_of_an_address_counts(table, server, word):
    """Two addresses whose words are the same number XORed."""
    other = CIP6 ^ 1 << 32 * word ^ 1 << 32 * (word + 1) % 128
    connection = connect6(table, server)

    assert table.find(AF_INET6, TCP, CIP6, 40000, VIP6, 80) is connection
    assert table.find(AF_INET6, TCP, other, 40000, VIP6, 80) is None
    assert table.find_reply(AF_INET6, TCP, other, 40000, server.address, 8080) is None


@pytest.mark.parametrize(("family", "server_is", "shown"), [
    (AF_INET6, AF_INET6, ("2001:db8:a::9", "2001:db8:a::1", "2001:db8:b::1")),
    (AF_INET6, AF_INET, ("2001:db8:a::9", "2001:db8:a::1", "192.168.20.1")),
    (AF_INET, AF_INET6, ("192.168.10.9", "192.168.10.1", "2001:db8:b::1"))])
def test_a_record_with_an_ipv6_address_is_followed_by_all_three(table, family, server_is, shown):
    ends = (CIP6, 40000, VIP6, 80) if family == AF_INET6 else (CIP, 40000, VIP, 80)
    table.add(Connection(TCP, *ends, server6(server_is), 8080, family=family))
    page, _ = table.page(0, 10)
    words = conntrack.decode(page, 0)

    assert len(page) == 112
    assert (words["caddr"], words["vaddr"], words["daddr"]) == shown
    assert words["flags"] & ~INACTIVE == TUN | NO_OUTPUT
    if server_is == AF_INET:
        assert page[96:112] == bytes([192, 168, 20, 1]) + bytes(12)


def test_a_page_is_split_into_its_records(server):
    table = ConnectionTable(10)
    connect(table, server)
    connect6(table, server6())
    table.add(Connection(TCP, CIP, 1, VIP, 80, server6(), 8080))
    connect(table, server, cport=2)
    page, _ = table.page(0, 10)
    records = list(conntrack.split(page))

    assert [len(record) for record in records] == [64, 112, 112, 64]
    assert b"".join(records) == page
    assert [conntrack.decode(record, 0)["cport"] for record in records] == [40000, 40000, 1, 2]
