"""The options of a director (``lbq --vip …``): what they are called, what they mean, and which are wrong.

Everything is validated here before anything is touched, and needs no root.  Values stay words until
``validate``, so that every mistake is told in the same way: which option, what was said, what would be right.
"""
from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lbq import __version__, sysctls
from lbq.errors import ConfigError
from lbq.grammar import (
    MODES,
    ServerWords,
    check_server,
    did_you_mean,
    format_endpoint,
    format_service,
    parse_netmask,
    parse_server,
    parse_service,
)
from lbq.model import CLASSIC, NAT, NEW, SCTP, TCP, TUN, UDP, ServiceKey
from lbq.netlink import MARK_MASK, OWN_MARK
from lbq.queues import LAST, MOST_WORKERS, Queues
from lbq.schedulers import BUILT_IN, DEFAULT, create, flag_bits, flag_names, names
from lbq.services import FTP

ENGINES = ("fast", "reference")
PROFILES = (CLASSIC, NEW)
ALL_FLAGS = tuple(flag for scheduler in ("sh", "mh") for flag in flag_names(scheduler))
ON_DELETE = ("keep", "end")
ON_QUIESCE = ("keep", "move")
DATA_PATHS = ("rewrite", "steer", "offload", "auto")
BY_NUMBER = ("steer", "offload")         # those in which the kernel rewrites, told a number
MAX_SECONDS = 31 * 24 * 3600    # what ipvsadm takes for -p
MAX_CONNECTIONS = 1 << 27       # the table's indices have 32 bits, its file 8 GiB

USAGE = """\
lbq --vip VIP:PORT --mode nat|dr|tun [--real RIP[:PORT][,SETTING=VALUE]...]... [OPTION]...
       lbq COMMAND …"""
DESCRIPTION = """\
Balance TCP, UDP and SCTP, IPv4 and IPv6, over real servers, in user space: the Linux Virtual Server over NFQUEUE.
The options run one virtual service in the foreground, until Ctrl-C or lbq stop."""
EPILOG = """\
commands that speak to the running director (each has its own --help):
  lbq list | conns | stats [--json]             what it balances; its connections; its counters
  lbq top [--once | --json]                     the same, live: rates, losses, what is new; keys to look closer
  lbq add|set|del service SERVICE [OPTION]...   one more virtual service; its settings; none
  lbq add server SERVICE RIP[:PORT][,SETTING=VALUE]...    one more real server, now
  lbq set server SERVICE RIP[:PORT],SETTING=VALUE...      changes what is named; weight=0 quiesces
  lbq del server SERVICE RIP[:PORT]             no more packets for it
  lbq drain SERVICE RIP[:PORT] [--end-after S] [--delete] [--wait]    weight 0, until its connections are gone
  lbq end [--service S] [--server RIP] [--client CIP] [--state STATE]    end connections; their clients begin anew
  lbq doctor                                    what on this host, or around it, keeps packets from their way
  lbq explain --from CIP:PORT --to VIP:PORT     why such a packet goes where it goes; needs no director with --config
  lbq trace [--client CIP] [--only-drops] [--pcap FILE]... a line for each packet, live, and why one goes nowhere
  lbq whatif "del server SERVICE RIP"           which connections a change would move, cut or strand
  lbq sysctl [NAME[=VALUE]]...                  net.ipv4.vs.* as in kernel IPVS
  lbq timeouts [--tcp S] [--tcpfin S] [--udp S] of established, closing and UDP connections
  lbq zero [SERVICE] | clear                    counters from zero; delete all services
  lbq save | import FILE [--dry-run]            all of it as ipvsadm's command lines; and back, all or nothing
  lbq proc ip_vs | ip_vs_conn | ip_vs_stats     what the kernel's files in /proc/net would say
  lbq stop                                      rules out, sysctls back, end
other commands:
  lbq serve [OPTION]...                         a director without a service: lbq add service brings them
  lbq cleanup                                   put the host back after a director was killed
  lbq lab nat|dr|tun --exercise N [--check]     a broken one, to be repaired
  lbq lab nat|dr|tun [--keep | --bare | --down] [--report FILE]   try all of it in network namespaces, in a minute
  lbq replay FILE.pcap|FLOWS.csv [OPTION]...    captured connections through every scheduler, offline, without root
  lbq bench [--quick] [OPTION]...               this machine's speed, beside plain forwarding, DNAT and proxies
  lbq realserver dr|tun --vip VIP [--undo]      on a real server: the VIP on lo, and no ARP or NDP for it
  lbq decap --vip VIP                           on a real server whose kernel does not end the tunnel: its end

examples:
  lbq --vip 192.168.10.1:80 --mode nat --real 192.168.20.1 --real 192.168.20.2:8080,weight=2
  lbq --vip [2001:db8::1]:80 --mode nat --real [2001:db8:1::1] --real [2001:db8:1::2]:8080
  lbq --vip 192.168.10.1:53 --udp --mode nat --scheduler rr --real 192.168.20.1
  lbq add server 192.168.10.1:80 192.168.20.3
  lbq --vip 172.16.10.1:80 --mode dr --persistent 300 --real 10.0.0.1 --real 10.0.0.2
  ip netns exec blue lbq list                   the director of another network namespace

SERVICE is [tcp:|udp:|sctp:]VIP:PORT, tcp when nothing is said, or fwmark:N (fwmark:N/6 for IPv6 packets).  Addresses
are never names; those of IPv6 stand in brackets, [2001:db8::1]:80.
SETTINGs of a server: weight, mode, upper and lower (thresholds), tunnel (ipip gue gre), tunnel-port, tunnel-csum.
With nat, real servers must route their replies through this machine (their default gateway, as a rule); with dr
and tun they have the VIP on lo (lbq realserver) and answer clients directly.
Exit status: 0 done; 1 the director failed, or lbq drain --wait gave up; 2 refused, and nothing changed.
Where kernel IPVS makes its users suffer, --on-delete, --on-quiesce, --ops-replies and --idle do better: docs/better.md.
State: /run/lbq/<inode of the network namespace>/ (control socket, lock, undo.json).
Log: standard error; the one line on standard output starts with "ready".  LBQ_DEBUG=1 tells more.
Read next: README.md, then lbq/director.py: the way of one packet.
"""


@dataclass
class Options:
    """A director to run, validated."""

    service: ServiceKey | None      # None: lbq serve, services come later
    mode: str
    settings: ServiceWords
    servers: list[ServerWords]
    engine: str
    queue: int
    profile: str
    max_connections: int
    accept_forward: bool
    add_vip: str | None
    sysctls: dict[str, int]
    mark_mask: int = MARK_MASK
    data_path: str = DATA_PATHS[0]  # of services about which nothing is said
    workers: int = 1

    @property
    def queues(self) -> Queues:
        """Return the NFQUEUE numbers of the director."""
        return Queues(self.queue, self.workers)

    @property
    def scheduler(self) -> str:
        """Return the name of the scheduler."""
        return self.settings.scheduler


@dataclass
class ServiceWords:
    """What is said about a service besides its name; None where nothing is said."""

    scheduler: str | None = None
    persistent: int | None = None       # seconds; 0: not
    netmask: int | None = None
    ops: bool | None = None
    scheduler_flags: list[str] | None = None
    mode: str | None = None             # of servers that do not say it themselves
    on_delete: str | None = None        # these four: where lbq can do better than the kernel (docs/better.md)
    on_quiesce: str | None = None
    ops_replies: bool | None = None
    idle: int | None = None             # seconds; 0: as the director's timeouts say
    pe: str | None = None               # the persistence engine that ipvsadm asked for
    data_path: str | None = None        # who rewrites its packets: lbq, or the kernel that lbq steers


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help in two columns, wide enough for our longest option."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=35, width=105)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)       # sh-fallback is one word


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are raised as ours."""

    def __init__(self, prog: str, description: str, **options):
        super().__init__(prog, description=description, allow_abbrev=False, formatter_class=_Help, **options)

    def error(self, message: str):
        """Raise ConfigError instead of printing usage and exiting."""
        raise ConfigError(f"{message}; {self.prog} --help explains")


def director_parser() -> Parser:
    """Return the parser of ``lbq --vip …``, whose help is also the program's."""
    parser = Parser("lbq", DESCRIPTION, epilog=EPILOG, usage=USAGE)
    add = parser.add_argument
    add("--vip", metavar="VIP:PORT", help="the address and port that clients connect to, or any other SERVICE")
    add("--mode", metavar="MODE", help="how packets reach the real servers: nat, dr or tun")
    add("--udp", action="store_true", help="a UDP service (default: TCP)")
    add_service_options(parser)
    add("--real", metavar="RIP[:PORT][,SETTING=VALUE]...", action="append", default=[],
        help="a real server; again for each one (no port: the service's; weight 1)")
    _add_director_options(parser)
    add("--version", action="version", version=f"lbq {__version__}")
    return parser


def serve_parser() -> Parser:
    """Return the parser of ``lbq serve``."""
    parser = Parser("lbq serve", "Run a director that has no virtual service yet; `lbq add service` brings them.  It "
                    "runs in the foreground, until Ctrl-C or lbq stop.")
    _add_director_options(parser)
    return parser


def _add_director_options(parser: Parser) -> None:
    """Let *parser* understand what is said about a director whatever it balances."""
    add = parser.add_argument
    add("--engine", metavar="ENGINE", default=ENGINES[0],
        help="fast (default), or reference: the readable one")
    add("--queue", metavar="N", default="0", help="NFQUEUE number, 0 to 65535 (default 0)")
    add("--workers", metavar="N", default=os.environ.get("LBQ_WORKERS", "1"),
        help="threads that packets are shared among, each with a queue, from --queue on, and a processor of its own "
             "(default 1)")
    add("--max-connections", metavar="N", default=str(1 << 20),
        help=f"room in the connection table (default {1 << 20})")
    add("--kernel-profile", metavar="PROFILE", default=os.environ.get("LBQ_KERNEL_PROFILE", NEW),
        help="decide as IPVS of kernels up to 6.1.176 (classic) or of newer ones (new, default)")
    add("--accept-forward", action="store_true",
        help="let the service's packets through a FORWARD DROP policy")
    add("--sysctl", metavar="NAME=VALUE", action="append", default=[],
        help="set one of net.ipv4.vs.* from the start; lbq sysctl lists them")
    add("--mark-mask", metavar="MASK", default=f"{MARK_MASK:#010x}",
        help="bits of the firewall mark that --data-path steer and offload use, in one row; the others stay so "
             f"(default {MARK_MASK:#010x})")
    add("--add-vip", metavar="DEV", help="put the VIP on this device while the director runs")
    add("--json-log", action="store_true", help="log one JSON object a line")


def validate(words: argparse.Namespace) -> Options:
    """Return the options that *words* say, or raise for the first that is wrong."""
    if words.vip is None:
        raise ConfigError("no --vip: say which address and port to balance, such as --vip 192.168.10.1:80; "
                          "lbq --help explains")
    service = _about("--vip", parse_service, words.vip, "udp" if words.udp else None)
    mode = mode_of(words.mode)
    settings = service_words(words, service.family)
    settings.scheduler = settings.scheduler or DEFAULT
    settings.mode = mode
    check_service(service, settings)
    servers = _servers(words.real, service, MODES[mode])
    for server in servers:
        check_steered(settings.data_path, server._replace(mode=MODES[mode] if server.mode is None else server.mode))
    return _director(words, service, mode, settings, servers)


def validate_serve(words: argparse.Namespace) -> Options:
    """Return the options of a director without a service, or raise for the first that is wrong."""
    return _director(words, None, "nat", ServiceWords(), [])


def _director(words: argparse.Namespace, service: ServiceKey | None, mode: str, settings: ServiceWords,
              servers: list[ServerWords]) -> Options:
    engine = _one_of("engine", words.engine, ENGINES)
    queue = _number("--queue", words.queue, 0, 65535)
    workers = _number("--workers", words.workers, 1, MOST_WORKERS)
    if workers > 1 and engine != ENGINES[0]:
        raise ConfigError(f"--engine {engine} has one worker; --workers {workers} is for --engine {ENGINES[0]}")
    queues = Queues(queue, workers)
    if queues.whole[-1] > LAST:
        raise ConfigError(f"--workers {workers} need as many queues, from --queue {queue} on, and {LAST} is the last; "
                          f"say --queue {LAST + 1 - workers} or below")
    check_data_path(settings.data_path, engine, queues)
    return Options(
        service=service,
        mode=mode,
        settings=settings,
        servers=servers,
        engine=engine,
        queue=queue,
        profile=_one_of("kernel profile", words.kernel_profile, PROFILES),
        max_connections=_number("--max-connections", words.max_connections, 1, MAX_CONNECTIONS),
        accept_forward=words.accept_forward,
        add_vip=words.add_vip,
        sysctls=_sysctls(words),
        mark_mask=_mark_mask(words.mark_mask),
        workers=workers,
        data_path=_one_of("LBQ_DATA_PATH", os.environ.get("LBQ_DATA_PATH", DATA_PATHS[0]), DATA_PATHS),
    )


def add_service_options(parser: Parser) -> None:
    """Let *parser* understand what can be said about a service."""
    add = parser.add_argument
    add("--scheduler", metavar="NAME",
        help=f"who chooses the real server: {', '.join(BUILT_IN)}, or path/to/file.py:Class (default {DEFAULT})")
    add_client_options(parser)
    add("--ops", action="store_const", const=True, help="UDP: schedule every datagram by itself")
    add("--ops-replies", action="store_const", const=True,
        help="with --ops and nat: answers come from the VIP (default: they leave as the real server sends them, as "
             "in kernel IPVS)")
    add("--data-path", metavar="PATH",
        help="who rewrites the packets: rewrite (default: lbq, any mode), steer (the kernel, which lbq tells a number "
             "for each packet, having seen its headers; nat and dr, TCP and UDP; for bulk traffic), offload (the "
             "kernel's conntrack, which lbq tells a number for each new flow; nat, TCP and UDP) or auto (steer where "
             "service and kernel can).  LBQ_DATA_PATH says it for services that do not")


def add_client_options(parser: Parser) -> None:
    """Let *parser* understand what can be said about where a service's clients go, besides the scheduler's name."""
    add = parser.add_argument
    add("--scheduler-flags", metavar="FLAG,...",
        help="of sh and mh: sh-port, mh-port (the client's port counts, too), sh-fallback, mh-fallback (another "
             "server instead of a quiesced or full one); default none, as in kernel IPVS")
    add("--persistent", metavar="SECONDS", nargs="?", const="300",
        help="a client goes where it went before, for so long (300 when no number is said; 0: not)")
    add("--netmask", metavar="MASK", help="clients of one network count as one: 255.255.255.0 or 24; IPv6: 64")
    add("--on-delete", metavar="WHAT",
        help="connections of a deleted server: keep (default; their clients hear nothing until it is added again, as "
             "in kernel IPVS) or end (they start over with another server)")
    add("--on-quiesce", metavar="WHAT",
        help="clients of a server of weight 0: keep (default; UDP and persistent ones stay with it, as in kernel "
             "IPVS) or move (their next datagram, SYN or persistent connection goes to another, if there is one)")
    add("--idle", metavar="SECONDS",
        help="idle time after which established and UDP connections end (default 0: as lbq timeouts says, 900 and "
             "300 s; hosts' own keepalives come after 7200)")


def service_words(words: argparse.Namespace, family: int) -> ServiceWords:
    """Return what *words* say about a service of *family*, or raise for the first that is wrong."""
    seconds, idle = words.persistent, words.idle
    return ServiceWords(
        scheduler=None if words.scheduler is None else scheduler_of(words.scheduler),
        persistent=None if seconds is None else _number("--persistent", seconds, 0, MAX_SECONDS),
        netmask=None if words.netmask is None else _about("--netmask", parse_netmask, words.netmask, family),
        ops=words.ops,
        scheduler_flags=None if words.scheduler_flags is None else [
            _one_of("scheduler flag", flag, ALL_FLAGS) for flag in words.scheduler_flags.split(",") if flag],
        data_path=data_path_of(words.data_path),
        on_delete=on_delete_of(words.on_delete),
        on_quiesce=on_quiesce_of(words.on_quiesce),
        ops_replies=words.ops_replies,
        idle=None if idle is None else _number("--idle", idle, 0, MAX_SECONDS),
    )


def check_service(service: ServiceKey, settings: ServiceWords) -> None:
    """Raise ConfigError for settings that do not go together."""
    if service.port == 0 and not service.fwmark and not settings.persistent:
        raise ConfigError(f"{format_service(service)}: a service of port 0, every port, needs --persistent; kernel "
                          "IPVS takes it without, and then never forwards anything")
    if settings.ops and service.protocol != UDP and not service.fwmark:
        raise ConfigError(f"{format_service(service)}: --ops is for UDP services")
    if settings.ops_replies and not settings.ops:
        raise ConfigError(f"{format_service(service)}: --ops-replies is about the answers to --ops datagrams; "
                          "say --ops, too, or leave it away")
    if settings.ops_replies and service.fwmark:
        raise ConfigError(f"{format_service(service)}: --ops-replies needs a VIP for answers to come from, and a "
                          "firewall mark has none")
    check_service_on_data_path(service, settings)
    known = flag_names(settings.scheduler or DEFAULT)
    for flag in settings.scheduler_flags or []:
        if flag not in flag_bits(settings.scheduler or DEFAULT):
            raise ConfigError(f"scheduler {settings.scheduler or DEFAULT} has no flag {flag}"
                              + (f"; it has {', '.join(known)}" if known else ""))


def check_service_on_data_path(service: ServiceKey, settings: ServiceWords) -> None:
    """Raise ConfigError, with the reason, when the kernel cannot do what the data path of *service* leaves to it."""
    if settings.data_path == "steer":
        what, reason = "steered", steering_refused(service, ops=settings.ops)
    elif settings.data_path == "offload":
        what, reason = "offloaded", offloading_refused(service, settings)
    else:
        return
    if reason:
        raise ConfigError(f"{format_service(service)} cannot be {what}: {reason}; use --data-path rewrite")


def steering_refused(service: ServiceKey, *, ops: bool | None = False) -> str:
    """Return why the kernel cannot rewrite the packets of *service*, "" when it can."""
    if ops:
        return "a datagram of --ops is scheduled when it is seen, and some would have to be seen twice"
    if service.fwmark:
        return "a firewall mark has no address that replies could come from"
    if service.port == 0:
        return "it covers every port, and the kernel is told one"
    if service.protocol == SCTP:
        return "the kernel does not compute the checksum of SCTP"
    if (service.protocol, service.port) == (TCP, FTP):
        return "FTP's messages are rewritten, too"
    return ""


def offloading_refused(service: ServiceKey, settings: ServiceWords) -> str:
    """Return why conntrack cannot carry the flows of *service*, "" when it can."""
    if service.fwmark:
        return "a firewall mark has no address whose flows it could know"
    if service.port == 0:
        return "it covers every port, and the kernel is told one"
    if service.protocol == SCTP:
        return "the kernel's rules for that know TCP and UDP"
    if (service.protocol, service.port) == (TCP, FTP):
        return "FTP's messages are rewritten, too, and its data connections are announced in them"
    if settings.ops:
        return "--ops schedules every datagram, and conntrack keeps those of a client together"
    if settings.idle:
        return "--idle is a service's own, and conntrack's timeouts are for all of them (lbq timeouts)"
    return ""


def auto_refused(mode: str, engine: str, queues: Queues) -> str:
    """Return why ``auto`` does not steer a service with servers of *mode* in this director, "" when it does."""
    if mode == "tun":
        return "no rule of the kernel's chooses a tunnel by a number"
    try:
        check_data_path("steer", engine, queues)
    except ConfigError as error:
        return str(error)
    return ""


def check_steered(data_path: str | None, server: ServerWords) -> None:
    """Raise ConfigError for a server that a service of this data path cannot have."""
    if data_path == "offload" and server.port == 0:
        raise ConfigError(f"real server {format_endpoint(*server.place())} cannot be offloaded: the kernel is told one "
                          "port; use --data-path rewrite, or say it")
    if data_path == "offload" and server.mode != NAT:
        raise ConfigError(f"real server {format_endpoint(*server.place())} cannot be offloaded: conntrack rewrites "
                          "packets, which is nat and nothing else; use --data-path rewrite, or mode nat")
    if data_path == "steer" and server.mode == TUN:
        raise ConfigError(f"real server {format_endpoint(*server.place())} cannot be steered: there is no rule of the "
                          "kernel's that chooses a tunnel by a number; use --data-path rewrite, or mode nat or dr")


def check_data_path(data_path: str | None, engine: str, queues: Queues) -> None:
    """Raise ConfigError when this director has no such data path."""
    if data_path not in BY_NUMBER:
        return
    if engine != ENGINES[0]:
        raise ConfigError(f"--engine {engine} rewrites every packet itself; --data-path {data_path} is for "
                          f"--engine {ENGINES[0]}")
    if queues.all[-1] > LAST:
        raise ConfigError(f"--data-path {data_path} needs the queue behind --queue, too, for each of its workers; say "
                          f"one below {LAST + 2 - len(queues.all)}")


def largest_number(mask: int) -> int:
    """Return the largest number that fits into the bits *mask* of a mark."""
    return mask // (mask & -mask)


def _mark_mask(text: str) -> int:
    try:
        mask = int(text, 0)
    except ValueError:
        mask = 0
    if not 0 < mask < 1 << 32 or largest_number(mask) & largest_number(mask) + 1 or mask & OWN_MARK:
        raise ConfigError(f"--mark-mask {text}: say one row of bits of 32, such as {MARK_MASK:#010x}, without "
                          f"{OWN_MARK:#010x}, which is lbq's own")
    return mask


def _sysctls(words: argparse.Namespace) -> dict[str, int]:
    values = {}
    for text in words.sysctl:
        name, value = parse_sysctl(text)
        if value is None:
            raise ConfigError(f"--sysctl {text}: say NAME=VALUE")
        values[name] = value
    return values


def parse_sysctl(text: str) -> tuple[str, int | None]:
    """Return name, without ``net.ipv4.vs.``, and value of ``NAME[=VALUE]``; the value is None when none is said."""
    name, equals, value = text.partition("=")
    name = name.strip().removeprefix(sysctls.PREFIX)
    sysctls.check(name)
    if not equals:
        return name, None
    value = value.strip()
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else -1
    sysctls.check(name, number, value)
    return name, number


def mode_of(mode: str | None) -> str:
    """Return *mode* when there is such a one."""
    if mode is None:
        raise ConfigError("no --mode: say how packets reach the real servers: --mode nat, dr or tun")
    return _one_of("mode", mode, MODES)


def on_delete_of(what: str | None) -> str | None:
    """Return *what* becomes of a deleted server's connections, when there is such a thing."""
    return None if what is None else _one_of("--on-delete", what, ON_DELETE)


def data_path_of(name: str | None) -> str | None:
    """Return the data path *name*, when there is such a one."""
    return None if name is None else _one_of("--data-path", name, DATA_PATHS)


def on_quiesce_of(what: str | None) -> str | None:
    """Return *what* becomes of a quiesced server's clients, when there is such a thing."""
    return None if what is None else _one_of("--on-quiesce", what, ON_QUIESCE)


def scheduler_of(name: str) -> str:
    """Return *name* when there is such a scheduler; plugged-in ones are only looked for when needed."""
    if name.endswith(".py") or ".py:" in name:
        path, _, attribute = name.rpartition(":")
        create(name)                    # raises when it cannot be used
        return f"{os.path.abspath(path)}:{attribute}"
    return name if name in BUILT_IN else _one_of("scheduler", name, names())


def _servers(texts: list[str], service: ServiceKey, mode: int) -> list[ServerWords]:
    """Return the real servers of --real, each once."""
    servers = []
    for text in texts:
        server = _about("--real", parse_server, text, service)
        _about("--real", lambda _, server=server: check_server(
            server, service, mode if server.mode is None else server.mode), text)
        if any(server.place() == other.place() for other in servers):
            raise ConfigError(f"--real {text}: {format_endpoint(*server.place())} is there twice; "
                              "say it once, with a weight if it is to get more")
        servers.append(server)
    return servers


def _about(option: str, parse: Callable, text: str, *args):
    """Return what *parse* makes of *text*, or raise with the option's name in front of what is wrong."""
    try:
        return parse(text, *args)
    except ConfigError as error:
        raise ConfigError(f"{option} {text}: {error}") from error


def _one_of(what: str, word: str, known: Iterable[str]) -> str:
    if word not in known:
        raise ConfigError(f"unknown {what} '{word}'{did_you_mean(word, known)}; lbq has {', '.join(known)}")
    return word


def _number(option: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise ConfigError(f"{option} {text}: not a number from {least} to {most}")
    return int(text)
