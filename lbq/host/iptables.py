"""Run iptables-restore and iptables-save, in whichever of their two variants this host has, and ip6tables'.

*nft* (the default of Debian and others) writes nf_tables; *legacy* writes the old x_tables.  Both may be
installed, and a host may have rules in both.  ``iptables-restore`` on the PATH is what the host's own
firewall uses, so lbq uses that; LBQ_IPTABLES_RESTORE names another program.  Rules for IPv6 are made by the program
of the same name with ip6tables instead of iptables.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from lbq.errors import HostError, RulesNotApplied
from lbq.model import AF_INET, AF_INET6

NFT, LEGACY = "nft", "legacy"
ENVIRONMENT = "LBQ_IPTABLES_RESTORE"
LOCK_SECONDS = 10       # how long another program may hold the xtables lock
RUN_SECONDS = 60
NAMES = {AF_INET: "iptables", AF_INET6: "ip6tables"}
SEARCH = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"])


class Iptables:
    """One iptables-restore program and the iptables-save beside it."""

    def __init__(self, restore: str):
        self.restore_program = restore
        self.save_program = str(Path(restore).with_name(Path(restore).name.replace("restore", "save")))
        self.variant = NFT if "nf_tables" in _run([restore, "--version"]) else LEGACY

    def save(self, *, counted: bool = False, table: str | None = None) -> str:
        """Return the rules of one *table* or all that exist, *counted* with what each has met; makes none of them."""
        return _run([self.save_program, *(["-c"] if counted else []), *(["-t", table] if table else [])])

    def unreadable_tables(self) -> list[str]:
        """Return the tables that this program neither lists nor changes, because nft wrote into them."""
        return re.findall(r"Table `(\w+)' is incompatible", self.save())

    def restore(self, text: str) -> None:
        """Apply *text*, leaving everything it does not name as it is."""
        _run([self.restore_program, "-w", str(LOCK_SECONDS), "--noflush"], text)

    def command(self) -> str:
        """Return the word a person types to change these rules: ``iptables`` or ``iptables-legacy``."""
        return Path(self.restore_program).name.removesuffix("-restore")


def find(name: str | None, family: int) -> Iptables:
    """Return the iptables of *family* to use: *name*, or LBQ_IPTABLES_RESTORE, or the host's iptables-restore."""
    wanted = of_family(name or os.environ.get(ENVIRONMENT) or "iptables-restore", family)
    path = shutil.which(wanted, path=os.pathsep.join([os.environ.get("PATH", ""), SEARCH]))
    if path is None:
        raise HostError(f"cannot find {wanted}: lbq needs {NAMES[family]} to queue packets; "
                        f"install it (apt install iptables)")
    return Iptables(path)


def of_family(program: str, family: int) -> str:
    """Return the program of *family* that lies beside an iptables *program*."""
    folder, slash, name = program.rpartition("/")
    return folder + slash + name.replace(NAMES[AF_INET], NAMES[family])


def installed(family: int) -> list[Iptables]:
    """Return every variant on this host, each once; a host may have rules in both."""
    found: dict[str, Iptables] = {}
    for name in ("iptables-restore", "iptables-nft-restore", "iptables-legacy-restore"):
        path = shutil.which(of_family(name, family), path=SEARCH)
        if path is not None:
            iptables = Iptables(path)
            found.setdefault(iptables.variant, iptables)
    return list(found.values())


def _run(command: list[str], text: str = "") -> str:
    program = Path(command[0]).name
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=RUN_SECONDS,
                              env={**os.environ, "LC_ALL": "C"}, check=False)
    except OSError as error:
        raise RulesNotApplied(f"cannot run {command[0]}: {error.strerror}; install iptables") from error
    except subprocess.TimeoutExpired:
        raise RulesNotApplied(f"{program} did not end in {RUN_SECONDS} s; another program may hold "
                              f"/run/xtables.lock") from None
    if done.returncode != 0:
        raise RulesNotApplied(f"{program} refused: {_reason(done.stderr) or f'exit status {done.returncode}'}")
    return done.stdout


def _reason(said: str) -> str:
    """Return the first thing that iptables said was wrong; dozens of lines may follow from it."""
    lines = [line for line in map(str.strip, said.splitlines()) if line and not line.endswith(":")]
    reason = lines[0] if lines else " ".join(said.split())
    if "TABLE_ADD failed (Operation not supported)" in said:
        reason += f"; where the kernel has no nf_tables, set {ENVIRONMENT}=iptables-legacy-restore"
    return reason
