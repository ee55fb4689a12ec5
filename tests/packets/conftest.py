"""Every case is played with both directors."""
from __future__ import annotations

import pytest

from tests.helpers.engines import ENGINES, PURE

# The readable director rewrites every packet itself.
collect_ignore = ["test_steer.py", "test_offload.py", "test_trace.py"] if PURE else []


@pytest.fixture(params=list(ENGINES))
def new_engine(request):
    """Return the class of a director."""
    return ENGINES[request.param]


@pytest.fixture
def engine(new_engine):
    """Return a director without services, with room for a hundred connections."""
    return new_engine(max_connections=100)
