"""What kernel IPVS does in a guest, both of lbq's engines do: every decision, state, counter and byte.

LBQ_KERNEL_DECISIONS asks for so many decisions with each kernel and each family, LBQ_KERNEL_SEED for other scenarios;
LBQ_FULL=1 (`make test-kernel-full`) for the full set (report.py).  A scenario that differs is made short and left in
LBQ_KERNEL_KEEP (else in the temporary folder) for `python -m tests.kernel.replay`.
"""
from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from tests.helpers.engines import ENGINES
from tests.kernel.ipv6 import told
from tests.kernel.report import FULL, REPORTS, Report
from tests.kernel.scenarios import scenarios
from tests.kernel.session import transcripts
from tests.kernel.shrink import shrink

SLICE = {("classic", 4): 4_000, ("new", 4): 2_000, ("classic", 6): 2_000, ("new", 6): 500}
SEED = int(os.environ.get("LBQ_KERNEL_SEED", "1"))
ASKED = {4: 27, 6: 32}      # for 25 decisions: hosts get some packets, and services of IPv4 some of IPv6's scenarios
KEEP = Path(os.environ.get("LBQ_KERNEL_KEEP", tempfile.gettempdir()))
SHRINK = 3          # differences made short; the others are counted


def wanted(kind: str, family: int) -> int:
    """Return how many decisions to compare."""
    default = (FULL if os.environ.get("LBQ_FULL") == "1" else SLICE)[kind, family]
    return int(os.environ.get("LBQ_KERNEL_DECISIONS", default))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "family"), FULL)
def test_lbq_does_what_the_kernel_does(kind, family):
    report = REPORTS[kind, family] = Report(kind, ENGINES, family)
    stories = told(scenarios(SEED, wanted(kind, family) * ASKED[family] // 25), family, kind)
    for scenario, transcript in transcripts(kind, stories):
        report.add(scenario, transcript)

    seeds = {each.scenario["seed"]: each for each in reversed(report.differences)}
    stories = [shortened(each, kind) for each in list(seeds.values())[:SHRINK]]
    assert not report.differences, f"{len(seeds)} scenarios differ\n" + "\n".join(stories)
    assert report.decisions.total() > wanted(kind, family) * 0.8


def shortened(difference, kind: str) -> str:
    """Return what differs in the shortest scenario that shows it, and where that was left."""
    scenario, what = shrink(difference.scenario, kind, {difference.engine: ENGINES[difference.engine]})
    if scenario is difference.scenario:
        what += f": {difference}"
    path = KEEP / f"lbq-kernel-{kind}-{scenario['seed']}.json"
    path.write_text(json.dumps(scenario, indent=1) + "\n")
    return f"{what}\n  python -m tests.kernel.replay {path} --kernel {kind} --engine {difference.engine}"
