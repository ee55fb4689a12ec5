"""What may be typed, what it means, and what a mistake is told."""
from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbq.errors import ConfigError
from lbq.grammar import (
    MAX_WEIGHT,
    check_server,
    did_you_mean,
    format_address,
    format_endpoint,
    format_service,
    parse_address,
    parse_netmask,
    parse_server,
    parse_service,
)
from lbq.model import AF_INET, AF_INET6, DR, GUE, NAT, SCTP, TCP, TUN, UDP, ServiceKey

VIP = 0xC0A80A01
VIP6 = 0x20010DB8 << 96 | 1
SERVICE = ServiceKey(TCP, VIP, 80)
SERVICE6 = ServiceKey(TCP, VIP6, 80, AF_INET6)

unicast = st.integers(1 << 24, (224 << 24) - 1)
unicast6 = st.integers(0x2000 << 112, (0x4000 << 112) - 1) | st.integers(0xFC00 << 112, (0xFE00 << 112) - 1)
ports = st.integers(1, 65535)


@pytest.mark.parametrize(("text", "key"), [
    ("192.168.10.1:80", ServiceKey(TCP, VIP, 80)),
    ("tcp:192.168.10.1:80", ServiceKey(TCP, VIP, 80)),
    ("udp:192.168.10.1:53", ServiceKey(UDP, VIP, 53)),
    ("UDP:192.168.10.1:65535", ServiceKey(UDP, VIP, 65535)),
    ("192.168.10.1:1", ServiceKey(TCP, VIP, 1)),
    ("sctp:192.168.10.1:80", ServiceKey(SCTP, VIP, 80)),
    ("192.168.10.1:0", ServiceKey(TCP, VIP, 0)),
    ("fwmark:7", ServiceKey(TCP, 0, 0, fwmark=7)),
    ("fwmark:7/4", ServiceKey(TCP, 0, 0, fwmark=7)),
    ("fwmark:7/6", ServiceKey(TCP, 0, 0, AF_INET6, 7)),
    ("[2001:db8::1]:80", SERVICE6),
    ("udp:[2001:DB8:0:0:0::1]:53", ServiceKey(UDP, VIP6, 53, AF_INET6)),
    ("sctp:[::1]:0", ServiceKey(SCTP, 1, 0, AF_INET6)),
    ("[::192.168.10.1]:80", ServiceKey(TCP, VIP, 80, AF_INET6)),
])
def test_a_service_is_protocol_address_and_port(text, key):
    assert parse_service(text) == key


def test_the_options_choose_the_protocol():
    assert parse_service("192.168.10.1:53", "udp").protocol == UDP
    assert parse_service("udp:192.168.10.1:53", "udp").protocol == UDP


@given(st.sampled_from([TCP, UDP]), unicast, ports)
def test_what_is_written_is_read_back(protocol, address, port):
    key = ServiceKey(protocol, address, port)

    assert parse_service(format_service(key)) == key


@given(st.sampled_from([TCP, UDP, SCTP]), unicast6, ports)
def test_what_is_written_of_ipv6_is_read_back(protocol, address, port):
    key = ServiceKey(protocol, address, port, AF_INET6)

    assert parse_service(format_service(key)) == key


@pytest.mark.parametrize(("text", "complaint"), [
    ("192.168.10.1", "has no port"),
    ("192.168.10.1:", "port '' is not a number from 1 to 65535"),
    ("192.168.10.1:65536", "port '65536' is not"),
    ("192.168.10.1:-1", "port '-1' is not"),
    ("192.168.10.1:+80", r"port '\+80' is not"),
    ("192.168.10.1:8 0", "port '8 0' is not"),
    ("192.168.10.1:٨٠", "port '٨٠' is not"),
    ("192.168.10.1:http", "port 'http' is not"),
    (":80", "the address is missing"),
    ("192.168.10:80", "not an IPv4 address"),
    ("192.168.10.256:80", "not an IPv4 address"),
    ("192.168.010.1:80", "not an IPv4 address"),
    ("192.168.10.1.5:80", "not an IPv4 address"),
    ("1 92.168.10.1:80", "not an IPv4 address"),
    ("www.example.com:80", "lbq takes addresses, not names"),
    ("localhost:80", "lbq takes addresses, not names"),
    ("bücher.example:80", "lbq takes addresses, not names"),
    ("0.0.0.0:80", "not the address of one host"),
    ("224.0.0.1:80", "not the address of one host"),
    ("255.255.255.255:80", "not the address of one host"),
    ("[2001:db8::1]", "has no port; write VIP:PORT"),
    ("[2001:db8::1]:", "port '' is not a number from 1 to 65535"),
    ("[2001:db8::1]80", "not an IPv6 address in brackets; write"),
    ("[2001:db8::1:80", "not an IPv6 address in brackets; write"),
    ("[2001:db8::1::2]:80", "'\\[2001:db8::1::2\\]' is not an IPv6 address"),
    ("[192.168.10.1]:80", "not an IPv6 address"),
    ("[fe80::1%eth0]:80", "not an IPv6 address"),
    ("[]:80", "not an IPv6 address"),
    ("[www.example.com]:80", "not an IPv6 address"),
    ("2001:db8::1", "an IPv6 address is written in brackets"),
    ("2001:db8::1:80", "an IPv6 address is written in brackets"),
    ("[::]:80", "not the address of one host"),
    ("[ff02::1]:80", "not the address of one host"),
    ("[fe80::1]:80", "a link-local address, which means another machine on each link"),
    ("[::ffff:192.168.10.1]:80", "an IPv4 address in the clothes of an IPv6 one; write 192.168.10.1"),
    ("fwmark:7/5", "after the slash comes 4 or 6"),
    ("fwmark:7/", "after the slash comes 4 or 6"),
    ("tpc:192.168.10.1:80", "unknown protocol 'tpc'; did you mean 'tcp'?"),
    ("fwmark:0", "firewall mark '0' is not a number from 1"),
    ("fwmark:x", "firewall mark 'x' is not a number"),
    ("", "the address is missing|has no port"),
])
def test_a_wrong_service_says_what_is_wrong(text, complaint):
    with pytest.raises(ConfigError, match=complaint.replace("?", r"\?")):
        parse_service(text)


def test_two_protocols_are_one_too_many():
    with pytest.raises(ConfigError, match="says tcp, the options say udp"):
        parse_service("tcp:192.168.10.1:80", "udp")


@pytest.mark.parametrize(("text", "server"), [
    ("192.168.20.1", ("192.168.20.1", 80, None)),
    ("192.168.20.1:8080", ("192.168.20.1", 8080, None)),
    ("192.168.20.1,weight=3", ("192.168.20.1", 80, 3)),
    ("192.168.20.1:8080,weight=0", ("192.168.20.1", 8080, 0)),
    (f"192.168.20.1,weight={MAX_WEIGHT}", ("192.168.20.1", 80, MAX_WEIGHT)),
    ("192.168.10.1:8080", ("192.168.10.1", 8080, None)),
])
def test_a_server_takes_the_services_port_and_may_say_a_weight(text, server):
    address, port, _, weight, *others = parse_server(text, SERVICE)

    assert (format_address(address), port, weight) == server
    assert set(others) == {None}


def test_every_setting_of_a_server_arrives():
    server = parse_server("192.168.20.1,weight=2,mode=tun,upper=9,lower=3,tunnel=gue,tunnel-port=6080,tunnel-csum=yes",
                          SERVICE)

    assert server[3:] == (2, TUN, 9, 3, GUE, 6080, 1)
    assert parse_server("192.168.20.1,mode=dr", SERVICE).mode == DR


@pytest.mark.parametrize(("text", "place"), [
    ("[2001:db8:20::1]", (0x20010DB80020 << 80 | 1, 80, AF_INET6)),
    ("[2001:db8:20::1]:8080,weight=3", (0x20010DB80020 << 80 | 1, 8080, AF_INET6)),
    ("192.168.20.1,mode=tun", (0xC0A81401, 80, AF_INET)),
    ("[::192.168.10.1]", (VIP, 80, AF_INET6)),
])
def test_a_server_has_a_family_of_its_own(text, place):
    assert parse_server(text, SERVICE6).place() == place


@pytest.mark.parametrize(("text", "service"), [("192.168.20.1", SERVICE6), ("[2001:db8:20::1]", SERVICE)])
def test_only_a_tunnel_leads_to_a_server_of_the_other_family(text, service):
    server = parse_server(text, service)

    check_server(server, service, TUN)
    for mode in (NAT, DR):
        with pytest.raises(ConfigError, match="not of the service's IP version, and only tun can change that"):
            check_server(server, service, mode)


@pytest.mark.parametrize(("text", "mask"), [("24", 0xFFFFFF00), ("32", 0xFFFFFFFF), ("255.255.0.0", 0xFFFF0000)])
def test_a_netmask_is_dotted_or_a_prefix_length(text, mask):
    assert parse_netmask(text) == mask


@pytest.mark.parametrize("text", ["1", "64", "128"])
def test_a_netmask_of_ipv6_is_a_prefix_length(text):
    assert parse_netmask(text, AF_INET6) == int(text)


@pytest.mark.parametrize("text", ["0", "129", "255.255.255.0", "ffff::", ""])
def test_a_wrong_netmask_of_ipv6_says_what_is_wrong(text):
    with pytest.raises(ConfigError, match=r"netmask of an IPv6 service .* is not a number from 1 to 128"):
        parse_netmask(text, AF_INET6)


@pytest.mark.parametrize("text", ["0", "33", "255.0.255.0", "0.0.0.0", "x", ""])
def test_a_wrong_netmask_says_what_is_wrong(text):
    with pytest.raises(ConfigError, match="netmask"):
        parse_netmask(text)


@pytest.mark.parametrize(("text", "complaint"), [
    ("192.168.20.1,weight=-1", "weight '-1' is not a number from 0"),
    (f"192.168.20.1,weight={MAX_WEIGHT + 1}", "is not a number from 0"),
    ("192.168.20.1,weight=much", "weight 'much' is not a number"),
    ("192.168.20.1,weight=", "weight '' is not a number"),
    ("192.168.20.1,weight=1.5", "weight '1.5' is not a number"),
    ("192.168.20.1,weight=1,weight=2", "weight is said twice"),
    ("192.168.20.1,mode=natt", "unknown mode 'natt'; did you mean 'nat'?"),
    ("192.168.20.1,upper=-1", "upper '-1' is not a number"),
    ("192.168.20.1,tunnel-port=70000", "tunnel-port '70000' is not"),
    ("192.168.20.1,wieght=2", "unknown server setting 'wieght=2'; did you mean 'weight'?"),
    ("192.168.20.1,weight", "setting 'weight' has no value; write weight=VALUE"),
    ("192.168.20.1,", "unknown server setting ''"),
    ("192.168.20.1:0", "port '0' is not"),
    ("web01", "lbq takes addresses, not names"),
    ("[fe80::1]", "a link-local address"),
    ("2001:db8::1", "an IPv6 address is written in brackets"),
    ("192.168.10.1:80", "is the virtual service tcp:192.168.10.1:80 itself"),
    ("192.168.10.1", "is the virtual service tcp:192.168.10.1:80 itself"),
])
def test_a_wrong_server_says_what_is_wrong(text, complaint):
    with pytest.raises(ConfigError, match=complaint.replace("?", r"\?")):
        parse_server(text, SERVICE)


@given(st.text(max_size=40) | st.text(alphabet="0123456789abcdf:.[]%/", max_size=40))
def test_any_text_is_a_service_or_one_explained_mistake(text):
    try:
        key = parse_service(text)
    except ConfigError as error:
        assert str(error)
    else:
        assert re.fullmatch(r"(tcp|udp|sctp):([\d.]+|\[[\da-f:.]+\]):\d+|fwmark:\d+(/6)?", format_service(key))


@given(st.text(alphabet="0123456789.:,=weight-[]", max_size=40))
def test_any_text_is_a_server_or_one_explained_mistake(text):
    try:
        server = parse_server(text, SERVICE)
    except ConfigError as error:
        assert str(error)
    else:
        assert 1 <= server.port <= 65535


@given(unicast, unicast6)
def test_addresses_survive_both_ways(address, address6):
    text = format_address(address6, AF_INET6)

    assert parse_address(format_address(address)) == (address, AF_INET)
    assert parse_address(text) == parse_address(f"[{text}]") == (address6, AF_INET6)


def test_ipv6_is_written_in_brackets():
    assert format_endpoint(0x20010DB8 << 96 | 1, 80, AF_INET6) == "[2001:db8::1]:80"


@pytest.mark.parametrize(("word", "hint"), [
    ("wcl", "; did you mean 'wlc'?"),
    ("WLC", "; did you mean 'wlc'?"),
    ("maglev", ""),
])
def test_a_near_miss_is_suggested(word, hint):
    assert did_you_mean(word, ["rr", "wrr", "wlc"]) == hint
