"""A decision as text: a line a step, the candidates as a table, the changed fields one by one."""
from __future__ import annotations

from collections.abc import Iterator

MARGIN = 12
COLUMNS = ("", "server", "weight", "active", "inactive", "score", "")


def lines(decision: dict) -> Iterator[str]:
    """Give the lines that tell *decision*."""
    yield _line("packet", packet_line(decision["packet"]))
    for step in decision["steps"]:
        yield _line(step["step"], step["text"])
        for said in step.get("steps", []):
            yield _line("", said)
        if step.get("candidates"):
            yield from (_line("", row) for row in table(step["candidates"]))
    yield from _changed(decision["changes"], decision["checksums"])
    for each in decision["sent"]:
        yield _line("sent", f"to {each['next_hop']}: " + packet_line({"fields": each["fields"]}))
        if each["inner"]:
            yield _line("inside", packet_line({"fields": each["inner"]}))
        yield from _changed(each["changes"], each["checksums"])
    if decision["answer"]:
        yield _line("answer", packet_line({"fields": decision["answer"]["fields"]}))
    for said in decision["caveats"]:
        yield _line("but", said)
    yield _line("verdict", f"{decision['verdict']} ({decision['outcome']}): the packet {decision['meaning']}")
    for said in decision["next"]:
        yield _line("next", said)


def packet_line(packet: dict) -> str:
    """Return a packet on a line."""
    its = packet["fields"]
    flags = f" {its['flags']}" if "flags" in its else ""
    ends = [f"{its.get(end, '?')}" + (f" port {its[port]}" if port in its else "")
            for end, port in (("source", "source port"), ("destination", "destination port"))]
    where = f", seen in {packet['hook']}" if "hook" in packet else ""
    mark = f", mark {packet['mark']}" if packet.get("mark") else ""
    return f"{its.get('protocol', '?')}{flags} from {ends[0]} to {ends[1]}, {its['length']} bytes{where}{mark}"


def table(candidates: list[dict]) -> list[str]:
    """Return a scheduler's candidates, one a line, below their titles; the chosen one has a star."""
    rows = [COLUMNS] + [("*" if row["chosen"] else "", row["server"], str(row["weight"]), str(row["active"]),
                         str(row["inactive"]), row["score"], "chosen" if row["chosen"] else row["why"])
                        for row in candidates]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    return [" ".join((cell.rjust if 2 <= column <= 4 else cell.ljust)(width)
                     for column, (cell, width) in enumerate(zip(row, widths, strict=False))) + f"  {row[-1]}".rstrip()
            for row in rows]


def _changed(changes: list[dict], checksums: list[dict]) -> Iterator[str]:
    computed = {step["field"]: step for step in checksums}
    for change in changes:
        yield _line("bytes", f"{change['field']}: {change['before']} → {change['after']}")
        step = computed.get(change["field"])
        if step and step["words"]:
            yield _line("", f"{formula(step)}  (RFC 1624)")


def formula(step: dict) -> str:
    """Return the arithmetic behind a checksum (fields.arithmetic)."""
    terms = " ".join(f"+ ~{old} + {new}" for old, new in step["words"])
    return f"~(~{step['before']} {terms}) = {step['computed']}"


def _line(word: str, text: str) -> str:
    return f"{word:<{MARGIN}}{text}".rstrip()
