"""VCDIFF (RFC 3284) between any bytes: the public face of both engines.

xdelta3's compiled engine does the work where it is installed (extra `xdelta`), else pure Python. Both write the
default code table, without checksum, application header, secondary compression or VCD_TARGET, so that every decoder
reads it, and both read what the other writes.
"""

from __future__ import annotations

from types import ModuleType

from shared.delta import vcdiff_decode, vcdiff_encode
from shared.delta.vcdiff_format import scan
from shared.errors import DeltaError


def _load_engine() -> ModuleType | None:
    try:
        from shared.delta import xdelta  # noqa: PLC0415 - whether it can be imported is the question
    except ImportError:
        return None
    return xdelta


_xdelta = _load_engine()


def engine() -> str:
    """Which engine is in use: "xdelta3" (compiled) or "python"."""
    return "python" if _xdelta is None else "xdelta3"


def encode(base: bytes, target: bytes) -> bytes:
    """Write `target` as a delta to `base`.

    Always a delta that makes exactly `target`, but not always a short one: where the two have nothing in common it is
    a few bytes longer than `target`. So compare sizes before sending it.
    """
    if _xdelta is None:
        return vcdiff_encode.encode(base, target)
    if not target:
        return vcdiff_encode.encode_plain(target)
    delta: bytes | None = _xdelta.encode(base, target)
    return vcdiff_encode.encode_plain(target) if delta is None else delta


def decode(base: bytes, delta: bytes, *, max_size: int) -> bytes:
    """Apply `delta` to `base`; the result has at most `max_size` bytes.

    Raises DeltaError where the delta is damaged, reads outside the base or makes more than `max_size` bytes. Safe with
    hostile bytes: sizes are checked first, memory stays within a small multiple of `max_size` and time is linear.
    It cannot tell that a delta was made for another base of the same length: compare hashes for that.
    """
    if _xdelta is None:
        return vcdiff_decode.decode(base, delta, max_size=max_size)
    windows = scan(delta, len(base), max_size)
    try:
        target: bytes = _xdelta.decode(base, delta, sum([window.target_length for window in windows]))
    except DeltaError:
        # xdelta3 does not say why it refuses a delta, and it refuses valid ones with a window of more than 64 MiB.
        return vcdiff_decode.decode(base, delta, max_size=max_size)
    return target
