from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.core.decoding import DecodeError
from bridge.formats.cloud_events import CLOUD_EVENTS
from tests.bridge.formats.helpers import record

EVENT = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "paid", "data": {"total": 9}}
CE = (("ce_specversion", b"1.0"), ("ce_id", b"7"), ("ce_source", b"/shop"), ("ce_type", b"paid"))


def decoded(value: bytes, *headers: tuple[str, bytes | None]) -> Any:
    return CLOUD_EVENTS.decode(value, record(value, *headers))


@pytest.mark.parametrize(
    "headers",
    [(("content-type", b"application/cloudevents+json; charset=UTF-8"),), (("Content-Type", b"application/cloudevents"),), ()],
)
def test_structured_the_value_is_the_event(headers: tuple[tuple[str, bytes], ...]):
    assert decoded(json.dumps(EVENT).encode(), *headers) == EVENT


@pytest.mark.parametrize(
    ("content_type", "value", "seen"),
    [
        (b"application/json", b'{"total": 9}', {"data": {"total": 9}}),
        (b"application/vnd.shop+json; charset=utf-8", b"[1]", {"data": [1]}),
        (b"text/plain", "Zürich".encode(), {"data": "Zürich"}),
        (b"application/octet-stream", b"\0\xff", {"data_base64": "AP8="}),
        (b"application/json", b"", {}),
    ],
)
def test_binary_the_headers_are_the_attributes_and_the_value_the_data(content_type: bytes, value: bytes, seen: dict[str, Any]):
    found = decoded(value, *CE, ("ce_tenant", b"t\xc3\xa4"), ("content-type", content_type), ("other", b"\xff"))
    attributes = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "paid", "tenant": "tä"}
    assert found == {**attributes, "datacontenttype": content_type.decode(), **seen}


def test_binary_without_a_content_type_is_bytes():
    assert decoded(b"x", *CE)["data_base64"] == "eA=="


@pytest.mark.parametrize(
    ("value", "headers", "why"),
    [
        (b"x", (), "neither headers ce_specversion"),
        (b"{}", (), "specversion, id, source, type are missing"),
        (b"[]", (("content-type", b"application/cloudevents+json"),), "no object"),
        (b"{", (("content-type", b"application/cloudevents+json"),), "is not JSON"),
        (b"[]", (("content-type", b"application/cloudevents-batch+json"),), "cloudevents-batch.json, which is not supported"),
        (b"x", CE[:3], "type is missing"),
        (b"x", (("ce_specversion", b"0.3"), *CE[1:]), "version 0.3"),
        (b"x", (*CE, ("ce_subject", b"\xff")), "header ce_subject is not UTF-8"),
        (b"x", (*CE, ("content-type", b"\xff")), "header content-type is not UTF-8"),
        (b"{", (*CE, ("content-type", b"application/json")), "is not JSON"),
        (b"\xff", (*CE, ("content-type", b"text/plain")), "is not UTF-8"),
        (b'{"specversion": 1, "id": "", "source": "x", "type": "y"}', (), "specversion, id are missing or no text"),
    ],
)
def test_what_is_no_event_is_a_problem(value: bytes, headers: tuple[tuple[str, bytes], ...], why: str):
    with pytest.raises(DecodeError, match=why):
        decoded(value, *headers)
