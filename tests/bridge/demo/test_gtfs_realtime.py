from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bridge.cli import main
from bridge.core.record import Record
from bridge.core.routing import Routed, Router
from bridge.demo import gtfs_realtime
from bridge.demo.replay import Recording, Replay
from bridge.demo.simulation import START_S, TICK_S, Simulation
from bridge.rules.load import load_rules
from shared.errors import ConfigurationError

EXAMPLE = Path(__file__).parents[3] / "examples" / "gtfs-realtime.yaml"
CITY = Simulation(1, 20)


@pytest.fixture
def routed() -> Routed:
    router = Router(load_rules(EXAMPLE))
    value = gtfs_realtime.feed_message(CITY.snapshot(3), 3)
    return router.route(Record(gtfs_realtime.TOPIC, 0, 0, 1, None, value))


def test_the_demos_rules_are_the_example():
    assert gtfs_realtime.RULES.read_bytes() == EXAMPLE.read_bytes()


def test_the_simulated_city_goes_through_the_example_rules(routed: Routed):
    assert routed.problems == []
    by_channel = {draft.channel: json.loads(draft.payload) for draft in routed.drafts}
    entity = CITY.snapshot(3)[7]
    name, moved = entity["id"], entity["vehicle"]
    assert by_channel[f"position:{name}"] == {
        "id": name,
        # Of two texts of eight digits for one 32-bit float, either will do.
        "lat": pytest.approx(moved["position"]["latitude"], rel=1e-7),
        "long": pytest.approx(moved["position"]["longitude"], rel=1e-7),
        "bearing": None,
        "at": int(moved["timestamp"]),
    }
    assert by_channel[f"vehicle:{name}"]["trip"]["trip_id"] == moved["trip"]["tripId"]
    trip = by_channel[f"trip:20251009/{moved['trip']['tripId']}"]
    assert [stop["stop_id"] for stop in trip["stop_time_update"]] == [f"{moved['trip']['routeId']}-{ahead}" for ahead in (1, 2, 3)]
    assert len(by_channel["feed"]) == 40
    assert len(routed.drafts) == 1 + 3 * 20


def test_a_message_tells_when_it_was_made():
    first, second = (gtfs_realtime.time_of(gtfs_realtime.feed_message([], tick)) for tick in (0, 1))
    assert (first, second) == (START_S, START_S + TICK_S)


def test_a_feed_without_entities_is_no_problem():
    value = gtfs_realtime.feed_message([], 0)
    routed = Router(load_rules(EXAMPLE)).route(Record(gtfs_realtime.TOPIC, 0, 0, 1, None, value))
    assert routed.problems == []
    assert [(draft.channel, draft.payload) for draft in routed.drafts] == [("feed", b"[]")]


def test_forecasts_hold_for_a_minute():
    def trips(tick: int) -> dict[str, bytes]:
        value = gtfs_realtime.feed_message(CITY.snapshot(0), tick)
        routed = Router(load_rules(EXAMPLE)).route(Record(gtfs_realtime.TOPIC, 0, 0, 1, None, value))
        return {draft.channel: draft.payload for draft in routed.drafts if draft.route == "trip"}

    same = sum(trips(1)[name] == payload for name, payload in trips(0).items())
    assert same in {18, 19}  # Each vehicle at a moment of its own.


def test_recordings_are_replayed_as_they_are(tmp_path: Path):
    data = gtfs_realtime.feed_message(CITY.snapshot(0), 0)
    (tmp_path / "a.pb").write_bytes(data)
    (tmp_path / "b.pb.gz").write_bytes(gzip.compress(data))
    recording = Recording(gtfs_realtime.SUFFIXES, gtfs_realtime.checked)
    assert list(Replay([tmp_path], recording=recording).records()) == [data, data]
    (tmp_path / "c.pb").write_bytes(b"{}")
    with pytest.raises(ConfigurationError, match=r"c.pb: is no GTFS-realtime FeedMessage"):
        Replay([tmp_path], recording=recording)


def test_a_recorded_feed_is_tried_byte_for_byte(tmp_path: Path):
    # A message that ends in what could be a line's end.
    value = gtfs_realtime.feed_message(CITY.snapshot(0), 0) + b"\x1a\x02\x08\x0a"
    (tmp_path / "feed.pb").write_bytes(value)
    result = CliRunner().invoke(main, ["try", str(EXAMPLE), "--input", str(tmp_path / "feed.pb"), "--json"])
    assert result.exit_code == 0, result.output
    routes = {route["route"]: route["publications"] for route in json.loads(result.stdout)["routes"]}
    assert routes == {"feed": 1, "vehicle": 20, "position": 20, "trip": 20, "alert": 0}
    result = CliRunner().invoke(main, ["try", str(EXAMPLE), "--input", str(tmp_path / "feed.pb"), "--lines"])
    assert result.exit_code == 2
    assert "not text" in result.output
