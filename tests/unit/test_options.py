"""The options of a director: their values, and the one line for each that is wrong."""
from __future__ import annotations

import re

import pytest

from lbq.errors import ConfigError, LbqError
from lbq.grammar import parse_server, parse_service
from lbq.options import (
    Options,
    ServiceWords,
    director_parser,
    largest_number,
    serve_parser,
    validate,
    validate_serve,
)

WORDS = ["--vip", "192.168.10.1:80", "--mode", "nat"]


def options(*words) -> Options:
    return validate(director_parser().parse_args([*WORDS, *words]))


@pytest.fixture(autouse=True)
def no_profile_in_the_environment(monkeypatch):
    monkeypatch.delenv("LBQ_KERNEL_PROFILE", raising=False)
    monkeypatch.delenv("LBQ_WORKERS", raising=False)


def test_address_and_mode_are_enough():
    service = parse_service("192.168.10.1:80")

    assert options() == Options(
        service=service, mode="nat", settings=ServiceWords(scheduler="wlc", mode="nat"), servers=[], engine="fast",
        queue=0, profile="new", max_connections=1048576, accept_forward=False, add_vip=None,
        sysctls={})


def test_every_option_arrives():
    service = parse_service("udp:192.168.10.1:80")

    assert options("--udp", "--scheduler", "wrr", "--real", "10.0.0.1", "--real", "10.0.0.2:8080,weight=3",
                   "--engine", "reference", "--queue", "65535", "--kernel-profile", "classic",
                   "--max-connections", "99", "--accept-forward", "--add-vip", "eth0", "--persistent", "60",
                   "--netmask", "24",
                   "--ops", "--ops-replies", "--on-delete", "end", "--on-quiesce", "move", "--idle", "30",
                   "--sysctl", "net.ipv4.vs.pmtu_disc=0") == Options(
        service=service, mode="nat",
        settings=ServiceWords(scheduler="wrr", persistent=60, netmask=0xFFFFFF00, ops=True, mode="nat",
                              on_delete="end", on_quiesce="move", ops_replies=True, idle=30),
        servers=[parse_server("10.0.0.1", service), parse_server("10.0.0.2:8080,weight=3", service)],
        engine="reference", queue=65535, profile="classic", max_connections=99, accept_forward=True,
        add_vip="eth0", sysctls={"pmtu_disc": 0})


def test_a_director_can_start_without_a_service():
    found = validate_serve(serve_parser().parse_args(["--queue", "7", "--sysctl", "expire_nodest_conn=1"]))

    assert (found.service, found.servers, found.queue, found.sysctls) == (None, [], 7, {"expire_nodest_conn": 1})


@pytest.mark.parametrize("mode", ["dr", "tun"])
def test_there_are_three_modes(mode):
    assert options("--mode", mode, "--real", "10.0.0.1").mode == mode


def test_a_steered_service():
    found = options("--data-path", "steer", "--mark-mask", "0x3f0", "--mode", "dr", "--real", "10.0.0.1")

    assert (found.settings.data_path, found.mark_mask, largest_number(found.mark_mask)) == ("steer", 0x3F0, 63)
    assert options().mark_mask == 0xFFFF00


@pytest.mark.parametrize(("words", "complaint"), [
    (["--data-path", "ster"], "unknown --data-path 'ster'; did you mean 'steer'?; lbq has rewrite, steer"),
    (["--vip", "fwmark:7"], "fwmark:7 cannot be steered: a firewall mark has no address"),
    (["--vip", "192.168.10.1:0", "--persistent"], "cannot be steered: it covers every port"),
    (["--vip", "sctp:192.168.10.1:80"], "cannot be steered: the kernel does not compute the checksum of SCTP"),
    (["--vip", "192.168.10.1:21"], "cannot be steered: FTP's messages"),
    (["--udp", "--ops"], "udp:192.168.10.1:80 cannot be steered: a datagram of --ops is scheduled when"),
    (["--mode", "tun", "--real", "10.0.0.1"], "real server 10.0.0.1:80 cannot be steered: there is no rule"),
    (["--real", "10.0.0.1,mode=tun"], "real server 10.0.0.1:80 cannot be steered"),
    (["--engine", "reference"], "--engine reference rewrites every packet itself"),
    (["--queue", "65535"], "--data-path steer needs the queue behind --queue"),
    (["--mark-mask", "0"], "--mark-mask 0: say one row of bits"),
    (["--mark-mask", "0x5"], "--mark-mask 0x5: say one row of bits"),
    (["--mark-mask", "0xff000000"], "without 0x02000000, which is lbq's own"),
    (["--mark-mask", "many"], "--mark-mask many: say one row of bits"),
    (["--mark-mask", "0x100000000"], "--mark-mask 0x100000000: say"),
    (["--mark-mask", "-1"], "--mark-mask -1: say"),
])
def test_what_cannot_be_steered_is_refused_with_the_reason(words, complaint):
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        options("--data-path", "steer", *(f"{words[0]}={words[1]}", *words[2:]) if words[0] == "--mark-mask" else words)


def test_the_environment_chooses_the_profile_and_the_option_wins(monkeypatch):
    monkeypatch.setenv("LBQ_KERNEL_PROFILE", "classic")

    assert options().profile == "classic"
    assert options("--kernel-profile", "new").profile == "new"


def test_a_wrong_profile_in_the_environment_is_a_mistake_too(monkeypatch):
    monkeypatch.setenv("LBQ_KERNEL_PROFILE", "clasic")

    with pytest.raises(ConfigError, match="unknown kernel profile 'clasic'; did you mean 'classic'"):
        options()


@pytest.mark.parametrize(("words", "complaint"), [
    (["--scheduler", "wcl"], "unknown scheduler 'wcl'; did you mean 'wlc'?; lbq has dh, fo"),
    (["--mode", "natt"], "unknown mode 'natt'; did you mean 'nat'?"),
    (["--mode", "dr", "--real", "10.0.0.1:8080"], "8080 is not the service's port 80"),
    (["--vip", "192.168.10.1:0"], "a service of port 0, every port, needs --persistent"),
    (["--ops"], "--ops is for UDP services"),
    (["--scheduler-flags", "sh-port"], "scheduler wlc has no flag sh-port"),
    (["--scheduler", "sh", "--scheduler-flags", "sh-prot"], "unknown scheduler flag 'sh-prot'"),
    (["--scheduler", "none.py:Mine"], "there is no file"),
    (["--persistent", "x"], "--persistent x: not a number"),
    (["--sysctl", "pmtu_disc"], "say NAME=VALUE"),
    (["--sysctl", "sync_ports=1"], "means nothing here"),
    (["--on-delete", "restart"], "unknown --on-delete 'restart'"),
    (["--engine", "fats"], "unknown engine 'fats'; did you mean 'fast'?"),
    (["--queue", "65536"], "--queue 65536: not a number from 0 to 65535"),
    (["--queue", "-1"], "queue"),
    (["--workers", "0"], "--workers 0: not a number from 1 to 64"),
    (["--workers", "2", "--engine", "reference"], "--engine reference has one worker; --workers 2 is for"),
    (["--workers", "3", "--queue", "65534"], "--workers 3 need as many queues, from --queue 65534 on, and 65535 is the "
                                             "last; say --queue 65533 or below"),
    (["--workers", "3", "--queue", "65531", "--data-path", "steer"], "for each of its workers; say one below 65531"),
    (["--max-connections", "0"], "--max-connections 0: not a number from 1"),
    (["--max-connections", "many"], "--max-connections many: not a number"),
    (["--max-connections", "²"], "--max-connections ²: not a number"),
    (["--real", "10.0.0.1", "--real", "10.0.0.1:80,weight=2"], "10.0.0.1:80 is there twice"),
    (["--real", "192.168.10.1"], "--real 192.168.10.1: '192.168.10.1' is the virtual service"),
    (["--vip", "www.example.com:80"], "--vip www.example.com:80: 'www.example.com' is a name"),
    (["--udp", "--vip", "tcp:192.168.10.1:80"], "says tcp, the options say udp"),
    (["--bogus"], "unrecognized arguments: --bogus"),
    (["--sched", "rr"], "unrecognized arguments: --sched rr"),
    (["extra"], "unrecognized arguments: extra"),
    (["--real"], "--real: expected one argument"),
])
def test_a_wrong_option_says_what_is_wrong(words, complaint):
    with pytest.raises(LbqError) as caught:
        options(*words)

    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("words", "complaint"), [(WORDS[:2], "no --mode"), (WORDS[2:], "no --vip")])
def test_what_is_missing_is_asked_for(words, complaint):
    with pytest.raises(ConfigError, match=complaint):
        validate(director_parser().parse_args(words))


def test_the_help_names_every_option_and_command_it_has():
    parser = director_parser()
    text = parser.format_help()

    for action in parser._actions:
        assert action.option_strings[-1] in text
    for command in ("list | conns | stats", "add|set|del service", "add server", "set server",
                    "del server", "drain", "sysctl", "timeouts", "zero", "realserver", "decap",
                    "serve", "stop", "cleanup"):
        assert f"lbq {command}" in text
