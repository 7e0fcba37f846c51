"""CloudEvents 1.0 over Kafka, in both of its modes. The value is the event: its attributes and `data`.

Structured: the record's value is the event as JSON, with a header `content-type: application/cloudevents+json`. Binary: the attributes
are headers `ce_NAME`, the content type of the data is the header `content-type`, and the record's value is the data. (CloudEvents
Kafka protocol binding, section 3.)
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from bridge.core.decoding import DecodeError, Decoder
from bridge.core.record import Record
from bridge.formats.plain import decode_json, decode_text

_STRUCTURED = "application/cloudevents"
_REQUIRED = ("specversion", "id", "source", "type")


def _decode(data: bytes, record: Record) -> Any:
    headers = {name.lower(): value for name, value in record.headers}
    content_type = _text("content-type", headers.get("content-type"))
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.startswith(_STRUCTURED):
        return _structured(data, record, media_type)
    if "ce_specversion" in headers:
        return _binary(data, record, headers, content_type)
    if data[:1] == b"{":  # As some producers send it: structured, without the header.
        return _structured(data, record, f"{_STRUCTURED}+json")
    msg = (
        "the record is no CloudEvent: it has neither headers ce_specversion, ce_id, ... nor a content-type of application/cloudevents+json"
    )
    raise DecodeError(msg)


def _structured(data: bytes, record: Record, media_type: str) -> dict[str, Any]:
    if media_type not in {_STRUCTURED, f"{_STRUCTURED}+json"}:
        msg = f"the record is a CloudEvent as {media_type}, which is not supported; application/cloudevents+json is"
        raise DecodeError(msg)
    event = decode_json(data, record)
    if not isinstance(event, dict):
        msg = "the value is no CloudEvent: it is JSON, but no object"
        raise DecodeError(msg)
    _check(event, "the value")
    return event


def _binary(data: bytes, record: Record, headers: dict[str, bytes | None], content_type: str) -> dict[str, Any]:
    event: dict[str, Any] = {
        name[3:]: _text(name, value) for name, value in headers.items() if name.startswith("ce_") and value is not None
    }
    _check(event, "the record's ce_ headers")
    if content_type:
        event["datacontenttype"] = content_type
    media_type = content_type.partition(";")[0].strip().lower()
    if not data:
        return event
    if media_type.endswith(("/json", "+json")):
        event["data"] = decode_json(data, record)
    elif media_type.startswith("text/"):
        event["data"] = decode_text(data, record)
    else:
        event["data_base64"] = b64encode(data).decode()
    return event


def _check(event: dict[str, Any], what: str) -> None:
    missing = [name for name in _REQUIRED if not isinstance(event.get(name), str) or not event[name]]
    if missing:
        msg = f"{what} make no CloudEvent: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing or no text"
        raise DecodeError(msg)
    if not event["specversion"].startswith("1."):
        msg = f"{what} make a CloudEvent of version {event['specversion'][:20]}; versions 1.x are supported"
        raise DecodeError(msg)


def _text(name: str, value: bytes | None) -> str:
    try:
        return (value or b"").decode()
    except UnicodeDecodeError as error:
        msg = f"the record's header {name[:60]} is not UTF-8 text"
        raise DecodeError(msg) from error


CLOUD_EVENTS = Decoder("cloudevents", _decode, is_text=True)
