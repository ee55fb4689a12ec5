"""A twin of the director: the readable engine, knowing what the running one knows, that notes why it decides so.

``Witness`` is ``director.Director`` with notes at its turnings; it decides nothing by itself.  ``of_picture`` makes
one that knows what a running director does (``look.py``), ``of_rows`` one out of a configuration.
"""
from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from lbq import conntrack, traffic
from lbq import packet as pkt
from lbq.conntrack import ASSURED, TEMPLATE_STATES, Connection
from lbq.control.rows import key_of, server_of, service_of
from lbq.director import Director
from lbq.explain.reasons import Foreseen, Reasons, name_of, question
from lbq.grammar import format_address, format_endpoint, format_service
from lbq.model import (
    MODE_NAMES,
    NEW,
    ONE_PACKET,
    PROTOCOL_NAMES,
    TEMPLATE,
    UDP,
    Flow,
    RealServer,
    ServiceKey,
    Tunnel,
    VirtualService,
)
from lbq.parsing import Parsed, family_of, read_quote
from lbq.protocols import tcp
from lbq.related import errors_of
from lbq.schedulers import lblc, lblcr
from lbq.schedulers.locality import LocalityBased

BY_KERNEL = {
    "steer": "the data path is steer: what is longer than 128 bytes the kernel rewrites, to the same end",
    "offload": "the data path is offload: lbq sees the first packet of a flow, and conntrack translates those after it"}


class Note(NamedTuple):
    """One step of a decision: what was done, what came of it, and the same as data."""

    step: str
    text: str
    facts: dict


class Witness(Director):
    """A director that notes what it does with a packet."""

    def __init__(self, profile: str = NEW):
        super().__init__(profile=profile)
        self.traffic = defaultdict(traffic.Traffic)     # nobody reads it here
        self.notes: list[Note] = []
        self.caveats: list[str] = []        # what it does not know, and the running director does
        self.now_ns = 0
        self.outcome = ""

    def note(self, step: str, text: str, **facts) -> None:
        """Note what was done."""
        self.notes.append(Note(step, text, facts))

    # ---- Turnings of the way, in its order -----------------------------------------------------------------

    def _find(self, parsed: Parsed) -> Connection | None:
        found = super()._find(parsed)
        if found is None:
            self.note("connection", f"none from {_end(parsed)} to {_other_end(parsed)} in the table", found=None)
        else:
            self.note("connection", f"in the table: {self.say(found)}", found=self.facts_of(found))
        return found

    def _reply(self, packet: bytearray, parsed: Parsed, *rest) -> str:
        found = self.connections.find_reply(parsed.family, parsed.protocol, parsed.destination,
                                            parsed.destination_port, parsed.source, parsed.source_port)
        if found is not None:
            self.note("connection", f"a reply in the table: {self.say(found)}", found=self.facts_of(found))
        else:
            self.note("connection", f"no connection whose replies come from {_end(parsed)} to {_other_end(parsed)}",
                      found=None)
        return super()._reply(packet, parsed, *rest)

    def _starts_over(self, connection: Connection) -> bool:
        starts = super()._starts_over(connection)
        if starts:
            self.note("connection", "it opens a connection, and the old one may end: it is scheduled afresh "
                      "(sysctl conn_reuse_mode, or expire_nodest_conn with a quiesced server)", starts_over=True)
        return starts

    def _may_move(self, connection: Connection, parsed: Parsed) -> bool:
        moves = super()._may_move(connection, parsed)
        if moves:
            self.note("connection", "its server is quiesced, and the service moves clients then (--on-quiesce move)",
                      moves=True)
        return moves

    def admit(self, parsed: Parsed, now_ns: int) -> Connection | str:
        """Note which service it is for, then do it."""
        service = self.services.find_service(parsed.family, parsed.protocol, parsed.destination,
                                             parsed.destination_port, parsed.mark)
        if service is None:
            self.note("service", f"none for {PROTOCOL_NAMES[parsed.protocol]} {_other_end(parsed)}"
                      + (f" or mark {parsed.mark}" if parsed.mark else ""), service=None)
        else:
            how = _how_matched(service, parsed)
            self.note("service", f"{format_service(service.key)}, by {how}; scheduler {service.scheduler.name}",
                      service=format_service(service.key), by=how, scheduler=service.scheduler.name)
        return super().admit(parsed, now_ns)

    def _defends(self) -> bool:
        """Let it in, with a word of doubt: whose turn it is to be dropped, the running director alone knows."""
        if self.drop_rate <= 1 and self.services.sysctls["drop_packet"] != 2:
            return super()._defends()           # nobody is dropped, or everybody
        which = (f"one new connection in {self.drop_rate} is" if self.services.sysctls["drop_packet"] == 3 else
                 "some new connections are")
        doubt = f"{which} dropped instead (sysctl drop_packet); whether it is this one is not known"
        if self.drop_rate and doubt not in self.caveats:
            self.caveats.append(doubt)
        return False

    def _admit_persistent(self, service: VirtualService, parsed: Parsed, now_ns: int) -> Connection | str:
        client = format_address(service.client(parsed.source), parsed.family)
        self.note("persistence", f"the service keeps clients for {service.timeout} s; this one counts as {client}",
                  client=client, timeout_seconds=service.timeout)
        asked = len(self.notes)
        result = super()._admit_persistent(service, parsed, now_ns)
        if isinstance(result, Connection) and not any(note.step == "scheduler" for note in self.notes[asked:]):
            self.note("persistence", f"its template says {name_of(result.server)}: no scheduler is asked",
                      template=self.facts_of(result.control))
        return result

    def _is_valid(self, template: Connection, service: VirtualService) -> bool:
        valid = super()._is_valid(template, service)
        if not valid:
            self.note("persistence", "the client's template leads to a server that is gone or quiesced: it is not used",
                      template=self.facts_of(template))
        return valid

    def _choose(self, service: VirtualService, parsed: Parsed, now_ns: int) -> RealServer | None:
        if parsed.related and isinstance(service.scheduler, LocalityBased):
            self.caveats.append("what the scheduler remembers of the sender of the quoted packet is not known")
        wanted = parsed.source if parsed.related else parsed.destination
        asked = question(service, Flow(parsed.protocol, parsed.source, parsed.source_port, wanted,
                                       parsed.destination_port, parsed.family, now_ns))
        chosen = super()._choose(service, parsed, now_ns)
        reasons: Reasons = asked.answer(chosen)
        self.note("scheduler", f"{reasons.scheduler} chooses {name_of(chosen) if chosen else 'nobody'}: {reasons.rule}",
                  scheduler=reasons.scheduler, rule=reasons.rule, steps=reasons.steps,
                  candidates=[candidate._asdict() for candidate in reasons.candidates],
                  chosen=chosen and name_of(chosen))
        return chosen

    def _see(self, connection: Connection, direction: int, parsed: Parsed) -> None:
        before = self.state_of(connection)
        super()._see(connection, direction, parsed)
        after = self.state_of(connection)
        moved = before if before == after else f"{before} → {after}"
        lasting = ("and the connection ends with this packet (--ops)" if connection.flags & ONE_PACKET else
                   f"which lasts {connection.timeout_seconds} s without a packet")
        self.note("state", f"{moved}, {lasting}",
                  before=before, after=after, timeout_seconds=connection.timeout_seconds,
                  seen="from the server" if direction == tcp.OUT else "from the client")

    def icmp_request(self, packet: bytearray, hook: int, form: int, mark: int, now_ns: int) -> str:
        """Note what the error is about, then handle it."""
        quote = quote_in(packet)
        if quote is not None:
            about = quote.turned_round()
            self._note_about(quote, self.connections.find(about.family, about.protocol, about.source,
                                                          about.source_port, about.destination,
                                                          about.destination_port))
        return super().icmp_request(packet, hook, form, mark, now_ns)

    def icmp_reply(self, packet: bytearray, hook: int, form: int, mark: int, now_ns: int) -> str:
        """Note what the error is about, then handle it."""
        quote = quote_in(packet)
        if quote is not None:
            self._note_about(quote, self.connections.find_reply(quote.family, quote.protocol, quote.source,
                                                                quote.source_port, quote.destination,
                                                                quote.destination_port))
        return super().icmp_reply(packet, hook, form, mark, now_ns)

    def _note_about(self, quote: Parsed, found: Connection | None) -> None:
        protocol = PROTOCOL_NAMES[quote.protocol].upper()
        self.note("about", f"an error about {protocol} from {_end(quote)} to {_other_end(quote)}", protocol=protocol)
        if found is None:
            self.note("connection", "none in the table to which that belongs", found=None)
        else:
            self.note("connection", f"in the table: {self.say(found)}", found=self.facts_of(found))

    def _tunnel_error(self, packet: bytearray, length: int, at: int, now_ns: int) -> str | None:
        outcome, quote = super()._tunnel_error(packet, length, at, now_ns), quote_in(packet)
        if outcome is None and quote is not None and quote.protocol == UDP and self.notes[-1].facts["found"] is None:
            self.caveats.append("if it is about a packet of a GUE tunnel to a real server, the client is told instead")
        return outcome

    def is_servers(self, parsed: Parsed) -> bool:
        """Return True for what a real server sends, of a connection that nobody knows."""
        return self._is_server(parsed) or self._one_packet_server(parsed) is not None

    def _unknown_reply(self, packet: bytearray, parsed: Parsed, *rest) -> str:
        server = self._one_packet_server(parsed)
        if server is not None:
            name = format_service(server.service.key)
            self.note("service", f"{name_of(server)} is a real server of {name}, whose answers come from the VIP "
                      "(--ops-replies)", service=name)
        return super()._unknown_reply(packet, parsed, *rest)

    def forward(self, packet: bytearray, parsed: Parsed, connection: Connection, form: int, now_ns: int) -> str:
        """Note the forwarding method, then do it."""
        server = connection.server
        if server is not None:
            to = format_endpoint(connection.daddr, connection.dport, server.family)
            self.note("forward", f"{MODE_NAMES[connection.mode()]} to {to}", mode=MODE_NAMES[connection.mode()], to=to)
        return super().forward(packet, parsed, connection, form, now_ns)

    # ---- In words ----------------------------------------------------------------------------------------------

    def state_of(self, connection: Connection) -> str:
        """Return the name of a connection's state."""
        if connection.flags & TEMPLATE:
            return TEMPLATE_STATES[connection.state & ASSURED]
        return conntrack.STATE_NAMES[connection.protocol][connection.state]

    def facts_of(self, connection: Connection) -> dict:
        """Return *connection* as the listings show it."""
        return conntrack.decode(connection.record(), self.now_ns)

    def say(self, connection: Connection) -> str:
        """Return *connection* on a line."""
        facts = self.facts_of(connection)
        server = name_of(connection.server) if connection.server else "no server"
        gone = " (deleted)" if connection.server and not connection.server.available else ""
        ends = (format_endpoint(address, port, connection.family) for address, port in (
            (connection.caddr, connection.cport), (connection.vaddr, connection.vport)))
        return (f"{facts['protocol']} {' → '.join(ends)} at {server}{gone}, {facts['state']}, "
                f"expires in {facts['expires_seconds']} s")

    def handle(self, packet: bytearray, hook: int, form: int = 0, out_device: int = 0, now_ns: int = 0,
               truncated: bool = False, mark: int = 0):
        """Decide about *packet*, with notes."""
        self.notes, self.now_ns = [], now_ns
        counted = dict(self.counted)
        verdict = super().handle(packet, hook, form, out_device, now_ns, truncated, mark)
        self.outcome = next(name for name in ("rewritten", "forwarded", *self.counted)
                            if name.startswith(("passed_", "dropped_", "rewritten", "forwarded"))
                            and self.counted[name] != counted.get(name, 0))
        return verdict


# ---- Making one -------------------------------------------------------------------------------------------------


def of_rows(rows: list[dict], sysctls: dict[str, int], timeouts: tuple[int, int, int], profile: str = NEW) -> Witness:
    """Return a witness with the services in *rows*, as listings and saved rules have them."""
    from lbq.control.operations import server_arguments, service_arguments

    twin = Witness(profile)
    for name, value in sysctls.items():
        twin.set_sysctl(name, value)
    twin.set_timeouts(*timeouts)
    for row in rows:
        key = key_of(row)
        twin.add_service(key, *service_arguments(service_of(row)))
        for server in reversed(row["servers"]):
            words = server_of(server)
            twin.add_server(*server_arguments((key, *words.place()), words))
    return twin


def of_picture(picture: dict, row: dict | None) -> Witness:
    """Return a witness that knows what a running director said (``look``), *row* being its service's listing."""
    if row:
        row = {**row, "scheduler": picture["service"]["asked"]}
    twin = of_rows([row] if row else [], picture["sysctls"], picture["timeouts"], picture["profile"])
    if row and row.get("data_path") in BY_KERNEL:
        twin.caveats.append(BY_KERNEL[row["data_path"]])
    for family in picture["serves"]:
        twin.services.serves[family] += 1       # there are others, or the packet would meet no hook
    service = next(iter(twin.services.by_key.values()), None)
    _enter(twin, picture["entries"], service)
    twin.connections.max_connections = len(twin.connections) + picture["room"]
    if service is not None:
        _count(service, row, picture["service"])
    return twin


def _count(service: VirtualService, row: dict, known: dict) -> None:
    """Give servers the numbers, and the scheduler the memory, that the running director has."""
    for server, its in zip(service.servers, row["servers"], strict=True):
        server.active_conns, server.inactive_conns = its["active"], its["inactive"]
        server.persistent_conns, server.overloaded = its["persistent"], its["overloaded"]
    for position, weight in known["last_weights"]:
        if position < len(service.servers):
            service.servers[position].last_weight = weight
    scheduler, state = service.scheduler, known["state"]
    scheduler.bind(service)
    if "level" in state:
        scheduler.level = state["level"]
    if state.get("last") is not None and state["last"] < len(service.servers):
        scheduler.last = service.servers[state["last"]]
    if "drawn" in state:
        scheduler.random = Foreseen(state["drawn"])
    entry = state.get("remembered")
    if entry:
        servers = [service.servers[position] for position in entry["servers"] if position < len(service.servers)]
        if servers:
            vip = entry["address"]
            if service.scheduler.name == "lblc":
                scheduler.memory.add(lblc.Remembered(vip, entry["last_use"], servers[0]), servers[0])
            else:
                made = lblcr.RememberedSet(vip, entry["last_use"], servers[0])
                made.servers, made.last_change = servers, entry["last_change"]
                scheduler.memory.add(made, servers[0])


def _enter(twin: Witness, entries: dict, service: VirtualService | None) -> None:
    """Enter connections and templates as their records say."""
    made, numbers, elsewhere = {}, {}, {}
    for number, entry in entries.items():
        record = bytes.fromhex(entry["record"])
        values = conntrack.fields(record)
        server = entry["server"] and _server(twin, entry["server"], service, elsewhere)
        connection = Connection(values["protocol"], values["caddr"], values["cport"], values["vaddr"],
                                values["vport"], server, values["dport"], 0, values["fwmark"], values["family"])
        connection.flags = values["flags"] & ~conntrack.VALID
        connection.daddr = values["daddr"]
        for name in ("state", "packets_in", "timeout_seconds", "controlled", "expires_ns"):
            setattr(connection, name, values[name])
        twin.connections.add(connection)
        if values["helper"]:
            twin.caveats.append("an FTP control connection: where it names addresses, lbq rewrites those, too")
        made[int(number)], numbers[int(number)] = connection, values["control"]
    for number, control in numbers.items():
        made[number].control = made.get(control)


def _server(twin: Witness, place: dict, service: VirtualService | None, elsewhere: dict) -> RealServer:
    """Return the server that *place* names: one of the service's, or one made for a service that is not here."""
    key = ServiceKey(*place["key"])
    if service is not None and service.key == key and place["available"]:
        found = twin.services.find_server(key, place["address"], place["port"], place["family"])
        if found is not None:
            return found
    name = key, place["address"], place["port"], place["family"], place["available"]
    if name not in elsewhere:
        server = RealServer(place["address"], place["port"], place["weight"], place["mode"], family=place["family"])
        server.tunnel = Tunnel(*place["tunnel"])
        server.slot, server.available, server.ends = 0, place["available"], place["ends"]
        server.service = VirtualService(key, None, place["flags"], idle=place["idle"])
        elsewhere[name] = server
    return elsewhere[name]


def _how_matched(service: VirtualService, parsed: Parsed) -> str:
    key = service.key
    if key.fwmark:
        return f"firewall mark {key.fwmark}"
    if key.port == parsed.destination_port:
        return "address and port"
    return "FTP's control port: it may be data" if key.port else "address, on any port"


def quote_in(packet: bytearray) -> Parsed | None:
    """Return what the ICMP error *packet* is about, None when that has no ports, or there is none."""
    length = pkt.whole_length(packet)
    at = errors_of(family_of(packet)).quoted(packet, length)
    return read_quote(packet, at, length, 0, 0) if at else None


def _end(parsed: Parsed) -> str:
    return format_endpoint(parsed.source, parsed.source_port, parsed.family)


def _other_end(parsed: Parsed) -> str:
    return format_endpoint(parsed.destination, parsed.destination_port, parsed.family)
