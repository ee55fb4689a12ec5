"""A network namespace as an object: enter it, run programs in it, read its counters.

A namespace belongs to a *thread*: what a thread opens (a socket) or starts (a child) while it is inside
belongs to the namespace for good.  So ``with host.inside():`` around ``socket.create_connection`` or
``subprocess.Popen`` is all there is to "a program on another machine", and nothing needs ``ip netns exec``.
"""
from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import netns

from lbq.errors import HostError

NETNS_FOLDER = Path("/run/netns")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)      # what asks a person's program to end
STOP_SECONDS = 10       # what a program gets between SIGTERM and SIGKILL

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def uninterrupted():
    """Hold back Ctrl-C and its kin from what must not be left half done: it is short, and ends by itself."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _is_readable(file, seconds: float) -> bool:
    """Return True as soon as there is something to read, or after *seconds* False; any number of files may be open."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _begin() -> None:
    """Hear signals, whatever the parent held back (runs between fork and exec)."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _begin_and_die_with_parent() -> None:
    """Also ask the kernel for SIGTERM when the thread that started us ends.

    SIGTERM, not SIGKILL: a director undoes its rules, and nginx takes its workers along.
    """
    _begin()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Process(subprocess.Popen):
    """A program inside a namespace: what it writes to standard error is kept in the file *log*."""

    def __init__(self, argv, log: Path, detached: bool = False, **options):
        self.log = log
        self.seen = b""         # of standard output, by wait_for()
        options.setdefault("preexec_fn", _begin if detached else _begin_and_die_with_parent)
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        # Its own session: Ctrl-C at the terminal reaches the lab alone, which then stops things in order.
        options.setdefault("start_new_session", True)
        with log.open("ab") as stderr:
            options.setdefault("stderr", stderr)
            super().__init__([str(word) for word in argv], **options)

    def wait_for(self, start: str, timeout: float = 15.0) -> str:
        """Return the first line on standard output that begins with *start*."""
        deadline = time.monotonic() + timeout
        while True:
            *lines, rest = self.seen.split(b"\n")
            for number, line in enumerate(lines):
                if line.startswith(start.encode()):
                    self.seen = b"\n".join([*lines[number + 1:], rest])
                    return line.decode(errors="replace")
            left = deadline - time.monotonic()
            if left <= 0 or not _is_readable(self.stdout, left):
                raise HostError(f"{self.title()} did not print '{start}' "
                                f"within {timeout:g} s; it{self.last_words()}")
            chunk = os.read(self.stdout.fileno(), 65536)
            if not chunk:
                self.stop()
                raise HostError(f"{self.title()} ended with status {self.returncode} "
                                f"before it printed '{start}'; it{self.last_words()}")
            self.seen += chunk

    def stop(self, timeout: float = STOP_SECONDS) -> int:
        """End the program (SIGTERM, then SIGKILL after *timeout* seconds), reap it, return its status."""
        if self.poll() is None:
            self.terminate()
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                self.wait()
        if self.stdout is not None:
            self.stdout.close()
        return self.returncode

    def title(self) -> str:
        """Return the command line, shortened to what a person needs to recognise it."""
        words = " ".join(self.args)
        return words if len(words) <= 120 else words[:117] + "..."

    def last_words(self) -> str:
        """Return the end of the log as a phrase for an error message."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " said: " + " | ".join(lines[-3:]) if lines else " said nothing"


class Namespace:
    """One machine of the lab: a named network namespace with an address, and the programs in it."""

    def __init__(self, name: str, address: str, folder: Path, detached: bool = False):
        self.name = name
        self.address = address
        self.folder = folder        # where its programs' logs go
        self.detached = detached    # its programs outlive this process
        self.processes: list[Process] = []

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        """Return where ``ip netns`` looks for this namespace."""
        return NETNS_FOLDER / self.name

    @property
    def inode(self) -> int:
        """Return the number that tells this namespace from all others of the machine."""
        return self.path.stat().st_ino

    def exists(self) -> bool:
        """Return True when a namespace of this name is there, whoever made it."""
        return self.path.exists()

    def create(self) -> None:
        """Make the namespace with its loopback up, IPv4 only and not forwarding."""
        netns.create(self.name)
        # A new namespace inherits much of this from the machine; a lab is the same everywhere.
        self.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        self.sysctl("net.ipv4.ip_forward", 0)
        with self.links() as links:
            links.link("set", index=1, state="up")

    def remove(self) -> None:
        """Unname the namespace; it ends, with its links and rules, when its last program has ended."""
        netns.remove(self.name)

    @contextmanager
    def inside(self):
        """Put the calling thread into this namespace for the length of a ``with`` block."""
        outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            netns.setns(self.name, flags=0)
            try:
                yield self
            finally:
                netns.setns(outside, flags=0)
        finally:
            os.close(outside)

    def call(self, function, *args, **kwargs):
        """Return *function(…)*, called inside; sockets it opens stay inside after it has returned."""
        with self.inside():
            return function(*args, **kwargs)

    @contextmanager
    def links(self):
        """Give pyroute2's IPRoute of this namespace.

        A signal waits until it is closed: an exception from a handler is lost in its event loop, which waits for ever.
        """
        from pyroute2 import IPRoute

        with uninterrupted(), self.inside(), IPRoute() as links:
            yield links

    def popen(self, argv, **options) -> Process:
        """Start a program inside; it ends with the lab, or with the thread that started it."""
        log = self.folder / f"{self.name}-{os.path.basename(str(argv[0]))}-{len(self.processes)}.log"
        # A program that is signalled between its fork and its exec has not heard it.
        with uninterrupted():
            with self.inside():
                process = Process(argv, log, detached=self.detached, **options)
            self.processes.append(process)
        return process

    def run(self, argv, timeout: float = 60.0, check: bool = True, **options) -> subprocess.CompletedProcess:
        """Run a program inside to its end; its output is returned as text (``stdout``, ``stderr``)."""
        argv = [str(word) for word in argv]
        said = options.pop("input", None)
        options.setdefault("stdin", subprocess.DEVNULL if said is None else subprocess.PIPE)
        with uninterrupted(), self.inside():
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                       preexec_fn=_begin_and_die_with_parent, **options)
        with process:
            try:
                output, errors = process.communicate(said, timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            why = (errors or output).strip()
            raise HostError(f"{' '.join(argv)} in {self.name}: status {process.returncode}: {why}")
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)

    def sysctl(self, name: str, value: object = None) -> str:
        """Return a sysctl of this namespace, after setting it to *value* when one is given."""
        path = Path("/proc/sys") / name.replace(".", "/")
        with self.inside():
            if value is not None:
                path.write_text(f"{value}\n")
            return path.read_text().strip()

    def counters(self) -> dict[str, int]:
        """Return the protocol counters, as ``{"TcpInCsumErrors": 0, …}``.

        From /proc/thread-self, because /proc/net shows the namespace of the process's first thread.
        """
        counters = {}
        with self.inside():
            for table in ("snmp", "netstat"):
                lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()
                for names, values in zip(lines[::2], lines[1::2], strict=True):
                    family = names.split(":")[0].removesuffix("Ext")
                    pairs = zip(names.split()[1:], values.split()[1:], strict=True)
                    counters.update({family + name: int(value) for name, value in pairs})
            lines = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
            counters.update({name: int(value) for name, value in map(str.split, lines)})
        return counters

    def pids(self) -> list[int]:
        """Return the processes whose first thread is in this namespace, whoever started them."""
        return netns.ns_pids(str(NETNS_FOLDER)).get(self.name, [])

    def stop_processes(self) -> None:
        """End every program inside: first those started here, newest first, then whatever is left."""
        for process in reversed(self.processes):
            process.stop()
        self.processes.clear()
        stop_pids([pid for pid in self.pids() if pid not in _ourselves()])


def _ourselves() -> set[int]:
    """Return this process and its ancestors: a shell inside the lab may be what takes the lab down."""
    pids, pid = set(), os.getpid()
    while pid > 1:
        pids.add(pid)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pid = int(fields[1])
    return pids


def stop_pids(pids: list[int], timeout: float = STOP_SECONDS) -> None:
    """End processes that are not our children: SIGTERM, and SIGKILL after *timeout* seconds."""
    left = {}
    for pid in pids:
        try:
            left[pid] = os.pidfd_open(pid)      # a descriptor, so that a reused number is not shot at
        except ProcessLookupError:
            continue
    try:
        for signal_number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, timeout)):
            for descriptor in left.values():
                _signal(descriptor, signal_number)
            _wait_for_ends(left, patience)
    finally:
        for descriptor in left.values():
            os.close(descriptor)


def _signal(descriptor: int, signal_number: int) -> None:
    """Signal one process; that it has ended already is what we want anyway."""
    try:
        signal.pidfd_send_signal(descriptor, signal_number)
    except ProcessLookupError:
        return


def _wait_for_ends(left: dict[int, int], timeout: float) -> None:
    """Wait until the processes behind the descriptors in *left* have ended; take those out of it."""
    deadline = time.monotonic() + timeout
    ends = select.poll()            # not select(), which takes no descriptor above 1023
    for descriptor in left.values():
        ends.register(descriptor, select.POLLIN)
    while left and (patience := deadline - time.monotonic()) > 0:
        ready = [descriptor for descriptor, _ in ends.poll(patience * 1000)]
        for pid in [pid for pid, descriptor in left.items() if descriptor in ready]:
            ends.unregister(left[pid])
            os.close(left.pop(pid))
