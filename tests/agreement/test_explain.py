"""What `lbq explain` says is what the packet path does: on the recorded scenarios of the kernel suite."""
from __future__ import annotations

from functools import partial

import pytest

from tests.helpers import sampled
from tests.helpers.engines import ENGINES
from tests.helpers.explained import SEEN, Explained
from tests.kernel.record import recorded
from tests.kernel.report import Report

KINDS = {("classic", 4), ("new", 4), ("classic", 6), ("new", 6)}
EVERY = 5 if sampled.IS_FULL else 20      # of the recorded scenarios one is played


@pytest.mark.parametrize("engine", [name for name in ENGINES if name in ("reference", "fast")])
@pytest.mark.parametrize(("kind", "family"), sorted(KINDS))
def test_explain_says_what_the_packet_path_does(kind, family, engine):
    SEEN.clear()
    report = Report(kind, {engine: partial(Explained, engine=ENGINES[engine])}, family)
    for number, each in enumerate(recorded(kind, family)):
        if number % EVERY == 0:
            report.compare(each["scenario"], each["answers"], each["at"])

    assert not report.differences, "\n".join(map(str, report.differences[:5]))
    assert SEEN["errors"] > 0
    assert SEEN["explained"] > 0.75 * (SEEN.total() - SEEN["errors"]) > 0, SEEN
    sampled.COUNTED["packets explained"] += SEEN["explained"]
