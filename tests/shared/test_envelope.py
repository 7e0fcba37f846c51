"""Envelopes of any content: what is written is read, and nothing else is."""

from __future__ import annotations

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from shared import envelope
from shared.envelope import MAX_KEY_BYTES, MAX_TAGS_BYTES, Envelope
from shared.errors import EnvelopeError
from shared.publication import EPOCH_BYTES, HASH_BYTES, ContentType, DeltaFormat, Kind

U64 = 2**64 - 1
some_tags = st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4).map(msgspec.json.encode)


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    """Any that a bridge and the bus may make."""
    kind, delta = draw(st.sampled_from(Kind)), draw(st.sampled_from(DeltaFormat))
    is_deletion = kind is Kind.KEYED and delta is DeltaFormat.NONE and draw(st.booleans())
    is_full = delta is DeltaFormat.NONE
    offset = draw(st.integers(1 if is_full else 2, U64))
    return Envelope(
        epoch=draw(st.binary(min_size=EPOCH_BYTES, max_size=EPOCH_BYTES)),
        offset=offset,
        base_offset=0 if is_full else draw(st.integers(1, offset - 1)),
        delta=delta,
        kind=kind,
        content_type=ContentType.NONE if is_deletion else draw(st.sampled_from([ContentType.JSON, ContentType.TEXT, ContentType.BINARY])),
        time_ms=draw(st.integers(-(2**63), 2**63 - 1)),
        payload_hash=draw(st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES)),
        base_hash=b"" if is_full else draw(st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES)),
        key=draw(st.binary(max_size=300)) if kind is Kind.KEYED else None,
        body=b"" if is_deletion else draw(st.binary(max_size=300)),
        tags=draw(st.one_of(st.just(b""), some_tags)),
    )


@given(envelopes())
def test_what_is_written_is_read(made: Envelope):
    assert envelope.decode(envelope.encode(made)) == made


def test_the_longest_key_and_tags_are_read():
    tags = b'{"t":"' + b"x" * (MAX_TAGS_BYTES - 8) + b'"}'
    key = bytes(MAX_KEY_BYTES)
    made = Envelope(bytes(12), 1, 0, DeltaFormat.NONE, Kind.KEYED, ContentType.JSON, 0, bytes(8), b"", key, b"1", tags)
    assert envelope.decode(envelope.encode(made)) == made


@given(envelopes(), st.integers(0, 80), st.integers(1, 255))
def test_what_is_read_of_damaged_bytes_is_what_they_say(made: Envelope, at: int, change: int):
    """One byte differs: refused, or another envelope that is written exactly so."""
    data = bytearray(envelope.encode(made))
    data[at % len(data)] ^= change
    check(bytes(data))


@given(envelopes(), st.integers(0, 400))
def test_an_envelope_that_is_cut_is_refused_or_has_less_of_a_body(made: Envelope, size: int):
    data = envelope.encode(made)[:size]
    check(data)


@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes_are_refused_or_what_they_say(data: bytes):
    check(b"\x01" + data)


def check(data: bytes) -> None:
    try:
        found = envelope.decode(data)
    except EnvelopeError:
        return
    assert envelope.encode(found) == data
    assert (found.key is None) == (found.kind is not Kind.KEYED)
    assert not (found.is_deletion and found.body)
    assert not found.tags or all(isinstance(value, str) for value in msgspec.json.decode(found.tags).values())
