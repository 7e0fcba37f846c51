"""Values from the environment: for secrets only, so that a rules file can be shown and kept anywhere.

`${env:NAME}` stands for the environment variable NAME in passwords and other properties of connections. Anywhere else it is refused: what
rules do must not depend on where they run. What it stands for is never told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bridge.rules.check import Checker
from bridge.rules.document import Path

_REFERENCE = re.compile(r"\$\{env:([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_SHELL_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]{0,99})\}")
_CONNECTIONS = {"schema_registry"}
_SECRETS = {"password", "key_password"}
_PROPERTIES = "properties"


def substitute(text: str, environment: Mapping[str, str], path: Path, checker: Checker) -> str:
    """`text` with what its references stand for; `checker` is told of those that stand for nothing."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not _NAME.fullmatch(name):
            checker.tell(path, f'has a reference to the environment with "{name[:100]}", which is no name of a variable')
        elif name not in environment:
            checker.tell(path, f'needs the environment variable "{name}", which is not set')
        return environment.get(name, "")

    shell = _SHELL_REFERENCE.search(text)
    if shell is not None:
        checker.tell(path, f"has {shell[0]}; a value from the environment is written ${{env:{shell[1]}}}")
    return _REFERENCE.sub(value, text)


def refuse_elsewhere(data: Any, checker: Checker) -> None:
    """Tell `checker` of references in settings that are no secrets."""
    for path, text in _texts(data, ()):
        found = _REFERENCE.search(text)
        if found is not None and not _is_secret(path):
            checker.tell(path, f"has {found[0][:100]}; values from the environment are for passwords and properties of connections only")


def _is_secret(path: Path) -> bool:
    if not _CONNECTIONS.intersection(map(str, path[:-1])):
        return False
    return path[-1] in _SECRETS or (len(path) > 1 and path[-2] == _PROPERTIES)


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, (*path, number))
