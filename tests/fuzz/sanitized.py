"""Programs in the sanitized build of lbq, which ends them at the first wrong access (``make fuzz`` builds it).

Python itself is not sanitized: its own leaks are not reported, and its objects come from the sanitizer's malloc, so
that a buffer's end is known.
"""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "sanitized"
STAMP = BUILD / "lbq-sanitized"
DIED = 99           # exit status of what a sanitizer ended


def why_not_usable() -> str | None:
    """Return why the build cannot be used, or None."""
    if not STAMP.exists():
        return f"there is no {BUILD}: make fuzz builds it"
    newer = [path.name for path in (ROOT / "lbq").rglob("*.p[yx]*") if path.stat().st_mtime > STAMP.stat().st_mtime]
    return f"{', '.join(newer)} changed after {BUILD} was built: make fuzz builds it again" if newer else None


def start(*words: object, build: Path = BUILD) -> subprocess.Popen:
    """Start Python with *words* in the sanitized build, or in another one."""
    return subprocess.Popen([sys.executable, "-P", *map(str, words)], cwd=ROOT, env=_environment(build), text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(*words: object) -> subprocess.CompletedProcess:
    """Run Python with *words* in the sanitized build to its end."""
    process = start(*words)
    said, complained = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


def _environment(build: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{build}{os.pathsep}{ROOT}", "PYTHONMALLOC": "malloc", "LBQ_PURE": "",
            "LD_PRELOAD": _library(), "ASAN_OPTIONS": f"detect_leaks=0:exitcode={DIED}:quarantine_size_mb=16",
            "UBSAN_OPTIONS": f"print_stacktrace=1:exitcode={DIED}"}


def _library() -> str:
    """Return the path of AddressSanitizer's library, which must be loaded before all others."""
    linked = subprocess.run(["ldd", next(BUILD.glob("lbq/packet.*.so"))], capture_output=True, text=True, check=True)
    return re.search(r"(\S*/libasan\S*)", linked.stdout)[1]
