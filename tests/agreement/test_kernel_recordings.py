"""What kernel IPVS did, recorded, both engines do: the scenarios of the kernel suite, without a guest."""
from __future__ import annotations

import pytest

from tests.helpers import sampled
from tests.helpers.engines import ENGINES
from tests.kernel.record import recorded
from tests.kernel.report import Report

LEAST = {("classic", 4): 5_000, ("new", 4): 5_000, ("classic", 6): 2_000, ("new", 6): 1_000}        # decisions


@pytest.mark.parametrize(("kind", "family"), LEAST)
def test_recorded_answers_of_a_kernel(kind, family):
    report = Report(kind, ENGINES, family)
    for each in recorded(kind, family):
        report.compare(each["scenario"], each["answers"], each["at"])

    assert not report.differences, "\n".join(map(str, report.differences[:5]))
    assert report.decisions.total() > LEAST[kind, family]
    sampled.COUNTED[f"kernel recordings ({report.name()}): decisions"] += report.decisions.total()
