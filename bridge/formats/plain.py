"""Formats that need no schema: json, string and raw."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec

from bridge.core.decoding import DecodeError, Decoder
from bridge.core.record import Record
from shared.publication import ContentType

_decode = msgspec.json.Decoder().decode


def decode_json(data: bytes, _record: Record | None = None) -> Any:
    """JSON in UTF-8. Of an object that has a name twice, the last one is taken."""
    try:
        return _decode(data)
    except UnicodeDecodeError as error:
        # Its `start` counts from the beginning of a string inside the JSON, so look for the place in the whole value.
        raise DecodeError(_not_utf8(data, error)) from error
    except RecursionError:
        msg = "the value is JSON nested too deeply to be read"
    except (msgspec.MsgspecError, ValueError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        if not data.strip():
            reason = "it is empty"
        msg = f"the value is not JSON: {reason}; correct the producer, or read this topic with format `string` or `raw`"
    raise DecodeError(msg)


def decode_text(data: bytes, _record: Record) -> str:
    """UTF-8 text."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(_not_utf8(data, error)) from error


def _not_utf8(data: bytes, error: UnicodeDecodeError) -> str:
    position = error.start
    try:
        data.decode()
    except UnicodeDecodeError as whole:
        position = whole.start
    return f"the value is not UTF-8 text (byte {position}); correct the producer, or read this topic with format `raw`"


def _decode_nothing(_data: bytes, _record: Record) -> None:
    """Raw bytes are null to expressions."""


def _decode_base64(data: bytes, _record: Record) -> str:
    return b64encode(data).decode()


JSON = Decoder("json", decode_json, ContentType.JSON, is_text=True)
STRING = Decoder("string", decode_text, ContentType.TEXT, is_text=True)
RAW = Decoder("raw", _decode_nothing, ContentType.BINARY, has_value=False)
RAW_KEY = Decoder("raw", _decode_base64)
"""A key of any bytes: base64, because a key is there to be seen."""
