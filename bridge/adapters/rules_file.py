"""The rules file of a running bridge: watched, checked in a thread of its own, handed to the pipeline when it asks.

It is looked at twice a second, by what the file system says of it and by its content, so that every way to change a file works: writing
into it, putting another in its place, and the symbolic links that Kubernetes turns for a ConfigMap. What the file system says is not
enough: the time of a change may be that of the one before, a few milliseconds ago.
"""

from __future__ import annotations

import contextlib
import hashlib
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bridge.core.reload import Change, Watch, compare
from bridge.core.ruleset import CompiledRules
from bridge.rules.document import MAX_FILE_BYTES
from bridge.rules.load import parse_rules
from shared.errors import ConfigurationError
from shared.telemetry import Log

LOOK_INTERVAL_S = 0.5


class RulesState(msgspec.Struct, frozen=True):
    """Which rules are in force. Times are seconds since 1970."""

    generation: int
    """1 for those of the start; one more with each change of them."""
    digest: str
    """Of the file's content: the same on every bridge that runs the same rules."""
    loaded_at: float
    refused_at: float | None = None
    reloads: int = 0
    refusals: int = 0
    problems: tuple[str, ...] = ()
    """Of the file as it is now, where it was refused."""


class RulesFile:
    """A `bridge.ports.NewRules`. Make it before `load`; `start` begins to watch; `ask` reloads even what did not change.

    `wall_clock` tells seconds since 1970.
    """

    def __init__(self, path: Path, *, wall_clock: Callable[[], float], interval_s: float = LOOK_INTERVAL_S) -> None:
        self._path = path
        self._wall_clock = wall_clock
        self._interval_s = interval_s
        self._watch = Watch(None)
        self._is_asked = False
        self._in_force: CompiledRules | None = None
        self._pending: tuple[CompiledRules, str] | None = None
        self._taken = ""
        self._read = ""
        """The digest of what was read last."""
        self._end = threading.Event()
        self._lock = threading.Lock()
        """For `state`, which both threads write."""
        self._thread = threading.Thread(target=self._run, name="rules-file", daemon=True)
        self._log = Log("bridge.rules")
        self.state = RulesState(0, "", 0.0)

    def __repr__(self) -> str:
        return f"<RulesFile {self._path}, generation {self.state.generation}, digest {self.state.digest or 'none'}>"

    def load(self) -> CompiledRules:
        """The rules to begin with. Raises ConfigurationError with every problem in them."""
        self._watch = Watch(self._signature())
        data = self._data()
        rules = parse_rules(data, str(self._path))
        self._in_force, self._read = rules, _digest(data)
        self.state = RulesState(1, self._read, self._wall_clock())
        return rules

    def start(self) -> None:
        """Watch, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def ask(self) -> None:
        """Reload, and try halted partitions again, whether the file changed or not. May be called by a signal handler: takes no lock."""
        self._is_asked = True

    def look(self) -> None:
        """Look at the file, and read it where it is time to. Called by the thread; by tests, instead of it."""
        is_due = self._watch.look(self._signature())
        is_asked, self._is_asked = self._is_asked, False
        if is_due or is_asked:
            self._reload(is_asked=is_asked)

    # bridge.ports.NewRules, called by the pipeline's thread.

    def take(self) -> Change | None:
        """See `bridge.ports.NewRules`."""
        pending, self._pending = self._pending, None
        if pending is None or self._in_force is None:
            return None
        rules, self._taken = pending
        return compare(self._in_force, rules)

    def accept(self, change: Change) -> None:
        """See `bridge.ports.NewRules`."""
        self._in_force = change.rules
        with self._lock:
            self.state = msgspec.structs.replace(
                self.state,
                generation=self.state.generation + (not change.is_empty),
                digest=self._taken,
                loaded_at=self._wall_clock(),
                reloads=self.state.reloads + 1,
                problems=(),
            )
        what = "rules reloaded: nothing changed" if change.is_empty else "rules reloaded"
        self._log.info(what, generation=self.state.generation, digest=self._taken, routes=len(change.rules.routes), **change.shown)
        for note in change.rules.notes:
            self._log.warning(note)

    def refuse(self, problems: Sequence[str]) -> None:
        """See `bridge.ports.NewRules`."""
        with self._lock:
            self.state = msgspec.structs.replace(
                self.state, refused_at=self._wall_clock(), refusals=self.state.refusals + 1, problems=tuple(problems)
            )
        for problem in problems:
            self._log.error("problem in the rules", problem=problem)
        self._log.error("the rules file is refused: the rules in force stay", problems=len(problems), generation=self.state.generation)

    def _run(self) -> None:
        while not self._end.wait(self._interval_s):
            try:
                self.look()
            except Exception:  # noqa: BLE001  (a fault of ours must not end the watching)
                self._log.exception("looking at the rules file failed")

    def _reload(self, *, is_asked: bool) -> None:
        try:
            data = self._data()
            digest = _digest(data)
            is_same, self._read = digest == self._read, digest
            rules = parse_rules(data, str(self._path))
            # A file that was only touched may stand beside a schema that changed.
            if is_same and not is_asked and self._in_force is not None and compare(self._in_force, rules).is_empty:
                return
        except ConfigurationError as error:
            self._pending, self._read = None, ""  # What comes next is news, even if it is what was there before.
            self.refuse(error.problems)
            return
        self._pending = rules, digest

    def _data(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigurationError([f"{self._path}: cannot be read: {error.strerror or error}"]) from error

    def _signature(self) -> tuple[int | str, ...] | None:
        try:
            found = self._path.stat()  # Of what a link leads to.
        except OSError:
            return None
        content = ""
        # A pipe (`run <(envsubst < rules.yaml)`) can be read only once, and reading it may wait for ever.
        if stat.S_ISREG(found.st_mode):
            with contextlib.suppress(ConfigurationError):  # One that may not be read is to be told, where it came in the place of another.
                content = _digest(self._data())
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, content


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
