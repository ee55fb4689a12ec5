"""The address families whose packets are fuzzed; ``ipv4.py`` says what a family is."""
from __future__ import annotations

from tests.fuzz import ipv4

FAMILIES = (ipv4,)
