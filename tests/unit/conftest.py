"""What all unit tests share: a machine that is busy with other things makes no test fail."""
from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
