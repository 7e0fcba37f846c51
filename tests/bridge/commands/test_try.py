from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bridge.cli import main
from bridge.commands import try_ as module

EXAMPLE = Path(__file__).parents[3] / "examples" / "rules" / "vehicles.yaml"


def entity(name: str, latitude: float = 41.5) -> dict[str, Any]:
    position = {"latitude": latitude, "longitude": -72.5}
    return {"id": name, "vehicle": {"trip": {"tripId": "1268272", "startDate": "20260101", "routeId": "11403"}, "position": position}}


def snapshot(folder: Path, name: str, *entities: Any) -> str:
    path = folder / name
    data = json.dumps(list(entities), indent=1).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def rules(folder: Path, text: str) -> str:
    path = folder / "rules.yaml"
    path.write_text("version: 1\n" + text)
    return str(path)


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["try", *arguments], input=stdin)


def told_by(result: Result) -> str:
    """What stderr says, without the box around it."""
    return " ".join(result.stderr.replace("│", " ").split())


def report(*arguments: str, stdin: bytes | None = None) -> dict[str, Any]:
    result = run(*arguments, "--json", stdin=stdin)
    assert result.exit_code in {0, 1}, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_each_file_is_a_record_and_channels_sizes_and_savings_are_shown(tmp_path: Path):
    first = snapshot(tmp_path, "1.json", entity("1430"), entity("1431"))
    second = snapshot(tmp_path, "2.json.gz", entity("1430", 41.25), entity("1431"))
    result = run(str(EXAMPLE), "--input", first, "--input", second)
    assert result.exit_code == 0
    for text in (
        "publications",
        "as vcdiff",
        "as json-patch",
        "bus:1430 (2)",
        'position:1430 (2)  {"id":"1430","lat":41.25,"long":-72.5}',
        "%) *",
    ):
        assert text in result.stdout
    made = {route["route"]: route for route in report(str(EXAMPLE), "--input", first, "--input", second)["routes"]}
    assert {name: (route["publications"], route["unchanged"], route["channels"]) for name, route in made.items()} == {
        "feed": (2, 0, 1),
        "bus": (3, 1, 2),
        "position": (3, 1, 2),
    }
    assert made["bus"]["bytes_vcdiff"] < made["bus"]["bytes_full"]


def test_what_ids_and_versions_refuse_is_told(tmp_path: Path):
    path = rules(tmp_path, "sources: [{name: s, topics: [t]}]\nroutes: [{name: r, channel: c, id: item.i, version: item.v}]\n")
    result = run(path, "--input", "-", "--lines", stdin=b'{"i":1,"v":1}\n{"i":1,"v":2}\n{"i":2,"v":1}\n')
    assert "route r: 1 item repeated by `id`, 1 not newer by `version`" in result.stdout


def test_channels_that_are_not_shown_are_counted(tmp_path: Path):
    snap = snapshot(tmp_path, "1.json", entity("1430"), entity("1431"), entity("1432"))
    assert "  and 2 more (--show, --channel)\n" in run(str(EXAMPLE), "--input", snap, "--show", "1").stdout
    assert "more (" not in run(str(EXAMPLE), "--input", snap, "--show", "3").stdout
    assert "more (" not in run(str(EXAMPLE), "--input", snap, "--show", "1", "--channel", "*:1431").stdout


def test_every_option_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [snapshot(tmp_path, f"{number}.json", entity(str(number))) for number in range(2)]
    settings = {
        "RULES": str(EXAMPLE),
        "INPUT": os.pathsep.join(paths),
        "LINES": "0",
        "SHOW": "1",
        "CHANNEL": "bus:*",
        "JSON": "1",
        "SOURCE": "vehicles",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"BRIDGE_{name}", value)
    result = CliRunner().invoke(main, ["try"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["records"] == 2
    assert [shown["channel"] for route in made["routes"] for shown in route["shown"]] == ["bus:0"]


def test_each_line_can_be_a_record(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps([entity(str(number))]) + "\n" for number in range(3)) + "\n\n")
    assert report(str(EXAMPLE), "--input", str(path), "--lines")["records"] == 3


def test_standard_input_is_an_input():
    assert report(str(EXAMPLE), "--input", "-", "--lines", stdin=b"[]\n[]\n")["records"] == 2


def test_problems_are_told_with_the_rest_and_make_the_exit_code_1(tmp_path: Path):
    (tmp_path / "bad.json").write_text("{")
    result = run(str(EXAMPLE), "-i", snapshot(tmp_path, "1.json", entity("1"), entity("a:b")), "-i", str(tmp_path / "bad.json"))
    assert result.exit_code == 1
    assert "bus:1 (1)" in result.stdout
    assert "5 problems:" in result.stdout
    assert "vehicles[0]@0: route bus: item 1: {item.id} gave the text \"a:b\", which contains ':'" in result.stdout
    assert "vehicles[0]@1: route feed: the value is not JSON" in result.stdout


def test_channels_can_be_narrowed(tmp_path: Path):
    path = snapshot(tmp_path, "1.json", entity("1"), entity("2"))
    made = report(str(EXAMPLE), "-i", path, "--channel", "position:2", "--show", "10")
    assert [shown["channel"] for route in made["routes"] for shown in route["shown"]] == ["position:2"]
    assert "Nothing would be published." in run(str(EXAMPLE), "-i", path, "--channel", "nothing").stdout


def test_topic_source_and_key_are_the_callers(tmp_path: Path):
    path = rules(
        tmp_path,
        "sources: [{name: a, topics: [x]}, {name: b, topic_pattern: '^y', format: raw}]\n"
        "routes: [{name: ra, source: a, channel: a}, {name: rb, source: b, channel: '{topic}:{key}'}]\n",
    )
    value = snapshot(tmp_path, "1.json")
    by_topic = report(path, "-i", value, "--topic", "y1", "--key", "k")
    assert [shown["channel"] for route in by_topic["routes"] for shown in route["shown"]] == ["y1:k"]
    by_source = report(path, "-i", value, "--source", "a")
    assert [route["route"] for route in by_source["routes"]] == ["ra"]
    for wrong, told in (
        ([], "say which of these the records come from: a, b"),
        (["--source", "b"], "has a topic_pattern"),
        (["--source", "c"], "there is no source 'c'; there are a, b"),
        (["--topic", "z"], "no route reads the topic 'z'"),
    ):
        result = run(path, "-i", value, *wrong)
        assert result.exit_code == 2
        assert told in told_by(result)


def test_what_a_producer_sends_does_not_reach_the_terminal_as_control_codes(tmp_path: Path):
    path = rules(tmp_path, "sources: [{name: a, topics: [x], format: string}]\nroutes: [{name: r, channel: c}]\n")
    (tmp_path / "in").write_bytes("\x1b[31mred \x9b [bold]x[/bold]".encode())
    shown = run(path, "-i", str(tmp_path / "in")).stdout
    assert "\\x1b[31mred \\x9b [bold]x[/bold]" in shown
    assert "\x1b" not in shown


def test_an_input_that_is_not_there_is_a_wrong_command_line(tmp_path: Path):
    for path in (tmp_path / "nowhere.json", tmp_path):
        result = run(str(EXAMPLE), "-i", str(path))
        assert result.exit_code == 2
        assert "cannot be read" in told_by(result)


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b"[]" * 1000)[:-12]])
def test_a_damaged_input_is_a_wrong_command_line(tmp_path: Path, content: bytes):
    (tmp_path / "x.json.gz").write_bytes(content)
    result = run(str(EXAMPLE), "-i", str(tmp_path / "x.json.gz"))
    assert result.exit_code == 2
    assert "cannot be read" in told_by(result)
    assert "Traceback" not in result.output


@pytest.mark.parametrize("lines", [[], ["--lines"]])
def test_a_record_is_bounded_after_decompression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]):
    monkeypatch.setattr(module, "MAX_INPUT_BYTES", 1_000)
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b" " * 100_000))
    result = run(str(EXAMPLE), "-i", str(tmp_path / "x.json.gz"), *lines)
    assert result.exit_code == 2
    assert "more than 1000 bytes" in told_by(result)


def test_rules_with_problems_are_told_as_by_check(tmp_path: Path):
    path = rules(tmp_path, "sources: []\n")
    result = run(path, "-i", path)
    assert result.exit_code == 1
    assert f'{path}:1: needs "routes"' in result.stderr


def test_why_records_became_nothing_is_told(tmp_path: Path):
    path = rules(
        tmp_path,
        """
sources: [{name: a, topics: [one]}]
routes:
  - {name: big, where: "value.n > `3`", channel: big}
  - {name: parts, split: "value.parts || `[]`", channel: "part:{item}"}
""",
    )
    records = tmp_path / "records.jsonl"
    records.write_text('{"n":1}\n{"n":2}\n{"n":9}\n')
    found = report(path, "--input", str(records), "--lines")
    assert found["became_nothing"] == 2
    assert found["nothing"] == [
        {"route": "big", "why": "`where` was false: value.n > `3`", "records": 2, "example": "one[0]@0: value.n = 1"},
        {"route": "parts", "why": "`split` gave no items: value.parts || `[]`", "records": 2, "example": "one[0]@0"},
    ]
    shown = run(path, "--input", str(records), "--lines").stdout
    assert "2 records became nothing:" in shown
    assert "2 x route big: `where` was false: value.n > `3`" in shown


def test_without_files_a_live_topic_is_needed(tmp_path: Path):
    result = run(str(EXAMPLE))
    assert result.exit_code == 2
    assert "give files with --input, or a live topic" in told_by(result)
    result = run(str(EXAMPLE), "--topic", "vehicles")
    assert result.exit_code == 2
    assert "needs the addresses of Kafka's brokers" in told_by(result)
