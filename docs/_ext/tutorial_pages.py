"""The tutorial's pictures, and below each the same in words, out of the recorded requests (recorded.py)."""
from __future__ import annotations

import hop_diagram
import recorded
from markdown import table

METHODS = {"nat": "NAT", "dr": "direct routing", "tun": "tunnelling"}


def pages() -> dict[str, str]:
    """Return the pictures and the tables, by path; tables are no pages of their own, docs/tutorial.md has them."""
    files = {}
    for mode, method in METHODS.items():
        recording = recorded.load(mode)
        title = f"One request by {method}, hop by hop: {', '.join(recording['machines'])}"
        files[f"tutorial/{mode}.svg"] = hop_diagram.draw(title, recording)
        files[f"tutorial/{mode}.inc"] = written(recording) + "\n"
    return files


def written(recording: dict) -> str:
    """Return the first packet of each direction as a table, a row for each step."""
    rows = []
    for packet in recording["packets"][:2]:
        for step in packet["steps"]:
            outer = f"{step['tunnel']}, around " if "tunnel" in step else ""
            rows.append([f"**{packet['name']}**", _where(step), f"{outer}{step['packet']}", step["TTL"],
                         "; ".join(said for _, said in hop_diagram.said(step)) or "–"])
    return table(["packet", "where", "addresses", "TTL", "changed, and by whom"], rows)


def _where(step: dict) -> str:
    if step["kind"] == "wire":
        return " → ".join(step["way"])
    return f"in {step['way'][0]}: {'lbq' if step['kind'] == 'lbq' else 'the end of the tunnel'}"
