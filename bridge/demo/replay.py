"""Recorded snapshots as the demo's input: each file is one record, JSON or what `Recording` says.

Neither a file's name nor its modification time is a clock (copies and clones lose both): the pace is that of the times inside (`pace`).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_RECORD_BYTES = 4_000_000
"""The largest record that the demo's Kafka takes."""


class Recording(msgspec.Struct, frozen=True):
    """What recorded files are."""

    suffixes: tuple[str, ...]
    check: Callable[[bytes], bytes]
    """The record of a file's bytes; raises ConfigurationError where it is none."""


def _json(data: bytes) -> bytes:
    text = data.strip()
    if not text:
        raise ConfigurationError(["is empty; expected one JSON value"])
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError([f"is not JSON: {error}"]) from error
    return text


JSON = Recording((".json", ".json.gz"), _json)


class Replay:
    """The records of some files, in the order given; a directory stands for its files in the order of their names.

    Every file is read and checked when the replay is made, so that a bad one is told before anything starts, and all bad
    ones at once. They are read again one at a time: a long recording need not fit in memory.
    """

    def __init__(self, paths: Sequence[Path], *, loop: bool = False, recording: Recording = JSON) -> None:
        """Raise ConfigurationError with a line for each path that cannot be replayed."""
        self._loop = loop
        self._recording = recording
        self._files, problems = _expand(paths, recording.suffixes)
        for file in self._files:
            try:
                read_record(file, recording)
            except ConfigurationError as error:
                problems += error.problems
        if problems:
            raise ConfigurationError(problems)

    def __repr__(self) -> str:
        """How many files, and whether it ends."""
        return f"Replay({len(self._files)} files{', looping' if self._loop else ''})"

    def __len__(self) -> int:
        """How many records one pass has."""
        return len(self._files)

    def records(self) -> Iterator[bytes]:
        """Every record once, or for ever. Raises ConfigurationError if a file was damaged or taken away meanwhile."""
        while True:
            for file in self._files:
                yield read_record(file, self._recording)
            if not self._loop:
                return


def read_record(file: Path, recording: Recording = JSON) -> bytes:
    """The record in `file`, unpacked; raise ConfigurationError, naming the file, if there is none."""
    data = _unpacked(file)
    try:
        return recording.check(data)
    except ConfigurationError as error:
        raise ConfigurationError([f"{file}: {problem}" for problem in error.problems]) from error


def _unpacked(file: Path) -> bytes:
    """The bytes of `file`, at most MAX_RECORD_BYTES of them, however far a small archive would unpack."""
    try:
        with gzip.open(file) if file.name.endswith(".gz") else file.open("rb") as stream:
            data = stream.read(MAX_RECORD_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        # OSError's own text repeats the name.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigurationError([f"{file}: cannot be read: {reason}"]) from error
    if len(data) > MAX_RECORD_BYTES:
        raise ConfigurationError([f"{file}: holds more than {MAX_RECORD_BYTES} bytes; a record of the demo may not be larger"])
    return data


def _expand(paths: Sequence[Path], suffixes: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    names = " or ".join(suffixes)
    files: list[Path] = []
    problems: list[str] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.name.endswith(suffixes) and file.is_file())
            files += found
            if not found:
                problems.append(f"{path}: holds no {names} file")
        elif not path.exists():
            problems.append(f"{path}: there is no such file")
        elif not path.name.endswith(suffixes):
            problems.append(f"{path}: expected a name that ends in {names}")
        else:
            files.append(path)
    if not paths:
        problems.append(f"nothing to replay: name at least one {names} file")
    return files, problems
