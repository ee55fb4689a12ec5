"""CSV files of flows: what lines mean, and how a bad one is told."""
from __future__ import annotations

import io

import pytest

from lbq.errors import ConfigError
from lbq.grammar import format_service, parse_service
from lbq.replay import table
from lbq.replay import traffic as traffic_module
from lbq.replay.traffic import ACK, FIN, REPLY, SYN, Traffic, endpoint
from tests.helpers.captures import csv


def read(text: str | bytes, wanted: str | None = None) -> Traffic:
    """Return the flows in *text*."""
    traffic = Traffic()
    table.read(io.BytesIO(text.encode() if isinstance(text, str) else text), "flows.csv", traffic,
               None if wanted is None else endpoint(parse_service(wanted)), lambda _: None)
    return traffic


def test_a_flow_opens_lives_and_closes():
    traffic = read(csv("10,192.168.10.9,500"))

    assert [time / 10**9 for time in traffic.times] == [10, 10, 10, 250, 250, 490, 490, 510, 510, 510]
    assert list(traffic.kinds) == [SYN, REPLY | SYN | ACK, ACK, ACK, REPLY | ACK, ACK, REPLY | ACK,
                                   FIN | ACK, REPLY | FIN | ACK, ACK]


def test_flows_are_sorted_and_each_gets_a_port_of_its_own():
    traffic = read(csv("10,192.168.10.9,0", "# a remark", "", "5,192.168.10.9:77,0", " 5.5 , 192.168.10.9 , 1.25 "))

    assert list(traffic.times) == sorted(traffic.times)
    assert [int.from_bytes(client[4:]) for client in traffic.clients] == [1024, 77, 1025]
    assert [first / 10**9 for first in traffic.first] == [10, 5, 5.5] and traffic.last[2] / 10**9 == 6.75


def test_packets_of_one_moment_come_in_the_order_of_the_file():
    """The third flow begins first; at 10 s it is alive or ends, and all of them have packets then."""
    lines = ["10,10.0.0.1,0", "10,10.0.0.2,5", "5,10.0.0.3,5", "0,10.0.0.4,10"]
    traffic = read(csv(*lines))
    by_flow = sorted(range(4), key=lambda number: traffic.first[number])
    packets = [(moment, number) for number in range(4) for moment, _ in table._packets(
        6, traffic.first[number], traffic.last[number] - traffic.first[number])]

    assert by_flow == [3, 2, 0, 1]
    assert list(zip(traffic.times, traffic.numbers, strict=True)) == sorted(packets)
    assert list(traffic.numbers)[-3:] == [1, 1, 1]


def test_all_columns_in_any_order():
    header = "destination,bytes,packets,duration,client,start"
    traffic = read(csv("udp:192.168.10.1:53,120,2,0,[2001:db8::9]:5,0".replace("192.168.10.1", "[2001:db8::1]"),
                       ",,,1,10.0.0.9,0", header=header))

    assert [format_service(traffic.endpoints[place].key()) for place in traffic.places] == [
        "udp:[2001:db8::1]:53", "tcp:192.0.2.1:80"]
    assert list(traffic.packets) == [2, 1] and list(traffic.octets) == [120, 0]


def test_a_datagram_alone_and_an_sctp_association():
    header = "start,client,duration,destination"
    traffic = read(csv("0,10.0.0.9,0,udp:10.0.0.1:53", "1,10.0.0.9,2,sctp:10.0.0.1:53", header=header))

    assert list(traffic.kinds) == [0, 1, REPLY | 2, 10, REPLY | 11, 7, REPLY | 8, 14]


def test_what_goes_elsewhere_is_left_out_and_what_says_nothing_goes_to_the_service():
    header = "start,client,duration,destination"
    traffic = read(csv("0,10.0.0.9,0,10.0.0.1:80", "0,10.0.0.9,0,10.0.0.2:80", "0,10.0.0.9,0,", header=header),
                   "10.0.0.1:80")

    assert len(traffic.clients) == 2 and traffic.ignored["elsewhere"] == 1


def test_each_flow_to_a_service_of_every_port_says_to_which():
    header = "start,client,duration,destination"
    lines = ("0,10.0.0.9,1,10.0.0.1:80", "1,10.0.0.9,1,10.0.0.1:81", "2,10.0.0.9,1,udp:10.0.0.1:80")
    traffic = read(csv(*lines, header=header), "10.0.0.1:0")
    assert len(traffic.clients) == 2 and traffic.ignored["elsewhere"] == 1

    with pytest.raises(ConfigError, match=r"^flows.csv:5: to which port of tcp:10"):
        read(csv(*lines, "3,10.0.0.9,1,", header=header), "10.0.0.1:0")


def test_the_latest_of_flows_fits_into_its_column():
    traffic = read(csv(f"{table.LATEST_START},10.0.0.9,{table.LONGEST}"))

    assert traffic.times[-1] == (table.LATEST_START + table.LONGEST) * 10**9


def test_quotes_a_byte_order_mark_and_carriage_returns():
    assert len(read(b'\xef\xbb\xbf"start","client","duration"\r\n"1","10.0.0.9","2"\r\n').clients) == 1


@pytest.mark.parametrize(("text", "said"), [
    (csv("0,10.0.0.9,1", "0,10.0.0.9"), "flows.csv:3: 2 fields, and the first line names 3 columns"),
    (csv("x,10.0.0.9,1"), "flows.csv:2: start 'x' is not a number of seconds from 0 to 9000000000"),
    (csv("9999999999,10.0.0.9,1"), "flows.csv:2: start '9999999999' is not a number of seconds"),
    (csv("0,10.0.0.9,nan"), "flows.csv:2: duration 'nan' is not a number of seconds"),
    (csv("0,10.0.0.9,-1"), "flows.csv:2: duration '-1' is not a number of seconds"),
    (csv("1e400,10.0.0.9,1"), "flows.csv:2: start '1e400' is not a number of seconds"),
    (csv("0,10.0.0.9,9999999"), "flows.csv:2: duration '9999999' is not a number of seconds from 0 to 2678400"),
    (csv("# first", "", "0,ten,1"), "flows.csv:4: 'ten' is a name, and lbq takes addresses"),
    (csv("0,10.0.0.9:0,1"), "flows.csv:2: port '0' is not a number from 1 to 65535"),
    (csv("0,[2001:db8::9]:5,1"), "flows.csv:2: client [2001:db8::9]:5 is not of the IP version of tcp:192.0.2.1:80"),
    (csv("0,10.0.0.9,1,x", header="start,client,duration,packets"), "flows.csv:2: packets 'x' is not a number from 0"),
    (csv("0,10.0.0.9,1,-5", header="start,client,duration,bytes"), "flows.csv:2: bytes '-5' is not a number from 0"),
    (csv("0,10.0.0.9,1,fwmark:1", header="start,client,duration,destination"),
     "flows.csv:2: destination 'fwmark:1' is not [tcp:|udp:|sctp:]VIP:PORT"),
    (csv("0,10.0.0.9,1,10.0.0.1:0", header="start,client,duration,destination"),
     "flows.csv:2: destination '10.0.0.1:0' is not [tcp:|udp:|sctp:]VIP:PORT"),
    (csv("0,10.0.0.9,1,10.0.0.1", header="start,client,duration,destination"), "flows.csv:2: '10.0.0.1' has no port"),
    (csv("1", header="start"), "flows.csv:1: no column client, duration;"),
    (csv("1", header="begin,client,duration"), "flows.csv:1: unknown column 'begin'"),
    (csv("1", header="start,client,duratoin"), "did you mean 'duration'?"),
    (csv("1", header="start,client,duration,start"), "flows.csv:1: column 'start' is there twice"),
    (csv('0,"10.0.0.9'), "flows.csv:2: not a line of CSV: unexpected end of data"),
    (csv('0,"10.0.0.9"x,1'), "flows.csv:2: not a line of CSV"),
    (b"start,client,duration\n0,10.0.0.9,1\n\xff\xfe,1,1\n", "flows.csv:3: not text (UTF-8)"),
    ("0,zehn\u00e4,1".join(["start,client,duration\n", "\n"]), "flows.csv:2: 'zehn\u00e4' is a name"),
])
def test_a_bad_line_is_named(text, said):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_flows_that_would_fill_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(traffic_module, "MEMORY", 1000 * traffic_module.PACKET_BYTES)
    with pytest.raises(ConfigError, match=r"flows\.csv:2: with this flow, [\d,]+ packets would have to be played"):
        read(csv("0,10.0.0.9,1000000"))


def test_a_line_without_an_end_is_not_read_to_its_end():
    endless = io.BytesIO(b"start,client,duration\n" + b"0" * (table.LONGEST_LINE + 1000))
    with pytest.raises(ConfigError, match=r"flows\.csv:2: this line has 65,536 characters and more"):
        list(table._rows(io.TextIOWrapper(endless), "flows.csv"))
