"""The file that says how the channels of each namespace may be delivered (docs/operations.md)."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edge.core.delivery import MAX_WINDOW, Mode, Policies, Policy
from edge.core.protocol import MAX_RATE
from shared.errors import ConfigurationError

MAX_FILE_BYTES = 262_144
_SETTINGS = ("modes", "max_rate", "window")


def load_policies(path: Path) -> Policies:
    """Read a TOML file with `[default]` and `[namespaces.NAME]` tables; raise ConfigurationError with every problem in it.

    A table has `modes` (a list, the first one is what a client gets that does not ask), `max_rate` (publications a second to a conflating
    subscription) and `window` (publications under way without an acknowledgement). What it leaves out is as in `[default]`.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigurationError([f"{path}: larger than {MAX_FILE_BYTES} bytes"])
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror or error}"]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError([f"{path}: {error}"]) from None
    problems = [
        f"{path}: {name}: there are only [default] and [namespaces.NAME]" for name in document if name not in {"default", "namespaces"}
    ]
    default = _policy(f"{path}: default", document.get("default", {}), Policy(), problems)
    tables = document.get("namespaces", {})
    if not isinstance(tables, dict):
        problems.append(f"{path}: namespaces: must be tables, such as [namespaces.position]")
        tables = {}
    policies = {name: _policy(f"{path}: namespaces.{name}", table, default, problems) for name, table in tables.items()}
    if problems:
        raise ConfigurationError(problems)
    return Policies(default, policies)


def _policy(where: str, table: Any, base: Policy, problems: list[str]) -> Policy:
    if not isinstance(table, dict):
        problems.append(f"{where}: must be a table")
        return base
    for name in [name for name in table if name not in _SETTINGS]:
        close = get_close_matches(name, _SETTINGS, 1)
        problems.append(
            f"{where}.{name}: unknown setting" + (f'; did you mean "{close[0]}"?' if close else f"; there are {', '.join(_SETTINGS)}")
        )
    return Policy(
        _modes(f"{where}.modes", table.get("modes"), base, problems),
        _number(f"{where}.max_rate", table.get("max_rate"), base.max_rate, MAX_RATE, problems),
        int(_number(f"{where}.window", table.get("window"), base.window, MAX_WINDOW, problems, whole=True)),
    )


def _modes(where: str, value: Any, base: Policy, problems: list[str]) -> tuple[Mode, ...]:
    if value is None:
        return base.modes
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name in set(Mode) for name in value):
        problems.append(f"{where}: must be a list of {', '.join(Mode)}, not {value!r}")
        return base.modes
    return tuple(dict.fromkeys(Mode(name) for name in value))


def _number(where: str, value: Any, base: float, most: int, problems: list[str], *, whole: bool = False) -> float:
    if value is None:
        return base
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= most:
        problems.append(f"{where}: must be {'a whole number from 1' if whole else 'above 0'} to {most}, not {value!r}")
        return base
    return float(value)
