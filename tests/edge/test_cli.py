"""What a user of `edge` sees before anything is served."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge.cli import app


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_its_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith("distributary ")


def test_help_fits_a_terminal():
    """A name that is cut off, of an option or of its variable, helps nobody."""
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"}).output
    assert "…" not in shown
    for text in ("--max-connections-per-address", "EDGE_MAX_CONNECTIONS_PER_ADDRESS", "redis+cluster://HOST:PORT,HOST:PORT"):
        assert text in shown


def test_mistakes_in_settings_and_namespaces_are_told_together(tmp_path: Path):
    file = tmp_path / "namespaces.toml"
    file.write_text("[default]\nmods = []\n", encoding="utf-8")
    result = run("run", "--bus", "http://x", "--port", "99999", "--workers", "0", "--namespaces", file)
    assert result.exit_code == 2
    for word in ("http://x", "--port", "--workers", 'did you mean "modes"?'):
        assert word in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("name", "why"), [("nothing", "No such file or directory"), (".", "Is a directory")])
def test_namespaces_that_cannot_be_read(tmp_path: Path, name: str, why: str):
    result = run("run", "--bus", "redis://127.0.0.1:1", "--namespaces", tmp_path / name)
    assert result.exit_code == 2
    assert f"edge: {tmp_path / name}: cannot be read: {why}" in result.output


def test_a_port_that_is_taken_is_named_with_the_reason():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("run", "--bus", "redis://127.0.0.1:1", "--port", str(port), "--internal-port", "-1")
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port" in result.output


def test_an_internal_port_that_is_taken_is_named_too():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("run", "--bus", "redis://127.0.0.1:1", "--port", "0", "--internal-port", str(port))
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in result.output


def test_an_address_of_another_machine():
    result = run("run", "--bus", "redis://127.0.0.1:1", "--host", "192.0.2.1", "--port", "0", "--internal-port", "-1")
    assert result.exit_code == 1
    assert "cannot listen on 192.0.2.1:0: Cannot assign requested address; is it an address of this machine" in result.output


class TestCheck:
    def test_a_right_file_is_shown_as_it_is_understood(self, tmp_path: Path):
        file = tmp_path / "namespaces.toml"
        file.write_text('[default]\nwindow = 8\n[namespaces.orders]\nmodes = ["ack"]\n[namespaces.bus]\nmax_rate = 2.5\n', encoding="utf-8")
        result = run("check", file)
        assert result.exit_code == 0
        assert [line.split() for line in result.output.splitlines()] == [
            ["namespace", "modes", "max_rate", "window"],
            ["bus", "queue,", "conflate,", "ack", "2.5", "8"],
            ["orders", "ack", "no", "bound", "8"],
            ["(any", "other)", "queue,", "conflate,", "ack", "no", "bound", "8"],
        ]
        assert run("check", "--quiet", file).output == ""

    def test_every_problem_at_once_and_status_1(self, tmp_path: Path):
        file = tmp_path / "namespaces.toml"
        file.write_text("[default]\nmods = []\n[namespaces.bus]\nwindow = 0\n[other]\n", encoding="utf-8")
        result = run("check", file)
        assert result.exit_code == 1
        assert [line.split(": ")[2] for line in result.output.splitlines()] == ["other", "default.mods", "namespaces.bus.window"]

    def test_a_file_that_is_not_there_is_a_problem_and_none_at_all_a_wrong_command(self, tmp_path: Path):
        assert run("check", tmp_path / "nothing").exit_code == 1
        assert run("check").exit_code == 2
