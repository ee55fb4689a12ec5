"""What the benchmark runs on: what numbers depend on, which programs there are, the C helpers compiled here."""
from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lbq import __version__

HERE = Path(__file__).resolve().parent
COMPILER = {"cc": "gcc libc6-dev linux-libc-dev"}


class Missing(Exception):
    """A column or a workload cannot be shown; the message is the reason."""


def require(programs: dict[str, str]) -> None:
    """Raise Missing unless all *programs* are installed; each is given with its Debian package."""
    for program, package in programs.items():
        if shutil.which(program) is None:
            raise Missing(f"{program} is not installed (apt install {package})")


class Tools:
    """The C helpers beside this file, each compiled into *folder* when it is first wanted."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the program *name*; raises Missing when it cannot be compiled."""
        program = self.folder / name
        if not program.exists():
            require(COMPILER)
            done = subprocess.run(["cc", "-O3", "-Wall", "-o", program, HERE / f"{name}.c"],
                                  capture_output=True, text=True, check=False, env=temporary_files_in(self.folder))
            if done.returncode != 0:
                said = next((line for line in done.stderr.splitlines() if "error" in line), "").strip()
                raise Missing(f"cannot compile {name}.c (apt install {COMPILER['cc']}): {said}")
        return program


def temporary_files_in(folder: Path) -> dict[str, str]:
    """Return an environment in which a program's temporary files go with *folder*, however it ends."""
    return os.environ | {"TMPDIR": str(folder)}


def describe() -> dict:
    """Return what the numbers depend on: machine, kernel, date, versions."""
    processor = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {"machine": f"{os.cpu_count()} × {processor[1] if processor else platform.machine()}",
            "kernel": platform.release(), "date": f"{date.today()}",
            "versions": {"lbq": __version__, "commit": _commit(),
                         "Python": platform.python_version(),
                         "NetfilterQueue": _package("NetfilterQueue"),
                         "HAProxy": _first(["haproxy", "-v"], r"version (\S+)"),
                         "iptables": _first(["iptables", "--version"], r"v(.*)"),
                         "nftables": _first(["nft", "--version"], r"v(\S+)"),
                         "iperf3": _first(["iperf3", "--version"], r"iperf (\S+)"),
                         "wrk": _first(["wrk", "--version"], r"wrk (\S+)"),
                         "nginx": _first(["nginx", "-v"], r"nginx/(\S+)")}}


def available_bytes() -> int:
    """Return how much memory programs can still have, as the kernel estimates it."""
    return int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024


def _commit() -> str:
    """Return what git calls the checkout whose .venv lbq is installed in; a package from elsewhere has none."""
    git = ["git", "-C", str(HERE)]
    top = Path(_first([*git, "rev-parse", "--show-toplevel"], r"^(/.*)"))
    if not (top / "lbq" / "bench" / Path(__file__).name).exists():
        return "none"
    return _first([*git, "describe", "--always", "--dirty"], r"^([\w.-]+)$")


def _first(command: list[str], pattern: str) -> str:
    """Return the first match of *pattern* in what *command* says."""
    if shutil.which(command[0]) is None:
        return "missing"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown"


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
