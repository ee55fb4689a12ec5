"""Gives command lines to the real ipvsadm: the program that runs in the guest.

Each sequence has a network namespace of its own.  The result of a line is [output, complaint, exit status]; a
transcript also has the *salt*: eight bits of a pointer that the kernel mixes into its order of services.
"""
from __future__ import annotations

import json
import os
import subprocess
import tempfile

from tests.kernel.world import CLONE_NEWNET, check, libc

PROGRAM = "ipvsadm"
FILES = [tempfile.TemporaryFile() for _ in range(3)]        # its standard input, output and error
MARKS = 256             # services that make every bucket of the kernel's table appear in a listing


def main(kind: str, sequences: str, results: str) -> None:
    """Play every sequence in the file *sequences*."""
    with open(sequences) as todo, open(results, "w") as done:
        for number, line in enumerate(todo):
            check(libc.unshare(CLONE_NEWNET))
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            transcript = {"number": number, "kind": kind, "salt": salt(), "results": [
                run(step["words"], step.get("stdin", "")) for step in json.loads(line)["steps"]]}
            done.write(json.dumps(transcript) + "\n")
            done.flush()
            os.fsync(done.fileno())


def run(words: list[str], stdin: str = "") -> tuple[str, str, int]:
    """Return what one command line came to; spawned, because a fork of this process takes twice as long."""
    for file, content in zip(FILES, (stdin.encode(), b"", b""), strict=True):
        file.seek(0)
        file.truncate()
        file.write(content)
        file.flush()
        file.seek(0)
    actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), number) for number, file in enumerate(FILES)]
    pid = os.posix_spawnp(PROGRAM, [PROGRAM, *words], os.environ, file_actions=actions)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    out, error = (os.pread(file.fileno(), 1 << 20, 0).decode() for file in FILES[1:])
    return out, error, status


def salt() -> int:
    """Return by what the first bucket's mark differs from 0."""
    run(["-R"], "".join(f"-A -f {mark} -s rr\n" for mark in range(1, MARKS + 1)))
    first = run(["-L", "-n", "--nosort"])[0].splitlines()[3]
    run(["-C"])
    return int(first.split()[1]) % MARKS
