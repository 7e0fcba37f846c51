"""What a user of `bridge` sees before anything runs."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bridge.cli import main

COMMANDS = ["check", "try", "explain", "run", "demo", "dead-letters list", "dead-letters show", "dead-letters replay"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal(command: str):
    """A name that is cut off, of an option or of its variable, helps nobody."""
    result = CliRunner().invoke(main, [*command.split(), "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert "…" not in result.output


def test_every_command_has_a_line_in_the_help():
    shown = CliRunner().invoke(main, ["--help"], env={"COLUMNS": "80", "NO_COLOR": "1"}).output
    for command in COMMANDS:
        assert f"│ {command.split()[0]} " in shown
