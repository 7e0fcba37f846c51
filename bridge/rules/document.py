"""A YAML document with the line of everything in it.

The text is composed by PyYAML but not constructed: scalars are resolved by YAML 1.2's few rules (`no` and `on` are texts, `010` is
ten), aliases are expanded within bounds, and each value and key keeps its line for the problems to come.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import yaml

MAX_FILE_BYTES = 1_048_576
MAX_NODES = 50_000
"""Values in a document, aliases expanded: ten lines of aliases can be a billion."""
MAX_DEPTH = 40

_TOO_MANY = f"holds more than {MAX_NODES} values, aliases included"
_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"

Path = tuple[str | int, ...]


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong with the file."""

    line: int
    """From 1."""
    path: str
    """Such as `routes[1].channel`; empty for the document as a whole."""
    text: str

    def shown(self, file: str) -> str:
        """As people and editors read it."""
        return f"{file}:{self.line}: {self.path}: {self.text}" if self.path else f"{file}:{self.line}: {self.text}"


class Document(msgspec.Struct):
    """Plain values, with lines by path."""

    data: Any
    value_lines: dict[Path, int]
    key_lines: dict[Path, int]
    problems: list[Problem]
    """Found while reading: keys given twice, tags and the like. `data` is usable all the same."""

    def line_of(self, path: Path) -> int:
        """The line of `path`'s key, or of the nearest thing that encloses it."""
        for length in range(len(path), -1, -1):
            line = self.key_lines.get(path[:length]) or self.value_lines.get(path[:length])
            if line is not None:
                return line
        return 1


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema; 1.1 makes `no` false, and `12:30` 750."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own interface

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node, within bounds: PyYAML's time grows with the square of the depth, so it may not see the whole of such a text."""
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_NODES:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise _UnreadableError(line, _TOO_DEEP if self._depth > MAX_DEPTH else _TOO_MANY)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]{1,18}$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]{1,30}|[0-9]{1,30}\.[0-9]{0,30})(?:[eE][-+]?[0-9]{1,3})?$"),
    list("-+.0123456789"),
)


def read_document(text: str) -> Document:
    """Read one YAML document. What is wrong with it is in `problems`; `data` is None where it cannot be read at all."""
    builder = _Builder()
    try:
        data = builder.build(_compose(text), ())
    except _UnreadableError as error:
        builder.problems.append(error.problem)
        data = None
    return Document(data, builder.value_lines, builder.key_lines, builder.problems)


class _UnreadableError(Exception):
    """Ends the reading of a document. It stays inside of this module."""

    def __init__(self, line: int, text: str, path: Path = ()) -> None:
        super().__init__(text)
        self.problem = Problem(line, show_path(path), text)


def _compose(text: str) -> yaml.Node:
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _UnreadableError(mark.line + 1 if mark else 1, _yaml_problem(error, text)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _UnreadableError(line, f"has a character that YAML does not allow: {_code_point(error.character)}") from None
    except (yaml.YAMLError, ValueError, OverflowError):  # The last two: escapes and versions with numbers beyond all bounds.
        raise _UnreadableError(1, "is not YAML") from None
    if root is None:
        raise _UnreadableError(1, "is empty; docs/rules.md shows a first example")
    return root


def _code_point(character: object) -> str:
    code = character if isinstance(character, int) else ord(str(character)[:1] or "\0")
    return f"U+{code:04X}"


def _yaml_problem(error: yaml.MarkedYAMLError, text: str) -> str:
    said = error.problem or error.context or "cannot be read"
    mark = error.problem_mark or error.context_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line and ("\\t" in said or line.lstrip(" ").startswith("\t")):
        return "is not YAML: YAML does not allow tabs for indentation; use spaces"
    if "cannot start any token" in said:
        return f"is not YAML: {said}; put the text in quotes"
    if "expected ',' or" in said:
        return f"is not YAML: {said}; inside of {{ }} and [ ], a text that contains one of these or a comma is put in quotes"
    if "undefined alias" in said or "expected alphabetic" in said:
        return f"is not YAML: {said}; a text that begins with * or & is put in quotes"
    if "another document" in said or "but found another document" in said:
        return "holds more than one YAML document; rules are one"
    return f"is not YAML: {said}"


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int,
    "float": float,
}


class _Builder:
    """Makes plain values of nodes, within bounds, and remembers their lines."""

    def __init__(self) -> None:
        self.value_lines: dict[Path, int] = {}
        self.key_lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._nodes = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _UnreadableError(line, _TOO_MANY)
        if len(path) > MAX_DEPTH:
            raise _UnreadableError(line, _TOO_DEEP)
        self.value_lines[path] = line
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self._tell(line, path, f"has the YAML tag {node.tag}, which rules do not use")
        if id(node) in self._open:
            msg = "contains itself, by an alias"
            raise _UnreadableError(line, msg, path)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(child, (*path, number)) for number, child in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._tell(line, path, "has a name that is not a text; a text that contains { or [ is put in quotes")
                continue
            name = self._text(key_node, path)
            inner = (*path, name)
            if name == "<<":
                self._tell(line, path, "uses a YAML merge (<<), which rules do not have; settings for all routes go into `defaults`")
                continue
            if name in built:
                self._tell(line, inner, f"is given twice, first at line {self.key_lines[inner]}")
                continue
            self.key_lines[inner] = line
            built[name] = self.build(value_node, inner)
        return built

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == node.tag:
            self._tell(node.start_mark.line + 1, path, f"begins with {node.tag}, which YAML reads as a tag; put the text in quotes")
        if kind not in _SCALARS or node.style is not None:
            return self._text(node, path)
        try:
            return _SCALARS[kind](node.value)
        except (LookupError, ValueError):  # `!!int x`, by an explicit tag.
            self._tell(node.start_mark.line + 1, path, f"is no value of the YAML type !!{kind}")
            return self._text(node, path)

    def _text(self, node: yaml.ScalarNode, path: Path) -> str:
        text = str(node.value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._tell(node.start_mark.line + 1, path, "has half of a surrogate pair, which is no character")
            return text.encode(errors="replace").decode()
        return text

    def _tell(self, line: int, path: Path, text: str) -> None:
        self.problems.append(Problem(line, show_path(path), text))


def show_path(path: Path) -> str:
    """`("routes", 1, "channel")` as `routes[1].channel`."""
    shown = ""
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
        else:
            name = step if len(step) <= 60 else f"{step[:57]}..."
            shown += f".{name}" if shown else name
    return shown.encode("unicode_escape").decode() if not shown.isprintable() else shown
