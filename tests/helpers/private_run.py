"""A /run of its own for commands whose namespaces have fixed names, so that they meet nobody else's."""
from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from lbq.lab.topology import lbq_command, this_lbq

TIMEOUT = 60
LBQ = ["env", f"PYTHONPATH={this_lbq()['PYTHONPATH']}", *lbq_command()]


class PrivateRun:
    """A mount namespace with an empty /run, held open by a sleeping process."""

    def __enter__(self):
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private",
             "sh", "-c", "mount -t tmpfs none /run && mkdir /run/netns && echo ready && exec sleep 600"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self.holder.stdout.readline() == b"ready\n"
        self.run_folder = Path(f"/proc/{self.holder.pid}/root/run")
        return self

    def __exit__(self, *error):
        for pid in self.processes():
            with suppress(ProcessLookupError):      # it has ended by itself meanwhile
                os.kill(pid, signal.SIGKILL)
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()

    def command(self, *argv):
        """Return *argv* as a command line for inside."""
        return ["nsenter", f"--target={self.holder.pid}", "--mount", f"--wd={os.getcwd()}", *map(str, argv)]

    def call(self, *argv):
        """Run *argv* inside to its end."""
        return subprocess.run(self.command(*argv), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=TIMEOUT, check=False)

    def lbq(self, *words):
        """Run ``lbq WORDS`` inside to its end."""
        return self.call(*LBQ, *words)

    def start(self, *words):
        """Start ``lbq WORDS`` inside."""
        return subprocess.Popen(self.command(*LBQ, *words), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def namespaces(self):
        """Return the names of the network namespaces inside."""
        return sorted(path.name for path in (self.run_folder / "netns").iterdir())

    def processes(self):
        """Return the processes inside, but for the holder."""
        mine = os.readlink(f"/proc/{self.holder.pid}/ns/mnt")
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                if pid != self.holder.pid and _mount_namespace(pid) == mine]

    def leftovers(self):
        """Return what a lab that is gone has left: namespaces, processes, files."""
        files = [str(path.relative_to(self.run_folder)) for path in self.run_folder.rglob("*")
                 if path.name not in ("netns", "xtables.lock")]
        # A director's own folder may stay, empty; what is in it is the state of one that is gone.
        return [path for path in files if path != "lbq"] + self.processes()


def _mount_namespace(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None
