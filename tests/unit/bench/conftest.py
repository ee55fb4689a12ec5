"""A run made by hand, as ``lbq bench --output`` keeps it."""
from __future__ import annotations

import pytest

from lbq.bench.columns import COLUMNS

MACHINE = {"machine": "1 × abacus", "kernel": "6.18", "date": "2026-11-26", "command": "lbq bench",
           "versions": {"lbq": "0.1.0"}, "rounds": 2, "seconds": 1}


@pytest.fixture
def make_run():
    """Return a run of *measured* numbers, ``{"WORKLOAD COLUMN": {number: [a value each round]}}``."""
    def make(measured: dict[str, dict[str, list[float]]], memory: list[dict] = (), missing: dict = (), columns=()):
        measurements = [
            {"workload": key.split()[0], "column": key.split()[1], "round": at,
             "numbers": {number: values[at] for number, values in numbers.items() if values[at] is not None}}
            for key, numbers in measured.items() for at in range(len(next(iter(numbers.values()))))]
        names = [*dict.fromkeys([*(key.split()[1] for key in measured), *columns])]
        return {**MACHINE, "columns": {name: COLUMNS[name].title for name in names}, "missing": dict(missing),
                "measurements": measurements, "memory": list(memory)}

    return make
