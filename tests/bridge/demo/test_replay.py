"""Recordings: what is replayed, in which order, and how mistakes are told."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path

import pytest

from bridge.demo import replay
from bridge.demo.replay import Replay
from shared.errors import ConfigurationError


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def _problems(*paths: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        Replay(paths)
    return caught.value.problems


def test_files_in_the_order_given_packed_or_not_byte_for_byte(tmp_path: Path) -> None:
    second = _write(tmp_path / "a.json.gz", b'[{"id": 1.10}]')
    first = _write(tmp_path / "b.json", b' {"x":"\xc3\xa9"}\n')
    made = Replay([first, second])
    assert len(made) == 2
    assert list(made.records()) == [b'{"x":"\xc3\xa9"}', b'[{"id": 1.10}]']


def test_a_directory_stands_for_its_recordings_by_name(tmp_path: Path) -> None:
    for name in ("2.json", "1.json.gz", "notes.txt"):
        _write(tmp_path / name, f'"{name}"'.encode())
    assert list(Replay([tmp_path]).records()) == [b'"1.json.gz"', b'"2.json"']


def test_a_loop_starts_again(tmp_path: Path) -> None:
    files = [_write(tmp_path / f"{n}.json", str(n).encode()) for n in range(2)]
    assert list(islice(Replay(files, loop=True).records(), 5)) == [b"0", b"1", b"0", b"1", b"0"]


def test_every_bad_file_is_named_with_its_reason(tmp_path: Path) -> None:
    good = _write(tmp_path / "good.json", b"[]")
    cases = {
        _write(tmp_path / "empty.json", b" \n"): "is empty",
        _write(tmp_path / "half.json", b'[{"id":'): "is not JSON",
        _write(tmp_path / "latin.json", b'"\xe9"'): "is not JSON",
        _write(tmp_path / "deep.json", b"[" * 100_000): "is not JSON",
        _write(tmp_path / "table.csv", b"1,2"): "ends in .json or .json.gz",
        tmp_path / "gone.json": "no such file",
    }
    not_packed = tmp_path / "plain.json.gz"
    not_packed.write_bytes(b"[]")
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(gzip.compress(b"[" + b"1," * 5000 + b"1]")[:-20])
    bare = tmp_path / "bare"
    bare.mkdir()
    cases |= {not_packed: "cannot be read", cut: "cannot be read", bare: "holds no .json"}
    told = _problems(good, *cases)
    assert len(told) == len(cases)
    for path, reason in cases.items():
        assert any(line.startswith(f"{path}: ") and reason in line for line in told), (path, told)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_RECORD_BYTES", 1000)
    packed = _write(tmp_path / "bomb.json.gz", b"1" * 100_000)
    assert "more than 1000 bytes" in _problems(packed)[0]


def test_nothing_to_replay() -> None:
    assert "nothing to replay" in _problems()[0]


def test_a_file_that_goes_away_meanwhile_is_named(tmp_path: Path) -> None:
    files = [_write(tmp_path / f"{n}.json", b"1") for n in range(2)]
    records = Replay(files).records()
    next(records)
    files[1].unlink()
    with pytest.raises(ConfigurationError, match=r"1\.json: cannot be read"):
        next(records)
