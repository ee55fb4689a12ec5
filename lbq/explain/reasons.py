"""Every candidate of a scheduler for one flow: its score, whether it was chosen, and why it lost.

``question`` looks at a scheduler before it is asked, ``Question.answer`` says the reasons for what it chose.  The
choice itself is always the scheduler's own; nothing here is asked by the packet path.
"""
from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, cycle
from typing import NamedTuple

from lbq.explain.look import remembered, servers_of
from lbq.grammar import format_address, format_endpoint
from lbq.model import Flow, RealServer, VirtualService, fold
from lbq.schedulers.hashing import client_port, falls_back, hash32
from lbq.schedulers.locality import is_too_busy, present
from lbq.schedulers.mh import slot_of

MOST_PROBES = 16        # that are told one by one


class Candidate(NamedTuple):
    """One server of the service, in list order (the newest first)."""

    server: str
    weight: int
    active: int
    inactive: int
    score: str
    chosen: bool
    why: str


class Reasons(NamedTuple):
    """What a scheduler goes by, what it did step by step, and what became of each candidate."""

    scheduler: str
    rule: str
    steps: list[str]
    candidates: list[Candidate]


Judge = Callable[[RealServer, "RealServer | None"], tuple[str, str]]      # (server, chosen) -> score, why it lost


class Question:
    """A scheduler that is about to be asked for the server of a flow."""

    def __init__(self, rule: str, steps: list[str], judge: Judge, service: VirtualService):
        self.rule = rule
        self.steps = steps
        self.judge = judge
        self.service = service

    def answer(self, chosen: RealServer | None) -> Reasons:
        """Return the reasons for *chosen*."""
        rows = []
        for server in self.service.servers:
            score, why = self.judge(server, chosen)
            if server is chosen:
                why = ""
            rows.append(Candidate(name_of(server), server.weight, server.active_conns, server.inactive_conns, score,
                                  server is chosen, why))
        steps = self.steps if rows else ["the service has no real server"]
        return Reasons(self.service.scheduler.name, self.rule, steps, rows)


def question(service: VirtualService, flow: Flow) -> Question:
    """Return the question that the scheduler of *service* is about to be asked; its state stays as it is."""
    ask = BY_NAME.get(service.scheduler.name) if type(service.scheduler).__module__.startswith("lbq.") else None
    rule, steps, judge = ask(service, flow) if ask else _users_own(service, flow)
    return Question(rule, steps, judge, service)


def name_of(server: RealServer) -> str:
    """Return ``192.168.20.1:80``."""
    return format_endpoint(server.address, server.port, server.family)


def cannot(server: RealServer) -> str:
    """Return why no scheduler may choose *server*, "" when one may."""
    if server.weight <= 0:
        return "weight 0: quiesced"
    if server.overloaded:
        return (f"overloaded: {server.active_conns + server.inactive_conns} connections, "
                f"upper threshold {server.upper}, lower {server.lower}")
    return ""


# ---- The least loaded: lc wlc sed nq lblc lblcr twos ------------------------------------------------------


class Load(NamedTuple):
    """What schedulers compare: ``above / below``, by cross-multiplication."""

    above: int
    below: int

    def __str__(self) -> str:
        return f"{self.above}/{self.below}" if self.below != 1 else f"{self.above}"

    def is_more(self, other: Load) -> bool:
        """Return True when this load is larger than *other*."""
        return self.above * other.below > other.above * self.below


def _least(load: Callable[[RealServer], Load]) -> Judge:
    def judge(server: RealServer, chosen: RealServer | None) -> tuple[str, str]:
        mine = load(server)
        if cannot(server) or chosen is None:
            return str(mine), cannot(server)
        if mine.is_more(load(chosen)):
            return str(mine), f"load {mine} > {load(chosen)}"
        if load(chosen).is_more(mine):
            return str(mine), f"load {mine}, less, but not asked"
        return str(mine), f"load {mine} = {load(chosen)}, and listed later"

    return judge


def _overhead(server: RealServer) -> Load:
    return Load(server.overhead(), 1)


def _weighted_overhead(server: RealServer) -> Load:
    return Load(server.overhead(), server.weight)


def _delay(server: RealServer) -> Load:
    return Load(server.active_conns + 1, server.weight)


def _cost(service: VirtualService) -> int:
    return service.servers[0].active_cost if service.servers else 257


def _lc(service: VirtualService, flow: Flow):
    return f"least {_cost(service)} × active + inactive; of equals the first listed", [], _least(_overhead)


def _wlc(service: VirtualService, flow: Flow):
    return (f"least ({_cost(service)} × active + inactive) / weight; of equals the first listed", [],
            _least(_weighted_overhead))


def _sed(service: VirtualService, flow: Flow):
    return "least (active + 1) / weight; of equals the first listed", [], _least(_delay)


def _nq(service: VirtualService, flow: Flow):
    least = _least(_delay)

    def judge(server: RealServer, chosen: RealServer | None) -> tuple[str, str]:
        score, why = least(server, chosen)
        if chosen is None or cannot(server) or chosen.active_conns:
            return score, why
        if server.active_conns:
            return score, f"{server.active_conns} active: not idle"
        return score, "idle, too, but listed later"

    return "the first idle server, whatever its weight; when none is idle, least (active + 1) / weight", [], judge


class Foreseen:
    """The luck of twos when what it draws next is known (``look.next_draws``)."""

    def __init__(self, numbers: list[int]):
        self.numbers = numbers
        self.turns = cycle(numbers)

    def randint(self, least: int, most: int) -> int:
        """Return the next number that is drawn."""
        return next(self.turns)


def _twos(service: VirtualService, flow: Flow):
    total = sum(server.weight for server in service.servers if server.can_schedule())
    luck = service.scheduler.random
    numbers = luck.numbers if isinstance(luck, Foreseen) and total else []
    drawn = [_drawn(service, number) for number in numbers]
    steps = [f"drawn: {number} of 0 to {total}, which is {name_of(server)}"
             for number, server in zip(numbers, drawn, strict=True)]

    def judge(server: RealServer, chosen: RealServer | None) -> tuple[str, str]:
        load = _weighted_overhead(server)
        if cannot(server) or chosen is None:
            return str(load), cannot(server)
        chances = f"a draw has {server.weight} of {total} chances to be this one"
        if not drawn:
            return str(load), f"not drawn, or drawn and more loaded: {chances}"
        if server not in drawn:
            return str(load), f"not drawn: {chances}"
        than = _weighted_overhead(chosen)
        return str(load), f"load {load} > {than}" if load.is_more(than) else f"load {load} = {than}, and drawn second"

    return ("two draws by weight, and the less loaded of the two: it is luck, and the next flow may go elsewhere",
            steps, judge)


def _drawn(service: VirtualService, number: int) -> RealServer:
    """Return the server whose share of the weights, summed up in list order, *number* is in."""
    able = [server for server in service.servers if server.can_schedule()]
    sums = accumulate(server.weight for server in able)
    return next(server for server, reached in zip(able, sums, strict=True) if number <= reached)


def _locality(service: VirtualService, flow: Flow):
    """lblc and lblcr: what is remembered of the destination, else wlc."""
    rule, _, judge = _wlc(service, flow)
    entry = remembered(service.scheduler, flow.vaddr)
    name = format_address(flow.vaddr, flow.family)
    if entry is None:
        return f"{name} is not remembered, so wlc chooses: {rule}", [], judge
    servers = [present(server, service) for server in servers_of(entry)]
    steps = [f"{name} is remembered with {', '.join(map(name_of, servers)) or 'servers that are gone'}"]
    usable = [server for server in servers if server.available and server.can_schedule()]
    if service.scheduler.name == "lblc":
        usable = [server for server in servers if server.available and server.weight > 0]   # overload is not looked at
    for server in servers:
        if server not in usable:
            steps.append(f"{name_of(server)}: {cannot(server) or 'deleted'}")
    best = _first_least(usable, _weighted_overhead)
    if best is not None and not is_too_busy(best, service):
        def stays(server: RealServer, chosen: RealServer | None) -> tuple[str, str]:
            score = str(_weighted_overhead(server))
            if server in servers:
                return score, cannot(server) or judge(server, chosen)[1]
            return score, "not where this destination is remembered"

        return f"{name} stays where it is remembered, as long as that is not too busy", steps, stays
    if best is not None:
        steps.append(f"{name_of(best)} is too busy: {best.active_conns} active > weight {best.weight}, and another has "
                     "less than half of its weight")
    return f"what is remembered cannot serve, so wlc chooses: {rule}", steps, judge


def _first_least(servers: list[RealServer], load: Callable[[RealServer], Load]) -> RealServer | None:
    best = None
    for server in servers:
        if best is None or load(best).is_more(load(server)):
            best = server
    return best


# ---- By turns: rr wrr ---------------------------------------------------------------------------------------


def _rr(service: VirtualService, flow: Flow):
    last = service.scheduler.last
    count = len(service.servers)
    start = 0 if last is None else last.position + 1
    turn = {service.servers[(start + step) % count].position: step + 1 for step in range(count)}
    said = "nobody was chosen yet: the first listed begins" if last is None else f"{name_of(last)} was chosen last"

    def judge(server: RealServer, chosen: RealServer | None) -> tuple[str, str]:
        return f"turn {turn[server.position]}", cannot(server) or "its turn comes later"

    return "the next in the list behind the one chosen last, whatever its weight", [said], judge


def _wrr(service: VirtualService, flow: Flow):
    scheduler = service.scheduler
    last, level, top, divisor = scheduler.last, scheduler.level, scheduler.top, scheduler.divisor
    steps = [f"level {level} of {top}, going down by {divisor}; " + (
        "it begins at the head of the list" if last is None else f"{name_of(last)} was chosen last")]

    def judge(server: RealServer, chosen: RealServer | None) -> tuple[str, str]:
        now = scheduler.level
        if cannot(server):
            return f"weight {server.weight}", cannot(server)
        if server.weight < now:
            return f"weight {server.weight}", f"weight {server.weight} does not reach level {now}"
        return f"weight {server.weight}", f"it reaches level {now}, and has its turn before or after"

    return "the next in the list whose weight reaches the level; below the last level it starts at the top again", \
        steps, judge


# ---- The heaviest: fo ovf -----------------------------------------------------------------------------------


def _heaviest(is_full: Callable[[RealServer], str]) -> Judge:
    def judge(server: RealServer, chosen: RealServer | None) -> tuple[str, str]:
        score = f"weight {server.weight}"
        if cannot(server) or is_full(server) or chosen is None:
            return score, cannot(server) or is_full(server)
        if server.weight < chosen.weight:
            return score, f"weight {server.weight} < {chosen.weight}"
        return score, f"weight {server.weight} = {chosen.weight}, and listed later"

    return judge


def _fo(service: VirtualService, flow: Flow):
    return "the heaviest server; of equals the first listed", [], _heaviest(lambda server: "")


def _ovf(service: VirtualService, flow: Flow):
    def is_full(server: RealServer) -> str:
        full = server.active_conns > server.weight
        return f"full: {server.active_conns} active > weight {server.weight}" if full else ""

    return ("the heaviest server with no more active connections than its weight; of equals the first listed", [],
            _heaviest(is_full))


# ---- By hash: dh sh mh --------------------------------------------------------------------------------------


def _hashed(rule: str, table: list, steps: list[str], places: list[int]):
    """Return the reasons of a table that is looked up at *places*, the first and those after it."""
    shares = {}
    for server in table:
        shares[server] = shares.get(server, 0) + 1
    for number, place in enumerate(places[:MOST_PROBES]):
        server = table[place]
        steps.append(f"{'bucket' if number == 0 else f'probe {number}: bucket'} {place} is {name_of(server)}"
                     + (f": {cannot(server)}" if cannot(server) else ""))
        if server.can_schedule() and server.available:
            break

    def judge(server: RealServer, chosen: RealServer | None) -> tuple[str, str]:
        return (f"{shares.get(server, 0)} of {len(table)} buckets",
                cannot(server) or "the bucket is another's")

    return rule, steps, judge


def _dh(service: VirtualService, flow: Flow):
    table, rule = service.scheduler.table, "the bucket of the destination's hash; no second choice"
    if not table:
        return _hashed(rule, table, [], [])
    bucket = hash32(fold(flow.vaddr), _bits(table))
    return _hashed(rule, table, [f"hash32({format_address(flow.vaddr, flow.family)}), {_bits(table)} bits = {bucket}"],
                   [bucket])


def _sh(service: VirtualService, flow: Flow):
    table, rule = service.scheduler.table, "the bucket of the client's hash" + _second_choice(service)
    if not table:
        return _hashed(rule, table, [], [])
    bucket = hash32(fold(flow.caddr) + client_port(service, flow) & 0xFFFFFFFF, _bits(table))
    size = len(table)
    places = [(bucket + bucket + step) % size for step in range(size)] if falls_back(service) else []
    return _hashed(rule, table, [f"hash32({_client(service, flow)}), {_bits(table)} bits = {bucket}"],
                   [bucket, *places])


def _mh(service: VirtualService, flow: Flow):
    table, rule = service.scheduler.table, "the slot of the client's hash in the Maglev table" + _second_choice(service)
    if not table:
        return _hashed(rule, table, ["no server with a weight, no table"], [])
    port = client_port(service, flow)
    slot = slot_of(flow.caddr, port, 0)
    places = [slot_of(flow.caddr, port, (slot + step) % len(table)) for step in range(MOST_PROBES)]
    return _hashed(rule, table, [f"siphash({_client(service, flow)}) mod {len(table)} = {slot}"],
                   [slot, *(places if falls_back(service) else [])])


def _bits(table: list) -> int:
    return len(table).bit_length() - 1


def _client(service: VirtualService, flow: Flow) -> str:
    port = client_port(service, flow)
    return format_address(flow.caddr, flow.family) + (f" + port {port}" if port else "")


def _second_choice(service: VirtualService) -> str:
    return "; with fallback, others are tried" if falls_back(service) else "; no second choice without fallback"


# ---- Nobody, and a user's own -------------------------------------------------------------------------------


def _none(service: VirtualService, flow: Flow):
    return "no scheduler: nobody is ever chosen", [], lambda server, chosen: ("", cannot(server) or "nobody is chosen")


def _users_own(service: VirtualService, flow: Flow):
    return (f"a scheduler of your own, {service.scheduler.name}: it says no reasons, and what it remembers is not "
            "known here", [],
            lambda server, chosen: ("", cannot(server) or "not chosen"))


BY_NAME = {"rr": _rr, "wrr": _wrr, "lc": _lc, "wlc": _wlc, "sed": _sed, "nq": _nq, "fo": _fo, "ovf": _ovf, "dh": _dh,
           "sh": _sh, "mh": _mh, "lblc": _locality, "lblcr": _locality, "twos": _twos, "none": _none}
