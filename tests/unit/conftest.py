"""What all unit tests share: generated examples, the same in every run but those in full length, and no haste."""
from __future__ import annotations

from hypothesis import settings

from tests.helpers import sampled

settings.register_profile("patient", deadline=None, derandomize=not sampled.IS_FULL)
settings.load_profile("patient")
