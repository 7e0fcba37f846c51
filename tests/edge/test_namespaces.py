"""The file with the policies of namespaces: what it says, and every problem in it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.delivery import Mode, Policies, Policy
from edge.namespaces import MAX_FILE_BYTES, load_policies
from shared.errors import ConfigurationError


def load(directory: Path, text: str) -> Policies:
    path = directory / "namespaces.toml"
    path.write_text(text)
    return load_policies(path)


def problems(directory: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        load(directory, text)
    return "\n".join(error.value.problems)


def test_an_empty_file_allows_everything(tmp_path: Path):
    assert load(tmp_path, "") == Policies()


def test_a_namespace_has_what_it_names_and_the_rest_from_the_default(tmp_path: Path):
    policies = load(
        tmp_path,
        """
        [default]
        modes = ["queue"]
        window = 10
        [namespaces.position]
        modes = ["conflate", "queue", "conflate"]
        max_rate = 0.5
        [namespaces."a.b"]
        window = 3
        """,
    )
    assert policies.of("other") == Policy((Mode.QUEUE,), 0, 10)
    assert policies.of("position") == Policy((Mode.CONFLATE, Mode.QUEUE), 0.5, 10)
    assert policies.of("a.b") == Policy((Mode.QUEUE,), 0, 3)


def test_every_problem_at_once(tmp_path: Path):
    told = problems(
        tmp_path,
        """
        defaults = 1
        [default]
        window = 0
        [namespaces.a]
        mode = ["queue"]
        max_rate = true
        [namespaces.b]
        modes = ["queue", "latest"]
        window = 1.5
        max_rate = -1
        [namespaces.c]
        modes = []
        window = 10001
        colour = "red"
        """,
    )
    for problem in (
        "defaults: there are only [default] and [namespaces.NAME]",
        "default.window: must be a whole number from 1 to 10000, not 0",
        'namespaces.a.mode: unknown setting; did you mean "modes"?',
        "namespaces.a.max_rate: must be above 0 to 1000, not True",
        "namespaces.b.modes: must be a list of queue, conflate, ack",
        "namespaces.b.window: must be a whole number from 1 to 10000, not 1.5",
        "namespaces.b.max_rate: must be above 0 to 1000, not -1",
        "namespaces.c.modes",
        "namespaces.c.window",
        "namespaces.c.colour: unknown setting; there are modes, max_rate, window",
    ):
        assert problem in told
    assert len(told.splitlines()) == 10


@pytest.mark.parametrize("text", ["default = 5", "namespaces = 5", "namespaces = {a = 5}"])
def test_tables_are_tables(tmp_path: Path, text: str):
    assert "table" in problems(tmp_path, text)


@pytest.mark.parametrize("text", ["[", "[default]\n[default]", "a = 1\n" * MAX_FILE_BYTES])
def test_what_is_no_toml_or_too_much_of_it_is_a_problem(tmp_path: Path, text: str):
    assert "namespaces.toml: " in problems(tmp_path, text)


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="No such file"):
        load_policies(tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_a_problem(tmp_path: Path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError):
        load_policies(path)
