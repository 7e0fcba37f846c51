"""What a user of `bridge run` sees before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bridge import cli

RULES = "version: 1\nsources: [{name: s, topics: [t], format: json}]\nroutes: [{name: r, channel: feed}]\n"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, ["run", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_help_names_every_variable():
    result = run("--help")
    assert result.exit_code == 0
    for name in ("RULES", "BOOTSTRAP_SERVERS", "BUS", "GROUP", "FROM", "KAFKA_PROPERTY", "KAFKA_PROPERTIES", "INTERNAL_PORT", "LOG_FORMAT"):
        assert f"BRIDGE_{name}]" in result.output


def test_what_is_required_is_asked_for():
    assert run().exit_code == 2


def test_mistakes_in_settings_and_rules_are_told_together_without_a_traceback(rules: Path):
    rules.write_text(RULES.replace("channel", "chanel"))
    options = ("--bootstrap-servers", "", "--bus", "redis://:hidden@", "--kafka-property", "group.id=x", "--kafka-property", "hidden")
    result = run("--rules", rules, *options)
    assert result.exit_code == 2
    for word in ("--bootstrap-servers", "--bus", "group.id", "--kafka-property (number 2)", "chanel"):
        assert word in result.output
    assert "hidden" not in result.output
    assert "Traceback" not in result.output


def test_a_property_that_kafkas_client_does_not_know_is_told(rules: Path):
    options = ("--bootstrap-servers", "127.0.0.1:1", "--bus", "redis://127.0.0.1:1", "--kafka-property", "no.such=1")
    result = run("--rules", rules, *options)
    assert result.exit_code == 2
    assert "no.such" in result.output


@pytest.mark.parametrize(
    "options", [("--log-level", "loud"), ("--internal-port", "http"), ("--from", "yesterday"), ("--log-format", "xml")]
)
def test_words_that_are_none_of_the_choices_are_refused(rules: Path, options: tuple[str, str]):
    result = run("--rules", rules, "--bootstrap-servers", "127.0.0.1:1", "--bus", "redis://127.0.0.1:1", *options)
    assert result.exit_code == 2
    assert options[1] in result.output
