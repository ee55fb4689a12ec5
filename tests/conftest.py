"""What all suites share: where the helpers are found, and the first line of every run.

The source tree goes to the *end* of the search path: an installed lbq is tested where there is one, and
``tests.helpers`` is found in any case.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.append(ROOT)


def pytest_report_header(config):
    """Say which lbq is tested, and in which form."""
    import lbq.packet

    form = "interpreted" if lbq.packet.__file__.endswith(".py") else "compiled"
    asked = " (LBQ_PURE=1)" if os.environ.get("LBQ_PURE") == "1" else ""
    return f"lbq: {form}{asked}, from {Path(lbq.packet.__file__).parent}"
