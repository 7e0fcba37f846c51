"""A recording is replayed as it was recorded, where its snapshots tell when they were made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.demo.pace import LONGEST_S, OTHERWISE_S, Pace, time_of_json


def vehicles(*times: Any) -> list[dict[str, Any]]:
    return [{"id": str(number), "vehicle": {"timestamp": time}} for number, time in enumerate(times)]


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (vehicles("1760000400", "1760000460", "1760000430"), 1760000460.0),
        (vehicles(None, 1760000460.5, True, "soon", "-5"), 1760000460.5),
        ([{"id": "1"}, 7, {"vehicle": "none"}], None),
        ([], None),
        ({"header": {"timestamp": 1760000460}, "entity": []}, 1760000460.0),
        ({"status": "OK", "response": {"header": {"timestamp": 1463599858.26}}}, 1463599858.26),
        ({"header": {}}, None),
        ({"header": 5}, None),
        ({"response": None}, None),
        ("text", None),
        (vehicles("9" * 5_000), None),
    ],
)
def test_the_time_of_a_snapshot(value: Any, time: float | None):
    assert time_of_json(json.dumps(value).encode()) == time


def test_records_follow_each_other_as_they_were_recorded():
    pace = Pace()
    assert [pace.wait_s(time) for time in (1000.0, 1060.0, 1065.0)] == [OTHERWISE_S, 60.0, 5.0]


def test_a_snapshot_without_a_newer_time_comes_like_the_one_before():
    pace = Pace()
    assert [pace.wait_s(time) for time in (1000.0, 1030.0, 1030.0, None, 1090.0, 1120.0, 1000.0)] == [OTHERWISE_S, *[30.0] * 6]


def test_a_long_hole_in_a_recording_is_not_waited_for():
    pace = Pace()
    assert [pace.wait_s(time) for time in (1000.0, 99_000.0)] == [OTHERWISE_S, LONGEST_S]


def test_what_the_user_says_goes_before():
    pace = Pace(0.5)
    assert [pace.wait_s(time) for time in (1000.0, 1060.0)] == [0.5, 0.5]
