"""What the tutorial's pictures show: one request by each method, recorded in the lab, in docs/recorded.

    sudo lbq lab nat --report lab.html              records one request by NAT, DR and TUN
    python docs/_ext/recorded.py lab.html           keeps of it what is the same each time

That is the way of a packet, who changed which field of it, and all values but those that are made up anew each time
(checksums, numbers, MAC addresses, of which the owner is kept).  tests/lab/test_lab_page.py holds it against a new one.
"""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "recorded"
TUNNEL = "IP of the tunnel"
ENDS = {"source", "destination", "TTL", "protocol", "source port", "destination port"}     # the same each time
MADE_UP = {("IP", "id"), ("IP", "length"), (TUNNEL, "id"), (TUNNEL, "length")}      # of no matter when they come or go


def main(page: str) -> None:
    """Write docs/recorded out of the data in a lab *page*."""
    for story in data(Path(page))["stories"]:
        text = json.dumps(condense(story), ensure_ascii=False)
        lines = re.sub(r' ?({"name"|{"kind")', r"\n\1", text)        # one for each packet and step
        path(story["mode"]).write_text(lines + "\n", encoding="utf-8")


def data(page: Path) -> dict:
    """Return the data in a lab *page*."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1])


def path(mode: str) -> Path:
    """Return the file of the recording by *mode*."""
    return FOLDER / f"{mode}.json"


def load(mode: str) -> dict:
    """Return the recording by *mode*."""
    return json.loads(path(mode).read_text(encoding="utf-8"))


def condense(story: dict) -> dict:
    """Return what of a *story* is the same each time, of the packets that a reader wants to see."""
    packets = []
    for (name, is_reply), number in _wanted(story).items():
        steps = [_step(step) for step in story["steps"] if step["packet"] == number]
        packets.append({"name": name, "is_reply": is_reply, "steps": steps})
    passed = [place for packet in packets for step in packet["steps"] for place in step["way"]]
    machines = {place["name"]: place["lines"] for place in story["places"] if place["name"] in passed}
    return {"mode": story["mode"], "client": story["client"], "server": story["server"], "machines": machines,
            "packets": packets}


def _wanted(story: dict) -> dict[tuple[str, bool], int]:
    """Return the packets that are shown, by name and direction: of each kind the first; of bare ACKs the client's."""
    found: dict[tuple[str, bool], int] = {}
    for number, packet in enumerate(story["packets"]):
        flags, _, text = packet["name"].partition(": ")
        said = text if text.startswith(("GET ", "HTTP/")) else flags.replace(",", "-")
        name = "FIN" if "FIN" in flags else said
        kind = name, packet["is_reply"]
        if kind == ("ACK", False) or not name.startswith("ACK"):
            found.setdefault(kind, number)
    return found


def _step(step: dict) -> dict:
    """Return one step: where, the packet's ends, what changed."""
    values = {(row["header"], row["field"]): row["value"] for row in step["rows"] if row["value"] is not None}
    kept = {"kind": step["kind"], "way": [step["way"][0], step["way"][-1]] if step["kind"] == "wire" else step["way"],
            "packet": _ends(values, "IP"), "TTL": values["IP", "TTL"]}
    if (TUNNEL, "source") in values:
        kept["tunnel"] = _ends(values, TUNNEL)
    frame = [_owner(values.get(("Ethernet", f"{end} MAC"))) for end in ("source", "destination")]
    if all(frame):
        kept["frame"] = " → ".join(frame)
    kept["changed"] = [_change(row) for row in step["rows"]
                       if "by" in row and (row["header"], row["field"]) not in MADE_UP]
    return kept


def _ends(values: dict, header: str) -> str:
    """Return ``source → destination``; the lab's packets keep their ports."""
    return f"{values[header, 'source']} → {values[header, 'destination']}"


def _change(row: dict) -> list:
    """Return who changed a field, which, and if the values are the same each time, from what to what."""
    before, after = row["before"], row["value"]
    if row["header"] == "Ethernet":
        before, after = _owner(before), _owner(after)
    elif row["field"] not in ENDS:
        before = after = None
    return [" and ".join(row["by"]), row["header"], row["field"], before, after]


def _owner(mac: str | None) -> str | None:
    """Return whose a MAC address is: ``02:…:01 (web02)``."""
    return mac and mac.partition("(")[2].rstrip(")")


if __name__ == "__main__":
    main(sys.argv[1])
