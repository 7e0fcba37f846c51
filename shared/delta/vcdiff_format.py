"""The frame of a VCDIFF delta (RFC 3284, section 4): header and windows, checked before anything is decoded.

    delta  = D6 C3 C4 00, header indicator, [application header], window*
    window = indicator, [source length, source position], delta length,
             target length, delta indicator, lengths of 3 sections, [checksum],
             data section, instruction section, address section

Integers are big-endian in base 128; the high bit says that more follows.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.errors import DeltaError

MAGIC = b"\xd6\xc3\xc4\x00"
PLAIN_HEADER = MAGIC + b"\x00"
"""The header of every delta that Distributary writes: nothing optional in it."""

VCD_SECONDARY = 0x01
VCD_CODETABLE = 0x02
VCD_APPHEADER = 0x04
"""xdelta's extension of the header indicator: a length and as many bytes for the application."""

VCD_SOURCE = 0x01
VCD_TARGET = 0x02
VCD_ADLER32 = 0x04
"""xdelta's extension of the window indicator: 4 bytes of Adler-32 of the target window."""

_INTEGER_LIMIT = 1 << 56
"""No length or address reaches this; cutting off here keeps hostile integers from growing."""


class Window(NamedTuple):
    """Where the parts of one window lie: source segment in the base, sections in the delta (each ends where the next begins)."""

    source_position: int
    source_length: int
    target_length: int
    data: int
    instructions: int
    addresses: int
    end: int
    adler32: int | None


def read_integer(buffer: bytes, at: int) -> tuple[int, int]:
    """Read an integer at `at`; answer with it and the place behind it. Raises IndexError at the buffer's end, DeltaError if too large."""
    value = 0
    while True:
        byte = buffer[at]
        at += 1
        if byte < 0x80:
            return (value << 7) | byte, at
        value = (value << 7) | (byte & 0x7F)
        if value >= _INTEGER_LIMIT:
            msg = "damaged VCDIFF delta: an integer is too large"
            raise DeltaError(msg)


def write_integer(value: int) -> bytes:
    """Write a non-negative integer in as few bytes as it takes."""
    if value < 0x80:
        return bytes((value,))
    out = [value & 0x7F]
    value >>= 7
    while value:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.reverse()
    return bytes(out)


def scan(delta: bytes, base_size: int, max_size: int) -> list[Window]:
    """Find the windows of a delta without decoding any.

    After this no section reaches beyond the delta, no source segment beyond the base, and the target lengths add up
    to at most `max_size` bytes. Raises DeltaError otherwise, and for what no VCDIFF of Distributary uses: secondary
    compression, a custom code table, VCD_TARGET. An application header is skipped.
    """
    try:
        at = _skip_header(delta)
        end = len(delta)
        total = 0
        windows = []
        while at < end:
            window = _scan_window(delta, at, base_size)
            total += window.target_length
            if total > max_size:
                msg = f"a VCDIFF delta makes more than {max_size} bytes"
                raise DeltaError(msg)
            at = window.end
            windows.append(window)
    except IndexError:
        msg = "damaged VCDIFF delta: it ends within a header"
        raise DeltaError(msg) from None
    return windows


def _skip_header(delta: bytes) -> int:
    if delta.startswith(PLAIN_HEADER):
        return 5
    if not delta.startswith(MAGIC):
        msg = "not a VCDIFF delta of version 0: it does not begin with D6 C3 C4 00"
        raise DeltaError(msg)
    indicator = delta[4]
    if indicator & VCD_SECONDARY:
        msg = "a VCDIFF delta with secondary compression is not supported"
        raise DeltaError(msg)
    if indicator & VCD_CODETABLE:
        msg = "a VCDIFF delta with its own code table is not supported"
        raise DeltaError(msg)
    if indicator != VCD_APPHEADER:
        msg = f"damaged VCDIFF delta: unknown header indicator {indicator:#04x}"
        raise DeltaError(msg)
    length, at = read_integer(delta, 5)
    if at + length > len(delta):
        msg = "damaged VCDIFF delta: its application header is longer than the delta"
        raise DeltaError(msg)
    return at + length


def _scan_window(delta: bytes, at: int, base_size: int) -> Window:
    indicator = delta[at]
    at += 1
    if indicator & ~(VCD_SOURCE | VCD_ADLER32):
        raise DeltaError(_why_not_this_window(indicator))
    source_length = source_position = 0
    if indicator & VCD_SOURCE:
        source_length, at = read_integer(delta, at)
        source_position, at = read_integer(delta, at)
        if source_position + source_length > base_size:
            msg = f"a VCDIFF delta reads bytes {source_position} to {source_position + source_length} of a base of {base_size} bytes"
            raise DeltaError(msg)
    length, at = read_integer(delta, at)
    end = at + length
    target_length, at = read_integer(delta, at)
    if delta[at]:
        msg = "a VCDIFF delta with secondary compression is not supported"
        raise DeltaError(msg)
    data_length, at = read_integer(delta, at + 1)
    instructions_length, at = read_integer(delta, at)
    addresses_length, at = read_integer(delta, at)
    adler32 = None
    if indicator & VCD_ADLER32:
        adler32 = int.from_bytes(delta[at : at + 4])
        at += 4
    instructions = at + data_length
    addresses = instructions + instructions_length
    if addresses + addresses_length != end or end > len(delta):
        msg = "damaged VCDIFF delta: the lengths of a window's sections do not add up"
        raise DeltaError(msg)
    return Window(source_position, source_length, target_length, at, instructions, addresses, end, adler32)


def _why_not_this_window(indicator: int) -> str:
    if indicator & VCD_TARGET:
        return "a VCDIFF delta with VCD_TARGET windows is not supported"
    return f"damaged VCDIFF delta: unknown window indicator {indicator:#04x}"
