"""What the doctor says, for people and for programs."""
from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from textwrap import wrap

from lbq.doctor.facts import DIRECTOR, NO_DIRECTOR, Facts
from lbq.doctor.finding import Report
from lbq.doctor.host import spoken_mac
from lbq.log import one_line
from lbq.model import FAMILY_NAMES

WIDTH = 120
SIGNS = {"fine": ("✓", "ok     "), "found": ("✗", "WRONG  "), "unknown": ("?", "unknown")}


def text(facts: Facts, report: Report, signs: bool) -> Iterator[str]:
    """Give the report as lines; with *signs* if the terminal can show them."""
    yield _about(facts)
    for name, claim in report.fine:
        yield f"{_sign('fine', signs)} {name}: {claim}"
    reasons: dict[str, list[str]] = {}
    for name, reason in report.unknown:
        if reason == NO_DIRECTOR:
            continue            # the first line says it
        reasons.setdefault(one_line(reason), []).append(name)
    for reason, names in reasons.items():
        yield from _hanging(f"{_sign('unknown', signs)} not looked at, {reason}: ", ", ".join(names))
    for found in report.findings:
        where = f" ({found.service})" if found.service else ""
        yield f"{_sign('found', signs)} {found.check}{where}"
        for word, sentence in (("what", found.what), ("why", found.why), ("fix", found.fix)):
            yield from _hanging(f"      {word + ':':<5} ", sentence, "            ")
    yield from facts.left_out
    yield _summary(report)


def as_json(facts: Facts, report: Report, status: int) -> str:
    """Return the report as one JSON document."""
    return json.dumps({
        "status": status,
        "director": facts.status.get("version"),
        "backends": {FAMILY_NAMES[family]: name for family, name in facts.backends.items()},
        "services": [service.name() for service in facts.services],
        "vips": [{"address": vip.name(), "device": vip.device, "local": vip.is_local, "others": [
            {"mac": spoken_mac(mac), "device": device} for mac, device in sorted(vip.answers.items())]}
            for vip in facts.vips],
        "findings": [found._asdict() for found in report.findings],
        "fine": [name for name, _ in report.fine],
        "not_looked_at": [{"check": name, "why": reason} for name, reason in report.unknown],
        "nothing_to_look_at": report.idle,
        "left_out": facts.left_out,
    })


def can_show_signs() -> bool:
    """Return True when standard output is a terminal that knows the signs."""
    try:
        "".join(sign for sign, _ in SIGNS.values()).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return sys.stdout.isatty()


def _hanging(start: str, sentence: str, indent: str = "  ") -> list[str]:
    return wrap(start + one_line(sentence), WIDTH, subsequent_indent=indent, break_long_words=False,
                break_on_hyphens=False)


def _sign(kind: str, signs: bool) -> str:
    return SIGNS[kind][0 if signs else 1]


def _about(facts: Facts) -> str:
    if DIRECTOR in facts.missing:
        reason = facts.missing[DIRECTOR]
        return f"{reason[0].upper()}{reason[1:]}: only the host itself is looked at."
    modes = sorted({server.mode for server in facts.servers()})
    names = [service.name() for service in facts.services]
    services = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return (f"director {facts.status.get('version', '')} on {', '.join(facts.backends.values()) or 'no iptables'}, "
            f"{', '.join(modes) or 'no real server'}: {services or 'no service'}")


def _summary(report: Report) -> str:
    said = f"{len(report.findings)} wrong, {len(report.fine)} fine"
    if report.unknown:
        said += f", {len(report.unknown)} not looked at"
    if report.idle:
        said += f"; nothing to look at for {', '.join(report.idle)}"
    return said
