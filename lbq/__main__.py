"""``python -m lbq``: the same as the command ``lbq``."""
import sys

from lbq.cli import main

if __name__ == "__main__":
    sys.exit(main())
