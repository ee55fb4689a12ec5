"""Gives command lines to the real ipvsadm: the program that runs in the guest.

Each sequence has a network namespace of its own, and a loaded ipvsadm there that forks for each line (forkserver.c).
The result of a line is [output, complaint, exit status]; a transcript also has the *salt*: eight bits of a pointer
that the kernel mixes into its order of services.
"""
from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from tests.kernel.world import CLONE_NEWNET, check, libc

PROGRAM = "ipvsadm"
SOURCE = Path(__file__).with_name("forkserver.c")
REQUESTS, ANSWERS, INPUT = 3, 4, 5      # descriptors of the fork server, as in its source
MARKS = 256             # services that make every bucket of the kernel's table appear in a listing


def main(kind: str, sequences: str, results: str) -> None:
    """Play every sequence in the file *sequences*."""
    library = os.path.join(os.environ["TMPDIR"], "forkserver.so")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    with open(sequences) as todo, open(results, "w") as done:
        for number, line in enumerate(todo):
            check(libc.unshare(CLONE_NEWNET))
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            with Program(library) as program:
                transcript = {"number": number, "kind": kind, "salt": salt(program), "results": [
                    program.run(step["words"], step.get("stdin", "")) for step in json.loads(line)["steps"]]}
            done.write(json.dumps(transcript) + "\n")
            done.flush()
            os.fsync(done.fileno())


class Program:
    """The real ipvsadm, loaded once, in this network namespace."""

    def __init__(self, library: str):
        self.files = [tempfile.TemporaryFile() for _ in range(3)]   # noqa: SIM115  its input, output and error
        theirs, self.requests = os.pipe()
        self.answers, ours = os.pipe()
        wanted = [theirs, ours, *(file.fileno() for file in self.files)]
        # By way of high numbers: a descriptor must not be overwritten before it was copied.
        moves = [(os.POSIX_SPAWN_DUP2, fd, 100 + number) for number, fd in enumerate(wanted)]
        moves += [(os.POSIX_SPAWN_DUP2, 100 + number, REQUESTS + number) for number in range(len(wanted))]
        self.pid = os.posix_spawn(shutil.which(PROGRAM), [PROGRAM], {**os.environ, "LD_PRELOAD": library},
                                  file_actions=moves)
        os.close(theirs)
        os.close(ours)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_) -> None:
        os.close(self.requests)
        os.waitpid(self.pid, 0)
        os.close(self.answers)
        for file in self.files:
            file.close()

    def run(self, words: list[str], stdin: str = "") -> tuple[str, str, int]:
        """Return what one command line came to."""
        for file, content in zip(self.files, (stdin.encode(), b"", b""), strict=True):
            file.seek(0)
            file.truncate()
            file.write(content)
            file.flush()
            file.seek(0)
        text = b"".join(word.encode() + b"\0" for word in (PROGRAM, *words))
        os.write(self.requests, struct.pack("i", len(text)) + text)
        status = struct.unpack("i", os.read(self.answers, 4))[0]
        out, error = (os.pread(file.fileno(), 1 << 20, 0).decode() for file in self.files[1:])
        return out, error, os.waitstatus_to_exitcode(status)


def salt(program: Program) -> int:
    """Return by what the first bucket's mark differs from 0."""
    program.run(["-R"], "".join(f"-A -f {mark} -s rr\n" for mark in range(1, MARKS + 1)))
    first = program.run(["-L", "-n", "--nosort"])[0].splitlines()[3]
    program.run(["-C"])
    return int(first.split()[1]) % MARKS
