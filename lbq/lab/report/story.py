"""A recorded request as a story: its packets, and for each the steps of its way, as data that a page draws.

A packet is known again by what no balancer changes: who sent it first, IP's id, TCP's numbers and flags, its length.
Its steps are

    wire      a machine sent it and another one received it: the frame as it was captured
    lbq       the director decided about it: the packet before and after, out of lbq's own trace
    unwrap    a real server took it out of the tunnel: what its tunnel device received

Each step has the packet as it is then, and which fields differ from the step before.  Who changed them is observed,
not assumed: between what lbq was given and what it gave back it was lbq; otherwise the kernel of the machine that had
it, its *host*, or the *server*.  Frames that a switch passes on are no step of their own.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from lbq import packet as pkt
from lbq.conntrack import STATE_NAMES
from lbq.explain.fields import arithmetic, fields
from lbq.explain.show import formula
from lbq.explain.words import MEANING
from lbq.lab.report.capture import Frame
from lbq.lab.report.places import PICTURES
from lbq.lab.report.recording import Recording
from lbq.model import TCP
from lbq.parsing import addresses
from lbq.protocols import tcp
from lbq.trace.records import Traced

IPIP = 4
HOST, LBQ, SERVER = "host", "lbq", "server"
ETHERNET, TUNNEL = "Ethernet", "IP of the tunnel"
HEADERS = {"IP": ("source", "destination", "TTL", "protocol", "id", "IP checksum", "length"),
           "TCP": ("source port", "destination port", "flags", "sequence", "acknowledgment", "TCP checksum",
                   "payload")}
MOST_TEXT = 400         # characters of a payload that are shown

Name = tuple[str, str]                  # of a field: its header and its own
Look = dict[Name, str]                  # a packet's fields
By = dict[Name, tuple[str, ...]]        # who changed them


class Identity(NamedTuple):
    """What is the same of a packet wherever it is seen."""

    is_reply: bool
    ip_id: int
    sequence: int
    acknowledgment: int
    flags: int
    payload: int


def inner(packet: bytes) -> bytes:
    """Return *packet*, out of the tunnel if it is in one."""
    return packet[(packet[0] & 15) * 4:] if len(packet) >= 20 and packet[pkt.IP_PROTOCOL] == IPIP else packet


def identity(packet: bytes, client: tuple[int, int]) -> Identity | None:
    """Return who *packet* is, or None when it is no TCP packet of *client* (address and port)."""
    packet = inner(packet)
    header = (packet[0] & 15) * 4 if packet else 0
    if header < 20 or packet[pkt.IP_PROTOCOL] != TCP or len(packet) < header + 20:
        return None
    source, destination = addresses(packet, 0)
    ends = (source, pkt.get16(packet, header)), (destination, pkt.get16(packet, header + 2))
    if client not in ends:
        return None
    return Identity(ends[1] == client, pkt.get16(packet, 4), pkt.get32(packet, header + 4),
                    pkt.get32(packet, header + 8), packet[header + pkt.TCP_FLAGS], _payload_length(packet, header))


def _payload_length(packet: bytes, header: int) -> int:
    """Return how much payload *packet*, of which perhaps only the beginning is here, has."""
    return pkt.get16(packet, 2) - header - (packet[header + 12] >> 4) * 4


# ---- A packet at one moment -----------------------------------------------------------------------------------


def look(packet: bytes, macs: str = "", owners: dict[str, str] | None = None) -> Look:
    """Return the fields of *packet*, and with *macs* those of its frame, too, with the names of their *owners*."""
    seen: Look = {}
    if macs:
        for field, digits in (("destination MAC", macs[:12]), ("source MAC", macs[12:])):
            mac = ":".join(digits[at:at + 2] for at in range(0, 12, 2))
            seen[ETHERNET, field] = f"{mac} ({owner})" if (owner := (owners or {}).get(mac)) else mac
    inside = inner(packet)
    if inside is not packet:
        seen |= _of_header(TUNNEL, "IP", packet)
    for header in HEADERS:
        seen |= _of_header(header, header, inside)
    return seen


def _of_header(title: str, header: str, packet: bytes) -> Look:
    start = (packet[0] & 15) * 4
    found = fields(packet) | {"id": pkt.get16(packet, 4), "length": pkt.get16(packet, 2)}
    if header == "TCP":
        found |= {"sequence": pkt.get32(packet, start + 4), "acknowledgment": pkt.get32(packet, start + 8),
                  "payload": f"{_payload_length(packet, start)} bytes"}
    return {(title, field): str(found[field]) for field in HEADERS[header] if field in found}


def differences(before: Look, after: Look) -> dict[Name, str | None]:
    """Return which fields of *after* are not as in *before*, with what they were; of frames only if both are known."""
    names = [*after, *(name for name in before if name not in after)]
    both = any(name[0] == ETHERNET for name in before) and any(name[0] == ETHERNET for name in after)
    return {name: before.get(name) for name in names
            if before.get(name) != after.get(name) and (both or name[0] != ETHERNET)}


def rows(before: Look | None, after: Look, by: By) -> list[dict]:
    """Return the fields of *after* in order, the changed ones with what they were and who changed them."""
    changed = {} if before is None else differences(before, after)
    names = [*(name for name in changed if name not in after), *after]
    found = []
    for name in names:
        row: dict = {"header": name[0], "field": name[1], "value": after.get(name)}
        if name in changed:
            row |= {"before": changed[name], "by": by.get(name, (HOST,))}
        found.append(row)
    return found


# ---- The packets of a connection ------------------------------------------------------------------------------


class Travelling:
    """One packet of the connection, and where it was seen."""

    def __init__(self, its: Identity):
        self.identity = its
        self.sightings: list[Frame] = []        # by the interfaces that speak IP
        self.switched: list[Frame] = []         # by the ports of switches
        self.traced: list[Traced] = []


def packets(recording: Recording, client: tuple[int, int]) -> list[Travelling]:
    """Return the packets of the connection of *client*, in the order in which they were first seen."""
    ports = {(row["machine"], row["name"]) for row in recording.interfaces if row["is_port"]}
    found: list[Travelling] = []
    newest: dict[Identity, Travelling] = {}
    for frame in recording.frames:
        its = identity(frame.packet, client)
        on_port = (frame.machine, frame.device) in ports
        if its is None or (frame.for_another and not on_port):
            continue
        packet = newest.get(its)
        if packet is None or (not on_port and _was_here(packet, frame)):        # the second time: sent again
            packet = newest[its] = Travelling(its)
            found.append(packet)
        (packet.switched if on_port else packet.sightings).append(frame)
    for traced in recording.traced:
        its = identity(traced.before, client)
        waiting = [packet for packet in found if packet.identity == its and not packet.traced]
        if waiting:
            waiting[0].traced.append(traced)
    return [packet for packet in found if packet.sightings]


def _was_here(packet: Travelling, frame: Frame) -> bool:
    return any((seen.machine, seen.device, seen.is_sent) == (frame.machine, frame.device, frame.is_sent)
               for seen in packet.sightings)


# ---- The story ------------------------------------------------------------------------------------------------


def tell(recording: Recording) -> dict:
    """Return the story of *recording*."""
    return Teller(recording).tell()


class Teller:
    """Goes through the packets of a recording and remembers what the table says meanwhile."""

    def __init__(self, recording: Recording):
        self.recording = recording
        self.picture = PICTURES[recording.mode]
        self.client = (_number(recording.client[0]), recording.client[1])
        self.owners = {row["mac"]: row["machine"] for row in recording.interfaces if not row["is_port"]}
        self.servers = {address: row["machine"] for row in recording.interfaces for address in row["addresses"]
                        if row["machine"].startswith("web")}
        self.entry: dict | None = None
        self.began_ns = 0

    def tell(self) -> dict:
        """Return the story."""
        travelling = packets(self.recording, self.client)
        if travelling:
            self.began_ns = travelling[0].sightings[0].at_ns
        steps = [{"packet": number, **step} for number, packet in enumerate(travelling) for step in self.way(packet)]
        return {
            "mode": self.recording.mode, "vip": self.recording.vip[0], "server": self.recording.answer,
            "client": "{}:{}".format(*self.recording.client),
            "places": [place._asdict() for place in self.picture.places], "cables": self.picture.cables,
            "packets": [{"name": _name(packet), "is_reply": packet.identity.is_reply, "text": _text(packet)}
                        for packet in travelling],
            "steps": steps,
        }

    def way(self, packet: Travelling) -> Iterator[dict]:
        """Give the steps of one packet."""
        before: Look | None = None          # the packet at the step before
        frame_before: Look = {}             # and the frame around it when it was last seen in one
        sent: Frame | None = None
        by_lbq = False                      # the director sent it itself, past its host
        for seen in packet.sightings:
            if seen.is_sent:
                if seen.machine == "director" and packet.traced:
                    traced = packet.traced[0]
                    step, before = self.decided(traced, seen, before or {})
                    by_lbq = bool(traced.next_hop) and self.recording.mode == "dr"
                    packet.traced = []
                    yield step
                sent = seen
                continue
            now = look(seen.packet, seen.macs, self.owners)
            frame = {name: value for name, value in now.items() if name[0] == ETHERNET}
            if sent is not None:
                old = None if before is None else frame_before | before
                who = LBQ if by_lbq and sent.machine == "director" else HOST
                yield self.step("wire", sent, self.picture.way(sent.machine, seen.machine), old, now,
                                dict.fromkeys(frame, (who,)), self._wire_text(packet, sent, seen, before is None))
            elif before is not None:
                changed = dict.fromkeys(differences(before, now), (SERVER,))
                yield self.step("unwrap", seen, [seen.machine], before, now, changed,
                                f"{seen.machine} takes it out of the tunnel: its device {seen.device} receives what "
                                "was inside, for the VIP, which it has on lo.")
            before = {name: value for name, value in now.items() if name[0] != ETHERNET}
            frame_before = frame or frame_before
            sent = None

    def decided(self, traced: Traced, where: Frame, before: Look) -> tuple[dict, Look]:
        """Return the step in which lbq decides about a packet, and the packet after it."""
        given = look(traced.before)
        after = look(traced.after) if traced.after else given
        by: By = {}
        for who, changed in ((HOST, differences(before, given)), (LBQ, differences(given, after))):
            for name in changed:
                by[name] = (*by.get(name, ()), who)
        if traced.state_after:
            seconds = tcp.TIMEOUTS[STATE_NAMES[TCP].index(traced.state_after)]
            self.entry = {"client": "{}:{}".format(*self.recording.client),
                          "virtual service": "{}:{}".format(*self.recording.vip),
                          "real server": traced.server, "forwarding": traced.method, "state": traced.state_after,
                          "expires": f"in {seconds} s, if nothing else comes"}
        step = self.step("lbq", where, ["director"], before, after, by, self._decision_text(traced))
        step["state_before"] = traced.state_before
        step["arithmetic"] = [f"{each['field']}: {formula(each)}" for each in arithmetic(traced.before, traced.after)
                              if each["words"]]
        if traced.is_new:
            step["reasons"] = [each for each in self.recording.explained["steps"]
                               if each["step"] in ("connection", "service", "scheduler")]
        return step, after

    def step(self, kind: str, seen: Frame, way: list[str], before: Look | None, after: Look,
             by: By, text: str) -> dict:
        """Return one step as data."""
        return {"kind": kind, "way": way, "at_us": (seen.at_ns - self.began_ns) / 1000, "text": text,
                "rows": rows(before, after, by), "entry": self.entry}

    def _decision_text(self, traced: Traced) -> str:
        name = self.servers.get(traced.server.rpartition(":")[0], traced.server)
        if traced.is_new:
            known = f"It is in no connection of the table: the scheduler chooses {name}, and an entry is made"
        else:
            known = f"It is in the table, as a packet of {name}'s connection"
        return f"{known}.  Seen in {traced.hook}; it {MEANING[traced.outcome]}."

    def _wire_text(self, packet: Travelling, sent: Frame, seen: Frame, is_first: bool) -> str:
        ports = [frame.device for frame in packet.switched
                 if frame.machine != sent.machine or frame.machine != seen.machine]
        text = f"It leaves {sent.machine} by {sent.device} and comes to {seen.machine} by {seen.device}."
        if is_first and packet.identity.is_reply and sent.machine.startswith("web"):
            text += ("  The real server's gateway is the director: the answer passes it." if seen.machine == "director"
                     else "  The real server answers as the VIP, past the director: its gateway is the router.")
        if len(self.picture.way(sent.machine, seen.machine)) > 2 and ports:
            text += "  Between them is a switch, which changes nothing."
        return text


def _number(address: str) -> int:
    return int.from_bytes(bytes(map(int, address.split("."))), "big")


def _name(packet: Travelling) -> str:
    """Return what a packet is called, such as ``SYN,ACK``, and how its payload begins."""
    text = _text(packet)
    flags = str(fields(inner(packet.sightings[0].packet))["flags"])
    return f"{flags}: {text.splitlines()[0].strip()}" if text else flags


def _text(packet: Travelling) -> str:
    """Return the payload, as far as it is text."""
    whole = inner(packet.sightings[0].packet)
    return whole[len(whole) - packet.identity.payload:].decode("ascii", "replace")[:MOST_TEXT]


# ---- What differs ---------------------------------------------------------------------------------------------


def compare(stories: list[dict]) -> list[dict]:
    """Return what differs between the labs: a row a question, with the answer of each story by its mode."""
    questions = {"way of the request": _way_of_request, "way of the answer": _way_of_answer,
                 "packets that lbq sees": _packets_seen, "lbq changes in the SYN": _changed_in_syn,
                 "states of the connection": _states}
    return [{"question": question, **{story["mode"]: answer(story) for story in stories}}
            for question, answer in questions.items()]


def _way(story: dict, is_reply: bool) -> str:
    """Return the machines that the first packet of one direction passes."""
    first = next((number for number, packet in enumerate(story["packets"]) if packet["is_reply"] == is_reply), None)
    ways = [step["way"] for step in story["steps"] if step["packet"] == first and step["kind"] == "wire"]
    return " → ".join([way[0] for way in ways[:1]] + [way[-1] for way in ways])


def _way_of_request(story: dict) -> str:
    return _way(story, is_reply=False)


def _way_of_answer(story: dict) -> str:
    return _way(story, is_reply=True)


def _packets_seen(story: dict) -> str:
    seen = Counter(story["packets"][step["packet"]]["is_reply"] for step in story["steps"] if step["kind"] == "lbq")
    return (f"{seen.total()} of {len(story['packets'])}: {seen[False]} of the client's, "
            f"{seen[True] or 'none'} of the real server's")


def _changed_in_syn(story: dict) -> str:
    changed = [row for step in story["steps"] if step["packet"] == 0
               for row in step["rows"] if LBQ in row.get("by", ())]
    names = [row["field"] for row in changed if row["header"] != TUNNEL]
    if len(names) < len(changed):
        names.append("and puts an IP header of its own in front")
    return ", ".join(names) or "nothing"


def _states(story: dict) -> str:
    states = [step["entry"]["state"] for step in story["steps"] if step["kind"] == "lbq" and step["entry"]]
    return " → ".join(state for number, state in enumerate(states) if number == 0 or states[number - 1] != state)
