"""Logs: one line an event, as text for people or as JSON for machines, on standard error."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TextIO

import msgspec

_FIELDS = "distributary_fields"


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


class Log:
    """A logger whose events carry fields: `log.info("joined", group="g")`. Values are shown as they are: redact secrets before."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __repr__(self) -> str:
        return f"<Log {self._logger.name}>"

    def debug(self, message: str, **fields: Any) -> None:
        """For whoever looks for a fault in the program."""
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """What an operator reads to know that all is well."""
        self._write(logging.INFO, message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Something that the program gets over, and an operator should know."""
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Something that does not go away by itself."""
        self._write(logging.ERROR, message, fields)

    def exception(self, message: str, **fields: Any) -> None:
        """A fault in the program: with the traceback of the exception that is being handled."""
        self._logger.log(logging.ERROR, message, extra={_FIELDS: fields}, exc_info=True)

    def _write(self, level: int, message: str, fields: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, message, extra={_FIELDS: fields})


class Throttle:
    """Lets one event a key through in each interval, and counts the others. `clock` tells seconds that only go forward."""

    def __init__(self, interval_s: float, *, clock: Callable[[], float], max_keys: int = 1000) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._max_keys = max_keys
        self._seen: dict[object, tuple[float, int]] = {}

    def admit(self, key: object) -> int | None:
        """None: keep silent. Else how many events of this key were kept silent since the last one that was let through."""
        now = self._clock()
        until, silenced = self._seen.get(key, (now, 0))
        if now < until:
            self._seen[key] = until, silenced + 1
            return None
        if len(self._seen) >= self._max_keys:
            self._seen.clear()
        self._seen[key] = now + self._interval_s, 0
        return silenced


def configure(format_: LogFormat, level: str, stream: TextIO | None = None, *, worker: int | None = None) -> None:
    """Set up logging for the whole process. `level` is a name such as "info"; each line tells `worker`, where there is one."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if format_ is LogFormat.JSON else _TextFormatter())
    if worker is not None:
        handler.addFilter(_Worker(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class _Worker(logging.Filter):
    """Adds a field to each line."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        setattr(record, _FIELDS, {"worker": self._worker, **_fields_of(record)})
        return True


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_shown(value)}" for name, value in _fields_of(record).items())
        line = f"{_time_of(record)} {record.levelname:<7} {record.name}: {_one_line(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {"time": _time_of(record), "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        event |= _fields_of(record)
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(event, enc_hook=str).decode()


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, _FIELDS, {})


def _time_of(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f'"{_one_line(text)}"' if not text or any(character in text for character in ' "=') else text


def _one_line(text: str) -> str:
    """Data from a record may hold line breaks and what a terminal obeys: a log line stays one line of visible characters."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
