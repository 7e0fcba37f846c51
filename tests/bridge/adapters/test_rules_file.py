from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.adapters.metrics import RulesCollector
from bridge.adapters.rules_file import RulesFile
from shared.errors import ConfigurationError
from tests.rig.wait import wait_until

RULES = """version: 1
sources: [{name: a, topics: [one]}]
routes:
  - {name: whole, channel: whole}
"""
OTHER = RULES.replace("channel: whole", "channel: other")
BROKEN = RULES.replace("channel: whole", "chanel: whole") + "  - {name: whole, channel: whole}\n"


class Now:
    time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def now() -> Now:
    return Now()


def loaded(path: Path, now: Now) -> RulesFile:
    path.write_text(RULES)
    file = RulesFile(path, wall_clock=now)
    file.load()
    return file


def look(file: RulesFile) -> None:
    """As often as it takes to see a change."""
    file.look()
    file.look()


def test_a_change_is_taken_once_and_counted_when_it_is_accepted(tmp_path: Path, now: Now):
    path = tmp_path / "rules.yaml"
    file = loaded(path, now)
    assert (file.state.generation, file.state.loaded_at, file.state.refused_at) == (1, 100.0, None)
    look(file)
    assert file.take() is None
    path.write_text(OTHER)
    look(file)
    change = file.take()
    assert change is not None
    assert change.changed == ("whole",)
    assert file.take() is None
    assert file.state.generation == 1, "it is not in force yet"
    first, now.time = file.state.digest, 200.0
    file.accept(change)
    assert (file.state.generation, file.state.loaded_at, file.state.reloads) == (2, 200.0, 1)
    assert file.state.digest != first


def test_a_change_that_the_file_system_does_not_tell_is_seen(tmp_path: Path, now: Now):
    """Many count time in steps of 4 ms."""
    path = tmp_path / "rules.yaml"
    file = loaded(path, now)
    before = path.stat()
    path.write_text(OTHER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    look(file)
    change = file.take()
    assert change is not None
    assert change.changed == ("whole",)


def test_a_touched_file_is_no_change_but_when_asked(tmp_path: Path, now: Now):
    path = tmp_path / "rules.yaml"
    file = loaded(path, now)
    os.utime(path, (1, 1))
    look(file)
    assert file.take() is None
    file.ask()
    file.look()
    change = file.take()
    assert change is not None
    assert change.is_empty
    file.accept(change)
    assert file.state.generation == 1


def test_a_broken_file_is_told_with_all_problems_and_forgotten_when_it_is_corrected(
    tmp_path: Path, now: Now, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "rules.yaml"
    file = loaded(path, now)
    path.write_text(BROKEN)
    look(file)
    assert file.take() is None
    assert len(file.state.problems) == 2
    assert f"{path}:4: routes[0].chanel: unknown setting" in file.state.problems[0]
    assert f"{path}:5: " in file.state.problems[1]
    logged = [getattr(record, "distributary_fields", {}).get("problem") for record in caplog.records]
    assert [problem for problem in logged if problem] == list(file.state.problems)
    assert (file.state.generation, file.state.refused_at, file.state.refusals) == (1, 100.0, 1)
    look(file)
    assert file.state.refusals == 1, "told once"
    path.write_text(RULES)
    look(file)
    change = file.take()
    assert change is not None
    assert change.is_empty
    file.accept(change)
    assert not file.state.problems


def test_a_newer_file_replaces_one_that_was_not_taken_and_a_broken_one_takes_it_back(tmp_path: Path, now: Now):
    path = tmp_path / "rules.yaml"
    file = loaded(path, now)
    for text in (OTHER, RULES.replace("name: whole", "name: third")):
        path.write_text(text)
        look(file)
    change = file.take()
    assert change is not None
    assert change.added == ("third",)
    for text in (OTHER, BROKEN):
        path.write_text(text)
        look(file)
    assert file.take() is None


def test_the_links_of_a_config_map_are_followed(tmp_path: Path, now: Now):
    """Kubernetes: rules.yaml -> ..data/rules.yaml, and ..data is turned to another directory by a rename."""
    for name, text in (("..1", RULES), ("..2", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rules.yaml").write_text(text)
        os.utime(tmp_path / name / "rules.yaml", (1, 1))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "rules.yaml").symlink_to("..data/rules.yaml")
    file = RulesFile(tmp_path / "rules.yaml", wall_clock=now)
    file.load()
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    look(file)
    change = file.take()
    assert change is not None
    assert change.changed == ("whole",)


def test_a_file_that_is_gone_keeps_the_rules(tmp_path: Path, now: Now):
    path = tmp_path / "rules.yaml"
    file = loaded(path, now)
    path.unlink()
    look(file)
    assert not file.state.problems
    file.ask()
    file.look()
    assert "cannot be read" in "".join(file.state.problems)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        RulesFile(path, wall_clock=now).load()


def test_the_thread_sees_changes(tmp_path: Path, now: Now):
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    file = RulesFile(path, wall_clock=now, interval_s=0.001)
    file.load()
    file.start()
    try:
        path.write_text(OTHER)
        change = wait_until(file.take, what="the change")
        assert change.changed == ("whole",)
    finally:
        file.close()


def test_a_file_that_may_not_be_read_is_told_until_it_may_be_again(tmp_path: Path, now: Now, monkeypatch: pytest.MonkeyPatch):
    file = loaded(tmp_path / "rules.yaml", now)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        look(file)
        assert file.take() is None
        assert "Permission denied" in file.state.problems[0]
    look(file)
    change = file.take()
    assert change is not None
    assert change.is_empty
    file.accept(change)
    assert file.state.problems == ()


def test_rules_from_a_pipe_are_read_once(now: Now):
    reading, writing = os.pipe()
    try:
        os.write(writing, RULES.encode())
        os.close(writing)
        file = RulesFile(Path(f"/dev/fd/{reading}"), wall_clock=now)
        assert [route.name for route in file.load().routes] == ["whole"]
        look(file)
        assert (file.take(), file.state.refusals) == (None, 0)
    finally:
        os.close(reading)


def test_metrics_tell_what_is_in_force(tmp_path: Path, now: Now):
    path = tmp_path / "rules.yaml"
    file = loaded(path, now)
    path.write_text(BROKEN)
    look(file)
    samples = {
        (sample.name.removeprefix("distributary_bridge_rules_"), *sample.labels.values()): sample.value
        for family in RulesCollector(lambda: file.state).collect()
        for sample in family.samples
    }
    assert samples == {
        ("generation",): 1,
        ("refused",): 1,
        ("loaded_timestamp_seconds",): 100,
        ("refused_timestamp_seconds",): 100,
        ("info", file.state.digest): 1,
        ("reloads_total", "ok"): 0,
        ("reloads_total", "refused"): 1,
    }
