"""How Sphinx builds the documentation: `make docs`.  It reads this checkout and asks no network."""
from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.append(str(HERE.parent))       # behind an installed lbq, which is taken where there is one

from lbq._version import __version__  # noqa: E402

project = "lbq"
author = "the lbq authors"
version = release = __version__
extensions = ["myst_parser", "from_code"]
exclude_patterns = ["_ext"]
nitpicky = True
smartquotes = False                     # -- begins an option, not a dash
highlight_language = "none"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"lbq {release}"
html_copy_source = False

man_pages = [
    ("generated/lbq", "lbq", "the Linux Virtual Server in user space", [author], 1),
    ("generated/lbq-ipvsadm", "lbq-ipvsadm", "ipvsadm for an lbq director", [author], 8),
]
