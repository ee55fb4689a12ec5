"""What all suites share: where the helpers are found, and the first line of every run.

The source tree goes to the *end* of the search path: an installed lbq is tested where there is one, and
``tests.helpers`` is found in any case.  So are the generators of pages, which Sphinx finds in docs/_ext.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "docs" / "_ext"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def pytest_report_header(config):
    """Say which lbq is tested, and in which form."""
    import lbq.packet

    form = "interpreted" if lbq.packet.__file__.endswith(".py") else "compiled"
    asked = " (LBQ_PURE=1)" if os.environ.get("LBQ_PURE") == "1" else ""
    return f"lbq: {form}{asked}, from {Path(lbq.packet.__file__).parent}"
