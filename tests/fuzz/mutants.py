"""Shows that the suite notices a mistake: bounds that are off by a few bytes, bugs that it has found, one at a time.

    python -m tests.fuzz.mutants [NAME ...]

Every mutant is one change, or the same one in both engines, to a copy of lbq's sources, of which what it concerns is
compiled anew with the sanitizers.  Prints a table; a mutant that nobody notices is named, and makes the exit status 1.
Half a minute each, most of it for compiling.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import sanitized

SECONDS = 60        # that a mutant has to show itself


class Mutant(NamedTuple):
    """*edits* are (file, old, new) in lbq/, each at the first place; *target* is who should notice."""

    name: str
    target: str
    edits: tuple[tuple[str, str, str], ...]


MUTANTS = (
    Mutant("a TCP header may be cut", "packets", (
        ("_packet.pxd", "packet.here < header + 20:", "packet.here < header + 12:"),)),
    Mutant("a packet may be longer than what is here", "packets", (
        ("_packet.pxd", "if packet.length > length:", "if packet.length > length + 8:"),)),
    Mutant("an SCTP chunk may be cut", "packets", (
        ("protocols/sctp.py", "if at + CHUNK_HEADER > end:", "if at > end:"),)),
    Mutant("the ports of a quote may be missing", "packets", (
        ("_related.pyx", "if header < 20 or left < header + 4 or", "if header < 20 or"),
        ("parsing.py", "if header < 20 or left < header + 4 or", "if header < 20 or"))),
    Mutant("the ports of an IPv6 quote may be missing", "packets", (
        ("_related.pyx", "if not has_ports(packet, at) or left < header + 4:", "if not has_ports(packet, at):"),)),
    Mutant("an extension header may be cut", "cuts", (("packet.py", "if at + 2 > end:", "if at > end:"),)),
    Mutant("both engines pass IPv6 packets that are cut", "packets", (
        ("_packet.pxd", "            return DROPPED_TRUNCATED\n    found",
         "            return PASSED_NOT_OURS\n    found"),
        ("parsing.py", 'if len(packet) < length:\n        return "truncated"\n    found',
         'if len(packet) < length:\n        return "not_ours"\n    found'))),
    Mutant("of IPv6 addresses only the XOR is hashed and compared", "packets", (
        ("_flowtable.pxd", "(key.family == INET or has_addresses(table, number, direction, key))", "True"),
        ("_flowtable.pxd", "        addresses = hash_addresses(table, key)\n", "        pass\n"))),
    Mutant("both engines leave the last bytes of an IPv6 address as they were", "packets", (
        ("packet.pxd", "memcpy(packet + at, address, 16);", "memcpy(packet + at, address, 12);"),
        ("packet.py", "packet[at:at + 16] = address", "packet[at:at + 12] = address[:12]"))),
    Mutant("a tunnel packet is longer than it can say", "packets", (
        ("_forwarding.pyx", "if pkt.whole_length(out.head) != out.head_length + packet.length:", "if False:"),
        ("forwarding.py", "if pkt.whole_length(whole) != len(whole):", "if False:"))),
    Mutant("both engines pass fragments", "packets", (
        ("_packet.pxd", "return DROPPED_FRAGMENT", "return PASSED_NOT_OURS"),
        ("parsing.py", 'return "fragment"\n    protocol', 'return "not_ours"\n    protocol'))),
    Mutant("both engines pass a service's packets when the table is full", "packets", (
        ("_connections.pyx", "        if not made:\n            return DROPPED_TABLE_FULL\n        if slot",
         "        if not made:\n            return PASSED_NO_SERVICE\n        if slot"),
        ("director.py", '        if not self.connections.add(connection):\n            return "dropped_table_full"',
         '        if not self.connections.add(connection):\n            return "passed_no_service"'))),
    Mutant("a connection that ends is still counted", "alone", (
        ("_connections.pyx", "            link.inactive[0] -= 1\n        else:\n            link.active[0] -= 1\n"
         "        link.over", "            pass\n        else:\n            link.active[0] -= 1\n        link.over"),)),
    Mutant("replies to port 0 are not found", "packets", (
        ("_flowtable.pxd", "cport != 0 or direction == DIRECTION_OUT or", "cport != 0 or"),)),
    Mutant("tunnels of deleted services are remembered", "packets", (
        ("_slots.pyx", "        self._note_tunnel(server)\n\n    def _after_delete", "\n    def _after_delete"),)),
    Mutant("an attribute may end behind its message", "netlink", (
        ("_nfqueue.pxd", "at + size > length:", "at + size > length + 4:"),)),
    Mutant("a payload needs no room before it", "netlink", (
        ("_nfqueue.pxd", "if kind == NFQA_PAYLOAD and at >= VERDICT_HEADER:", "if kind == NFQA_PAYLOAD:"),)),
    Mutant("a verdict keeps the length that came", "netlink", (
        ("_nfqueue.pxd", "    payload.nla_len = attribute\n", ""),)),
    Mutant("fragments may be written behind their room", "cuts", (
        ("modes/pieces.py", "if to + header + size > room or", "if to + size > room or"),)),
    Mutant("a tunnel's inner header may be cut", "cuts", (
        ("modes/tun.py", "return header if at + header <= length else 0", "return header"),
        ("modes/tun.py", "if at + IP_HEADER > length:", "if at + 1 > length:"))),
    Mutant("GUE may be cut", "cuts", (("decap.py", "if len(received) < GUE_HEADER or", "if"),)),
    Mutant("JSON may be nested as deep as it likes", "control", (
        ("control/server.py", "except (ValueError, RecursionError):", "except ValueError:"),)),
    Mutant("numbers reach the engine that it does not take", "control", (
        ("control/questions.py", "if not 0 <= cursor <= MAX_CONNECTIONS or", "if cursor < 0 or"),)),
    Mutant("a failed host leaves the operations behind", "control", (
        ("control/operations.py", "        del self.services[key]\n", ""),
        ("control/operations.py", '        await self.host.call("remove_service", key)\n',
         '        await self.host.call("remove_service", key)\n        del self.services[key]\n'))),
    Mutant("an undo record may hold anything", "files", (
        ("host/undo.py", "record.is_whole() and record.is_of", "record.is_of"),)),
    Mutant("a lock holds text", "files", (("lock.py", '.decode(errors="replace")', ".decode()"),)),
    Mutant("a captured packet may be of any interface", "files", (
        ("replay/capture.py", "if number >= len(interfaces) or ", "if "),)),
    Mutant("a captured TCP header may be cut", "files", (
        ("replay/traffic.py", "if header + 14 > end:", "if header > end:"),)),
    Mutant("a line of flows may have any number of fields", "files", (
        ("replay/table.py", "elif len(fields) != len(columns):", "elif False:"),)),
    Mutant("a saved table may say any number", "files", (
        ("whatif/table.py", "type(row[name]) is not int or not 0 <= row[name] <= most", "False"),)),
    Mutant("a netmask may have holes", "words", (("grammar.py", "if mask == 0 or (", "if mask == 0 and ("),)),
    Mutant("a port may have other digits", "words", (
        ("grammar.py", "if not (text.isascii() and text.isdigit() and len(text) <= 5", "if not (text.isdigit()"),)),
)


def changed(mutant: Mutant, copy: Path) -> None:
    """Write the mutant's sources into *copy*."""
    for file, old, new in mutant.edits:
        path = copy / "lbq" / file
        text = path.read_text()
        if old not in text:
            raise SystemExit(f"mutants: {mutant.name}: {file} has no {old!r}; the source has changed")
        path.write_text(text.replace(old, new, 1))


def built(mutant: Mutant, copy: Path) -> Path:
    """Build *mutant* in *copy*, only what it concerns; return the build."""
    for part in ("lbq", "build/c", "build/sanitized"):
        shutil.copytree(sanitized.ROOT / part, copy / part)
    for part in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy2(sanitized.ROOT / part, copy)
    changed(mutant, copy)
    subprocess.run([sys.executable, "setup.py", "-q", "build", "--build-lib", "build/sanitized"], cwd=copy, check=True,
                   env={**os.environ, "LBQ_SANITIZE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return copy / "build" / "sanitized"


def try_out(mutant: Mutant) -> tuple[bool, float, str]:
    """Return whether *mutant* is noticed, in how many seconds, and what was said last."""
    with tempfile.TemporaryDirectory(prefix="lbq-mutant-") as copy:
        build = built(mutant, Path(copy))
        started = time.monotonic()
        process = sanitized.start("-m", "tests.fuzz.worker", mutant.target, 0, 1, SECONDS, build=build)
        _, complained = process.communicate()
    words = [line for line in complained.splitlines() if line.startswith(("==", "SUMMARY")) or "Error" in line]
    return process.returncode != 0, time.monotonic() - started, words[-1][:90] if words else ""


def main(names: list[str]) -> int:
    """Try the mutants whose names hold one of *names*, or all; return 1 when one is not noticed."""
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    print(f"{'mutant':<66}{'target':>8}{'noticed':>9}{'seconds':>9}")
    survivors = 0
    for mutant in chosen:
        noticed, seconds, words = try_out(mutant)
        survivors += not noticed
        print(f"{mutant.name:<66}{mutant.target:>8}{'yes' if noticed else 'NO':>9}{seconds:>9.1f}  {words}", flush=True)
    print(f"{len(chosen)} mutants, {len(chosen) - survivors} noticed, {survivors} not")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
