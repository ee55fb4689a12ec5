"""The tables and charts of a run that was kept: ``python bench/report.py FILE.json [--plot FILE.png] [--terminal]``.

The same as ``lbq bench --show FILE.json …``.
"""
import sys

from lbq.cli import main

sys.exit(main(["bench", "--show", *sys.argv[1:]]))
