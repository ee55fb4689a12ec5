"""Makes a scenario that shows a difference as short as it can be: delta debugging against a running kernel.

Every round tries many shorter scenarios at once in one guest, and goes on with the shortest in which the same
last step still goes another way.
"""
from __future__ import annotations

from tests.kernel.report import Report
from tests.kernel.session import transcripts

ROUNDS = 40
TRIES = 120         # scenarios in a round


def shrink(scenario: dict, kind: str, engines: dict) -> tuple[dict, str]:
    """Return the shortest scenario found that still differs, and how."""
    [pair] = transcripts(kind, [scenario])
    best = cut(*pair, engines)
    if best is None:
        return scenario, "not seen again: it happened once"
    last = best[0]["steps"][-1]
    parts = 2
    for _ in range(ROUNDS):
        candidates = shorter(best[0], parts)
        found = [each for each in (cut(*pair, engines) for pair in transcripts(kind, candidates))
                 if each and each[0]["steps"][-1] == last]
        if found:
            best = min(found, key=lambda each: len(each[0]["steps"]))
            parts = max(2, parts // 2)
        elif parts >= len(best[0]["steps"]):
            break
        else:
            parts = min(parts * 2, len(best[0]["steps"]))
    return best


def cut(scenario: dict, transcript: dict, engines: dict) -> tuple[dict, str] | None:
    """Return *scenario* up to its first difference and what that is, or None when there is none."""
    report = Report(transcript["kind"], engines)
    report.add(scenario, transcript)
    if not report.differences:
        return None
    first = min(report.differences, key=lambda each: each.number)
    return {**scenario, "steps": scenario["steps"][:first.number + 1]}, str(first)


def shorter(scenario: dict, parts: int) -> list[dict]:
    """Return copies of *scenario*, each without one part of its steps; never without the last."""
    kept = 2 if scenario["steps"][-1]["do"] == "stats" else 1           # counters are read after a wait
    steps, last = scenario["steps"][:-kept], scenario["steps"][-kept:]
    size = max(1, len(steps) // parts)
    return [{**scenario, "steps": [*steps[:start], *steps[start + size:], *last]}
            for start in range(0, len(steps), size)][:TRIES]
