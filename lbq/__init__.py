"""lbq: the Linux Virtual Server in user space.

``LBQ_PURE=1`` in the environment makes Python load every module of this package from its ``.py``
source even where a compiled twin lies beside it, so that an algorithm can be edited, stepped through
and tested as the plain text it is.  The fast path (``_fastpath``) has no plain twin and is then absent.
"""
from __future__ import annotations

import os
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader

from lbq._version import __version__

__all__ = ["__version__"]

if os.environ.get("LBQ_PURE") == "1":
    for _folder, _, _ in os.walk(os.path.dirname(__file__)):
        sys.path_importer_cache[_folder] = FileFinder(_folder, (SourceFileLoader, SOURCE_SUFFIXES))
