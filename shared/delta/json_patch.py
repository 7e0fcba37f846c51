"""JSON Patch (RFC 6902) as a delta codec: bytes in, bytes out.

Two conditions, for two uses. On the bus a patch must give the payload's exact bytes (`encode`). A client that asked
for JSON Patch needs only the payload's JSON value (`encode_value`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from shared.delta.json_apply import MAX_OPERATIONS, Operation, apply, apply_operations
from shared.delta.json_diff import diff
from shared.errors import DeltaError

__all__ = ["apply", "decode", "diff", "encode", "encode_value"]

# What msgspec raises for bytes that are not JSON, and for JSON that nests too deep.
_NOT_JSON = (msgspec.MsgspecError, UnicodeError, RecursionError)

_decode_operations = msgspec.json.Decoder(list[Operation]).decode


def encode(base: bytes, target: bytes) -> bytes | None:
    """Write `target` as a patch to `base` that gives its exact bytes, or answer None where no patch does.

    Exact means: `decode` gives `target`, byte for byte. That holds for compact JSON as msgspec writes it and for no
    other (white space, escapes or numbers in another form, keys twice). The patch may be larger than `target`.
    """
    patch = _patch(base, target, ordered=True)
    if patch is None:
        return None
    try:
        made = decode(base, patch, max_size=len(target))
    except DeltaError:
        return None
    return patch if made == target else None


def encode_value(base: bytes, target: bytes) -> bytes | None:
    """Write `target` as a patch to `base` that gives an equal JSON value, or answer None where one of them is not JSON.

    Equal but for the order of keys. The patch may be larger than `target`.
    """
    return _patch(base, target, ordered=False)


def decode(base: bytes, delta: bytes, *, max_size: int) -> bytes:
    """Apply the patch `delta` to `base` and write the result as compact JSON of at most `max_size` bytes.

    Raises DeltaError where the patch is damaged or too large or does not fit the base. Safe with hostile bytes.
    """
    try:
        operations = _decode_operations(delta)
        value = msgspec.json.decode(base)
    except _NOT_JSON as error:
        msg = f"malformed JSON Patch, or a base that is not JSON: {error}"
        raise DeltaError(msg) from None
    try:
        target = msgspec.json.encode(apply_operations(value, operations, max_size))
    except _NOT_JSON as error:
        msg = f"a JSON Patch makes a value that cannot be written: {error}"
        raise DeltaError(msg) from None
    if len(target) > max_size:
        msg = f"a JSON Patch makes {len(target)} bytes; {max_size} are the limit"
        raise DeltaError(msg)
    return target


def _patch(base: bytes, target: bytes, *, ordered: bool) -> bytes | None:
    try:
        old: Any = msgspec.json.decode(base)
        new: Any = msgspec.json.decode(target)
        operations = diff(old, new, ordered=ordered)
        return msgspec.json.encode(operations) if len(operations) <= MAX_OPERATIONS else None
    except _NOT_JSON:
        return None
