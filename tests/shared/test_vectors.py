"""The vectors of tests/vectors against what bridge, edge and clients share. They were made by hand, without this code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared import envelope
from shared.channel import check_channel, namespace_of, shard_of
from shared.delta import json_patch, vcdiff, vcdiff_decode
from shared.envelope import Envelope
from shared.errors import ChannelError, DeltaError, EnvelopeError
from shared.publication import ContentType, DeltaFormat, Kind

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
MAX_SIZE = 1_048_576
DECODERS = pytest.mark.parametrize("decode", [vcdiff.decode, vcdiff_decode.decode], ids=["engine", "python"])


def load(name: str, part: str) -> list[Any]:
    cases = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))[part]
    return [pytest.param(case, id=case["name"][:40] if isinstance(case, dict) else repr(case)[:40]) for case in cases]


@pytest.mark.parametrize("case", load("channels", "valid"))
def test_a_channel_name_is_accepted_and_placed(case: dict[str, Any]):
    name = case["name"]
    assert check_channel(name) == name
    assert namespace_of(name) == case["namespace"]
    assert shard_of(name, 65_536) == case["crc16"]
    for shards, shard in case["shards"].items():
        assert shard_of(name, int(shards)) == shard


@pytest.mark.parametrize("name", load("channels", "invalid"))
def test_what_is_no_channel_name_is_refused(name: str):
    with pytest.raises(ChannelError):
        check_channel(name)


def envelope_of(fields: dict[str, Any]) -> Envelope:
    return Envelope(
        epoch=bytes.fromhex(fields["epoch"]),
        offset=fields["offset"],
        base_offset=fields["base"],
        delta=DeltaFormat(fields["delta"]),
        kind=Kind(fields["kind"]),
        content_type=ContentType(fields["content_type"]),
        time_ms=envelope.NO_TIME if fields["time_ms"] is None else fields["time_ms"],
        payload_hash=bytes.fromhex(fields["payload_hash"]),
        base_hash=bytes.fromhex(fields["base_hash"]),
        key=None if fields["key"] is None else bytes.fromhex(fields["key"]),
        body=bytes.fromhex(fields["body"]),
        tags=fields["tags"].encode(),
    )


@pytest.mark.parametrize("case", load("envelopes", "valid"))
def test_an_envelope_is_read_and_written(case: dict[str, Any]):
    expected = envelope_of(case["fields"])
    assert envelope.decode(bytes.fromhex(case["bytes"])) == expected
    assert envelope.encode(expected).hex() == case["bytes"]
    assert envelope.epoch_to_text(expected.epoch) == case["fields"]["epoch_text"]


@pytest.mark.parametrize("case", load("envelopes", "invalid"))
def test_bytes_that_are_no_envelope_are_refused(case: dict[str, Any]):
    with pytest.raises(EnvelopeError):
        envelope.decode(bytes.fromhex(case["bytes"]))


@DECODERS
@pytest.mark.parametrize("case", load("vcdiff", "valid"))
def test_a_vcdiff_delta_applies(decode: Any, case: dict[str, Any]):
    assert decode(bytes.fromhex(case["base"]), bytes.fromhex(case["delta"]), max_size=MAX_SIZE).hex() == case["target"]


@DECODERS
@pytest.mark.parametrize("case", load("vcdiff", "invalid"))
def test_a_bad_vcdiff_delta_is_refused(decode: Any, case: dict[str, Any]):
    with pytest.raises(DeltaError):
        decode(bytes.fromhex(case["base"]), bytes.fromhex(case["delta"]), max_size=MAX_SIZE)


@DECODERS
def test_a_vcdiff_delta_that_makes_too_much_is_refused(decode: Any):
    case = json.loads((VECTORS / "vcdiff.json").read_text(encoding="utf-8"))["too_large"]
    base, delta = bytes.fromhex(case["base"]), bytes.fromhex(case["delta"])
    with pytest.raises(DeltaError):
        decode(base, delta, max_size=case["max_size"])
    assert len(decode(base, delta, max_size=case["max_size"] + 1)) == case["max_size"] + 1


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("case", load("json_patch", "valid"))
def test_a_json_patch_applies(case: dict[str, Any]):
    made = json.loads(json_patch.decode(text(case["base"]), text(case["patch"]), max_size=MAX_SIZE))
    # By text: Python's == takes true for 1.
    assert json.dumps(made, sort_keys=True) == json.dumps(case["target"], sort_keys=True)


@pytest.mark.parametrize("case", load("json_patch", "invalid"))
def test_a_bad_json_patch_is_refused(case: dict[str, Any]):
    with pytest.raises(DeltaError):
        json_patch.decode(text(case["base"]), text(case["patch"]), max_size=MAX_SIZE)
