from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.rules.units import format_duration, format_size, parse_duration_ms, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [(5, 5), ("5B", 5), ("64KB", 64_000), ("64KiB", 65_536), ("1 MiB", 1_048_576), ("2MB", 2_000_000), ("1GiB", 2**30)]
)
def test_sizes(text: object, size: int):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["5", "1.5MiB", "-1KB", "1kb", "1mib", "MiB", "", "1 M", None, True, 1.5, [], "1MiB ", "٣KB"])
def test_what_is_no_size(text: object):
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "duration_ms"), [(0, 0), ("500ms", 500), ("10s", 10_000), ("10m", 600_000), ("24h", 86_400_000), ("2d", 172_800_000)]
)
def test_durations(text: object, duration_ms: int):
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize("text", ["10", 10, "1.5h", "-1s", "1H", "h", "", "1h30m", None, True, 1.5, "10 minutes"])
def test_what_is_no_duration(text: object):
    with pytest.raises(ValueError, match="unit"):
        parse_duration_ms(text)


@given(st.integers(0, 10**14))
def test_what_is_written_is_read_again(number: int):
    assert parse_size(format_size(number)) == number
    assert parse_duration_ms(format_duration(number)) == number
