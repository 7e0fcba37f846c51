"""Values that delta codecs meet: bases and targets that are close, and JSON of any shape."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# Few different bytes make matches, runs and near misses; all bytes make none.
_pieces = st.one_of(
    st.binary(max_size=12),
    st.text("ab", max_size=40).map(str.encode),
    st.sampled_from([b"\x00" * 30, b'{"id":"1430","lat":41.76}', b"z" * 9, bytes(range(256))]),
)
anything = st.lists(_pieces, max_size=12).map(b"".join)


@st.composite
def close_pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A base, and a target that is the base after some edits."""
    base = draw(anything)
    target = bytearray(base)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(target)))
        target[start : start + draw(st.integers(0, 20))] = draw(_pieces)
    return base, bytes(target * draw(st.sampled_from([1, 1, 1, 2, 3])))


keys = st.one_of(st.sampled_from(["a", "b", "id", "", "~", "/", "~1", "a/b", "0", "-"]), st.text(max_size=3))
# Few different scalars, so that equal ones of different types (1, 1.0, true) meet.
scalars = st.one_of(
    st.sampled_from([None, True, False, 0, 1, 0.0, 1.0, -0.0, "", "1", 2**64, 1e22]),
    st.integers(-3, 3),
    st.floats(-2, 2),
    st.text(max_size=3),
)


def _grow(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(children, max_size=5), st.dictionaries(keys, children, max_size=5))


json_values = st.recursive(scalars, _grow, max_leaves=20)
