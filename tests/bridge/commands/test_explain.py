from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bridge.cli import main

RULES = """version: 1
sources: [{name: a, topics: [one]}]
routes:
  - {name: big, split: value, where: "item.n > `3`", channel: "big:{item.id}"}
  - {name: all, channel: all, only_changed: true}
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return str(path)


@pytest.fixture
def lines(tmp_path: Path) -> str:
    values = [[{"id": "a", "n": number, "text": "the same in each of them, and long enough"}] for number in (1, 5, 6)]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(json.dumps(value) for value in values))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments])


def test_the_last_record_is_explained_with_deltas_to_those_before(rules: str, lines: str):
    result = run(rules, "--input", lines, "--lines")
    assert result.exit_code == 0, result.output
    for text in (
        "record   one[0]@2",
        "where    item.n > `3`: true for 1, false for 0",
        "item.n = 6",
        "channel  big:{item.id} -> big:a",
        "publishes on big:a: ",
        "delta    vcdiff ",
    ):
        assert text in result.stdout


def test_a_where_that_cannot_be_worked_out_is_told_as_a_problem(tmp_path: Path):
    path = tmp_path / "rules2.yaml"
    path.write_text(RULES.replace("item.n >", "abs(item.n) >"))
    values = tmp_path / "values.json"
    values.write_text('[{"id":"a","n":"x"},{"id":"b","n":4}]')
    result = run(str(path), "--input", str(values))
    assert "where    abs(item.n) > `3`: true for 1, false for 0, a problem for 1" in result.stdout
    assert "    where    a problem: abs(item.n) > `3` cannot be worked out" in result.stdout


def test_a_record_of_the_input_is_chosen_by_number(rules: str, lines: str):
    result = run(rules, "--input", lines, "--lines", "--record", "0", "--json")
    found = json.loads(result.stdout)
    assert found["record"] == "one[0]@0"
    big, every = found["routes"]
    assert big["outcome"] == "`where` was false"
    assert big["steps"][0]["operands"] == [{"text": "item.n", "value": "1"}]
    assert every["publications"][0]["base_size"] is None
    second = json.loads(run(rules, "--input", lines, "--lines", "--record", "1", "--json").stdout)
    assert second["routes"][1]["publications"][0]["vcdiff_size"] < second["routes"][1]["publications"][0]["size"]


def test_an_unchanged_payload_is_told(rules: str, tmp_path: Path):
    path = tmp_path / "same.jsonl"
    path.write_text('[{"id":"a","n":9}]\n[{"id":"a","n":9}]\n')
    assert "unchanged: equal to the channel's last payload" in run(rules, "--input", str(path), "--lines").stdout


def test_a_record_that_becomes_nothing_is_exit_code_1(rules: str, tmp_path: Path):
    path = tmp_path / "one.json"
    path.write_text("no json")
    result = run(rules, "--input", str(path))
    assert result.exit_code == 1
    assert "problem  one[0]@0: route big: the value is not JSON" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give files with --input"),
        (["--topic", "one"], "give files with --input"),
        (["--topic", "one", "--offset", "1"], "needs the addresses"),
        (["--topic", "two", "--offset", "1"], "no route reads the topic"),
    ],
)
def test_what_is_missing_is_said(rules: str, arguments: list[str], told: str):
    result = run(rules, *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())


def test_a_number_behind_the_last_record_is_refused(rules: str, lines: str):
    result = run(rules, "--input", lines, "--lines", "--record", "3")
    assert result.exit_code == 2
    assert "there are 3 records, from 0 to 2" in " ".join(result.stderr.replace("│", " ").split())
