"""The session vectors against the client's core: what any client in any language does with tests/vectors/sessions_*.json."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distributary import Publication
from distributary._chain import Resubscribe, Whole
from distributary._core import Core, Ended, Joined, Skipped
from distributary._frames import Connected
from distributary.errors import ProtocolError
from distributary.publication import Gap
from shared.publication import CONTENT_TYPE_NAMES, ContentType, Position

VECTORS = Path(__file__).resolve().parents[2] / "vectors"


def load(format_name: str) -> list[Any]:
    cases = json.loads((VECTORS / f"sessions_{format_name}.json").read_text(encoding="utf-8"))["sessions"]
    return [pytest.param(format_name, case, id=f"{format_name}: {case['name']}") for case in cases]


class Player:
    """Plays one script: the driver's part, without sockets."""

    def __init__(self, format_name: str, bare: dict[str, Any] | None) -> None:
        self.format = format_name
        self.core = Core(format_name)
        self.sent: list[bytes] = []
        self.seen: list[Any] = []
        for channel in bare["channels"] if bare else []:
            self.core.add_bare(channel, delta=tuple(bare["delta"]) if bare else ())

    def play(self, step: dict[str, Any]) -> None:
        self.sent, self.seen = [], []
        match step["do"]:
            case "connect":
                self.sent.append(self.core.connect())
            case "lose":
                self.core.lost()
            case "subscribe":
                position = step.get("position")
                self.core.add(
                    step["channel"],
                    position=Position(**position) if position else None,
                    delta=tuple(step["delta"]),
                    rewind=step.get("rewind"),
                    delivery={name: step[name] for name in ("mode", "max_rate", "window") if name in step},
                )
                self.subscribe(step["channel"])
            case "unsubscribe":
                frame = self.core.remove(step["channel"])
                assert frame is not None
                self.sent.append(frame)
            case "ack":
                self.core.acknowledge(step["channel"], Position(step["epoch"], step["offset"]))
                if (frame := self.core.ack(step["channel"])) is not None:
                    self.sent.append(frame)
            case "receive":
                self.receive(step["text"].encode() if "text" in step else bytes.fromhex(step["hex"]))

    def subscribe(self, channel: str) -> None:
        self.sent += self.core.subscribe(channel)[1]

    def receive(self, frame: bytes) -> None:
        try:
            event = self.core.receive(frame)
        except ProtocolError:
            self.seen.append({"error": "protocol"})
            return
        match event:
            case Connected():
                for channel in self.core.channels:
                    self.subscribe(channel)
            case Resubscribe():
                self.subscribe(event.channel)
            case Publication():
                self.seen.append({"publication": publication(event)})
            case Joined(gap=Gap()):
                assert event.gap is not None
                self.seen.append({"gap": {"channel": event.channel, **gap(event.gap)}})
            case Whole():
                place = {"epoch": event.position.epoch, "offset": event.position.offset} if event.position else {}
                self.seen.append({"whole": {"channel": event.channel, **place, "starts_state": event.starts_state}})
            case Skipped():
                self.seen.append({"gap": {"channel": event.channel, **gap(event.gap)}})
            case Ended():
                self.seen.append({"ended": {"channel": event.channel, "code": event.error.code, "retry": event.error.retry}})

    def decoded(self) -> list[Any]:
        decode = msgspec.json.decode if self.format == "json" else msgspec.msgpack.decode
        return [decode(frame) for frame in self.sent]


def gap(told: Gap) -> dict[str, Any]:
    missed = told.missed
    return {"reason": told.reason, "missed": {"from": missed.first, "to": missed.last} if missed else None}


def publication(got: Publication) -> dict[str, Any]:
    seen = {
        "channel": got.channel,
        "epoch": got.position.epoch,
        "offset": got.position.offset,
        "time_ms": got.time_ms,
        "key": got.key,
        "content_type": CONTENT_TYPE_NAMES[got.content_type],
        "payload": got.payload.hex() if got.payload is not None else None,
        "is_delta": got.is_delta,
        "recovered": got.recovered,
        "gap": gap(got.gap) if got.gap else None,
    }
    if got.tags:
        seen["tags"] = got.tags
    if got.key is not None:
        seen["starts_state"] = got.starts_state
    if got.is_deleted:
        seen["deleted"] = got.data is None
    elif got.content_type is ContentType.BINARY:
        assert got.data == got.payload
    else:
        seen["data"] = got.data
    return seen


@pytest.mark.parametrize(("format_name", "case"), [*load("json"), *load("msgpack")])
def test_session(format_name: str, case: dict[str, Any]):
    player = Player(format_name, case.get("bare"))
    for number, step in enumerate(case["steps"]):
        player.play(step)
        where = f"step {number}: {step}"
        assert player.decoded() == step.get("sends", []), where
        assert player.seen == step.get("sees", []), where


def test_the_vectors_are_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = Path(__file__).resolve().parents[3] / "scripts" / "make_vectors.py"
    loaded = importlib.util.spec_from_file_location("make_vectors", path)
    assert loaded is not None
    assert loaded.loader is not None
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    monkeypatch.setattr(module, "VECTORS", tmp_path)
    module.main()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in VECTORS.glob("*.json"))
    for name in names:
        assert (tmp_path / name).read_bytes() == (VECTORS / name).read_bytes(), f"{name}: run scripts/make_vectors.py"
