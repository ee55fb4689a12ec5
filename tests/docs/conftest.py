"""The generators of pages are in docs/_ext, where Sphinx finds them."""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "docs" / "_ext"))
