from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.delta.vcdiff_format import Window, read_integer, scan, write_integer
from shared.errors import DeltaError

HEADER = b"\xd6\xc3\xc4\x00\x00"


def test_the_integer_of_rfc_3284_section_2():
    assert write_integer(123456789) == bytes((0b10111010, 0b11101111, 0b10011010, 0b00010101))
    assert read_integer(b"x\xba\xef\x9a\x15y", 1) == (123456789, 5)


@given(st.integers(0, 2**56))
def test_integers_round_trip(value: int):
    text = write_integer(value)
    assert read_integer(text, 0) == (value, len(text))


def test_an_integer_without_end_is_cut_off():
    with pytest.raises(DeltaError, match="too large"):
        read_integer(b"\xff" * 1_000_000, 0)


def test_a_window_is_found():
    delta = HEADER + bytes((1, 4, 2, 11, 9, 0, 3, 2, 1)) + b"abc" + b"\x04\x16" + b"\x00"
    assert scan(delta, 6, 9) == [Window(2, 4, 9, 14, 17, 19, 20, None)]


def test_an_application_header_is_skipped():
    window = bytes((0, 5, 0, 0, 0, 0, 0))
    assert scan(b"\xd6\xc3\xc4\x00\x04\x03abc" + window, 0, 0) == [Window(0, 0, 0, 16, 16, 16, 16, None)]


@pytest.mark.parametrize(
    ("delta", "why"),
    [
        (b"", "not a VCDIFF"),
        (b"\xd6\xc3\xc4", "not a VCDIFF"),
        (b'{"a":1}', "not a VCDIFF"),
        (b"\xd6\xc3\xc4\x01\x00", "version 0"),
        (b"\xd6\xc3\xc4\x00", "ends within"),
        (b"\xd6\xc3\xc4\x00\x01\x01", "secondary compression"),
        (b"\xd6\xc3\xc4\x00\x02", "code table"),
        (b"\xd6\xc3\xc4\x00\x08", "header indicator"),
        (b"\xd6\xc3\xc4\x00\x04\x09ab", "application header"),
        (HEADER + bytes((2, 1, 0, 5, 0, 0, 0, 0, 0)), "VCD_TARGET"),
        (HEADER + bytes((8, 5, 0, 0, 0, 0, 0)), "window indicator"),
        (HEADER + bytes((0, 5, 0, 1, 0, 0, 0)), "secondary compression"),
        (HEADER + bytes((0, 5, 11, 0, 0, 0, 0)), "more than 10 bytes"),
        (HEADER + bytes((1, 7, 4, 5, 0, 0, 0, 0, 0)), "a base of 10 bytes"),
        (HEADER + bytes((0, 5, 0, 0, 1, 0, 0)), "do not add up"),
        (HEADER + bytes((0, 6, 0, 0, 1, 0, 0)), "do not add up"),
        (HEADER + bytes((0, 5, 0)), "ends within"),
    ],
)
def test_what_cannot_be_read_is_refused(delta: bytes, why: str):
    with pytest.raises(DeltaError, match=why):
        scan(delta, 10, 10)


def test_the_sizes_of_all_windows_count_together():
    window = bytes((0, 8, 6, 0, 1, 2, 0)) + b"a" + b"\x00\x06"
    assert len(scan(HEADER + window * 2, 0, 12)) == 2
    with pytest.raises(DeltaError, match="more than 11 bytes"):
        scan(HEADER + window * 2, 0, 11)
