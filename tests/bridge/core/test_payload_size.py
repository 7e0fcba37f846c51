from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.payload_size import Measure, TooLargeError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_the_size_is_that_of_what_is_written(value: object):
    size = len(msgspec.json.encode(value))
    measure = Measure(size)
    measure.add(value)
    assert measure.total == size
    with pytest.raises(TooLargeError):
        Measure(size - 1).add(value)


def test_what_comes_many_times_is_looked_at_once():
    value: list[object] = ["x"]
    for _ in range(60):
        value = [value, value]
    measure = Measure(2**70)
    measure.add(value)
    assert measure.total == 2**60 * len('["x"]') + (2**60 - 1) * len("[,]")
