from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bridge.cli import main

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "rules" / "vehicles.yaml"


def test_right_rules_are_ok_and_shown():
    result = CliRunner().invoke(main, ["check", str(EXAMPLE)])
    assert result.exit_code == 0
    assert result.stdout.startswith("ok: 1 source, 3 routes\n")
    assert "position:{item.id}" in result.stdout


def test_quiet_is_silent_about_right_rules():
    result = CliRunner().invoke(main, ["check", "--quiet", str(EXAMPLE)])
    assert (result.exit_code, result.output) == (0, "")


def test_every_problem_is_a_line_and_the_exit_code_says_so(tmp_path: Path):
    path = tmp_path / "rules.yaml"
    path.write_text("version: 1\nsources: [{name: s, topics: [t]}]\nroutes:\n  - {name: r, chanel: c}\n  - {name: '[bold]', channel: c}\n")
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == f'{path}:4: routes[0].chanel: unknown setting; did you mean "channel"?'
    assert lines[1].startswith(f'{path}:5: routes[1].name: "[bold]" cannot be a name')
    assert lines[2] == "2 problems. The reference of all settings is docs/rules.md."


def test_what_is_allowed_but_odd_is_noted(tmp_path: Path):
    path = tmp_path / "rules.yaml"
    path.write_text(
        "version: 1\nsources: [{name: s, topics: [t]}, {name: spare, topics: [u]}]\n"
        "routes: [{name: r, source: s, channel: 'a:{item.{a: id}.a}'}]\n"
    )
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0
    assert 'note: no route uses the source "spare"' in result.stdout
    assert "a:{item.{a: id}.a}" in result.stdout


@pytest.mark.parametrize(
    "arguments", [["check"], ["check", "nowhere.yaml"], ["check", str(ROOT)], ["chek"], ["check", "--nonsense", str(EXAMPLE)]]
)
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("BRIDGE_RULES", raising=False)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_the_rules_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BRIDGE_RULES", str(EXAMPLE))
    assert CliRunner().invoke(main, ["check"]).exit_code == 0


def test_checking_needs_neither_kafka_nor_redis():
    code = (
        "import sys; sys.modules['confluent_kafka'] = None; sys.modules['redis'] = None\n"
        f"from bridge.cli import main; sys.argv = ['bridge', 'check', {str(EXAMPLE)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok:")


def test_help_teaches():
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    for name in ("check", "try"):
        assert name in shown.stdout
        detail = CliRunner().invoke(main, [name, "--help"])
        assert detail.exit_code == 0
        assert "Examples" in detail.stdout
        assert f"bridge {name} " in detail.stdout


def test_the_schema_of_rules_files_is_printed():
    result = CliRunner().invoke(main, ["check", "--schema"])
    assert result.exit_code == 0
    assert result.stdout == (ROOT / "docs" / "rules.schema.json").read_text()
