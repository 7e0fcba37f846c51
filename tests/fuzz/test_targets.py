"""A short, repeatable turn of each fuzz target. `python -m tests.fuzz.run` goes on for as long as one likes."""

from __future__ import annotations

import pytest

from tests.fuzz.run import fuzz_plainly
from tests.fuzz.targets import TARGETS

RUNS = 400


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_from_outside_is_more_than_a_clear_error(name: str) -> None:
    run, seeds = TARGETS[name]
    for seed in seeds:
        run(seed)
    assert fuzz_plainly(run, seeds, RUNS, seconds=60) == RUNS
