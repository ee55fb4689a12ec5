"""What kernel IPVS did, recorded, both engines do: the scenarios of the kernel suite, without a guest."""
from __future__ import annotations

import pytest

from tests.helpers import sampled
from tests.helpers.engines import ENGINES
from tests.kernel.guest import KINDS
from tests.kernel.record import recorded
from tests.kernel.report import Report


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_answers_of_a_kernel(kind):
    report = Report(kind, ENGINES)
    for each in recorded(kind):
        report.compare(each["scenario"], each["answers"], each["at"])

    assert not report.differences, "\n".join(map(str, report.differences[:5]))
    assert report.decisions.total() > 5_000
    sampled.COUNTED[f"kernel recordings ({kind}): decisions"] += report.decisions.total()
