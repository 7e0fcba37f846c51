from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from shared.telemetry import Log, LogFormat, Throttle, configure


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], level = before
    root.setLevel(level)


def test_text_is_a_line_with_fields(output: io.StringIO):
    configure(LogFormat.TEXT, "info", output)
    Log("bridge.x").info("done", records=3, ratio=0.5, reason="a b", empty="")
    [line] = output.getvalue().splitlines()
    assert line.endswith('INFO    bridge.x: done records=3 ratio=0.5 reason="a b" empty=""')


def test_json_is_an_object_a_line(output: io.StringIO):
    configure(LogFormat.JSON, "info", output)
    Log("bridge.x").warning("odd", records=3, where=frozenset({1}))
    event = json.loads(output.getvalue())
    assert (event["level"], event["logger"], event["message"], event["records"]) == ("warning", "bridge.x", "odd", 3)
    assert event["time"].endswith("Z")


@pytest.mark.parametrize("log_format", LogFormat)
def test_data_cannot_forge_a_line(output: io.StringIO, log_format: LogFormat):
    configure(log_format, "info", output)
    Log("bridge").info("a\nb", reason="x\n2026 ERROR forged\r\x1b[31m")
    assert len(output.getvalue().splitlines()) == 1
    assert "\x1b" not in output.getvalue()


@pytest.mark.parametrize("log_format", LogFormat)
def test_an_exception_brings_its_traceback(output: io.StringIO, log_format: LogFormat):
    configure(log_format, "info", output)
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        Log("bridge").exception("a fault")
    assert "Traceback" in output.getvalue()


def test_what_is_below_the_level_is_not_told(output: io.StringIO):
    configure(LogFormat.TEXT, "warning", output)
    Log("bridge").info("nothing")
    Log("bridge").debug("nothing")
    assert output.getvalue() == ""


def test_a_throttle_lets_one_through_in_each_interval_and_counts_the_rest():
    now = [0.0]
    throttle = Throttle(10, clock=lambda: now[0])
    assert [throttle.admit("a") for _ in range(3)] == [0, None, None]
    assert throttle.admit("b") == 0
    now[0] = 10
    assert throttle.admit("a") == 2
    assert throttle.admit("a") is None
