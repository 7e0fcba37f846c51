"""Apply a JSON Patch (RFC 6902) to a JSON value."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from shared.errors import DeltaError

MAX_OPERATIONS: Final = 10_000
"""More operations than this in one patch are refused: each may move all items of an array."""
DEFAULT_MAX_COPIED_BYTES: Final = 1 << 20

_INDEX = re.compile("0|[1-9][0-9]{0,15}")
_BAD_ESCAPE = re.compile("~(?![01])")


class Operation(msgspec.Struct, frozen=True, gc=False):
    """One operation as it stands in a patch."""

    op: Literal["add", "remove", "replace", "move", "copy", "test"]
    path: str
    value: Any = msgspec.UNSET
    from_: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="from")


def apply(value: Any, patch: object, *, max_copied_bytes: int = DEFAULT_MAX_COPIED_BYTES) -> Any:
    """Apply `patch`, a list of operations as JSON decodes them, and return the result.

    `value` is changed in place (on an error, in part) and the result may share values with the patch: pass a copy where
    the old value or the patch is still needed. `copy` operations may copy `max_copied_bytes` of JSON altogether, since a few of
    them can make a value of any size. Raises DeltaError where the patch is malformed or does not fit the value.
    """
    try:
        operations = msgspec.convert(patch, list[Operation])
    except msgspec.ValidationError as error:
        msg = f"malformed JSON Patch: {error}"
        raise DeltaError(msg) from None
    return apply_operations(value, operations, max_copied_bytes)


def apply_operations(value: Any, operations: list[Operation], max_copied_bytes: int) -> Any:
    """Like `apply`, with the operations read already."""
    if len(operations) > MAX_OPERATIONS:
        msg = f"a JSON Patch of {len(operations)} operations; {MAX_OPERATIONS} are the limit"
        raise DeltaError(msg)
    document = _Document(value, max_copied_bytes)
    for operation in operations:
        try:
            document.apply(operation)
        except RecursionError:
            msg = f"JSON Patch: {operation.op} at {_shown(operation.path)} nests too deep"
            raise DeltaError(msg) from None
    return document.root


class _Document:
    __slots__ = ("may_copy", "root")

    def __init__(self, root: Any, may_copy: int) -> None:
        self.root = root
        self.may_copy = may_copy

    def apply(self, operation: Operation) -> None:
        op = operation.op
        path = _steps(operation.path)
        if op == "replace":
            self.replace(path, _value_of(operation))
        elif op == "add":
            self.add(path, _value_of(operation))
        elif op == "remove":
            self.remove(path)
        elif op == "test":
            if not _is_equal(self.get(path), _value_of(operation)):
                msg = f"JSON Patch: the test at {_shown(operation.path)} fails"
                raise DeltaError(msg)
        elif op == "copy":
            self.add(path, self.copied(_steps(_source_of(operation))))
        else:
            self.move(_steps(_source_of(operation)), path)

    def get(self, path: list[str]) -> Any:
        value = self.root
        for step in path:
            value = value[_key(value, step)]
        return value

    def add(self, path: list[str], value: Any) -> None:
        if not path:
            self.root = value
            return
        parent = self.get(path[:-1])
        step = path[-1]
        if type(parent) is dict:
            parent[step] = value
        elif type(parent) is list:
            parent.insert(len(parent) if step == "-" else _index(step, len(parent)), value)
        else:
            raise _no_such_place(step)

    def replace(self, path: list[str], value: Any) -> None:
        if not path:
            self.root = value
            return
        parent = self.get(path[:-1])
        parent[_key(parent, path[-1])] = value

    def remove(self, path: list[str]) -> Any:
        if not path:
            msg = "JSON Patch: the whole document cannot be removed"
            raise DeltaError(msg)
        parent = self.get(path[:-1])
        key = _key(parent, path[-1])  # First, for what has no keys has no `pop` either.
        return parent.pop(key)

    def move(self, source: list[str], path: list[str]) -> None:
        if source == path:
            self.get(path)
            return
        if path[: len(source)] == source:
            msg = "JSON Patch: a value cannot be moved into itself"
            raise DeltaError(msg)
        self.add(path, self.remove(source))

    def copied(self, source: list[str]) -> Any:
        text = msgspec.json.encode(self.get(source))
        self.may_copy -= len(text)
        if self.may_copy < 0:
            msg = "JSON Patch: its copy operations make too much"
            raise DeltaError(msg)
        return msgspec.json.decode(text)


def _value_of(operation: Operation) -> Any:
    if operation.value is msgspec.UNSET:
        msg = f"malformed JSON Patch: {operation.op} at {_shown(operation.path)} has no value"
        raise DeltaError(msg)
    return operation.value


def _source_of(operation: Operation) -> str:
    if operation.from_ is msgspec.UNSET:
        msg = f"malformed JSON Patch: {operation.op} at {_shown(operation.path)} has no from"
        raise DeltaError(msg)
    return operation.from_


def _steps(pointer: str) -> list[str]:
    """The steps of a JSON Pointer (RFC 6901)."""
    if not pointer:
        return []
    if pointer[0] != "/":
        msg = f"malformed JSON Patch: the path {_shown(pointer)} does not begin with a slash"
        raise DeltaError(msg)
    steps = pointer[1:].split("/")
    if "~" not in pointer:
        return steps
    if _BAD_ESCAPE.search(pointer):
        msg = f"malformed JSON Patch: the path {_shown(pointer)} has a ~ without 0 or 1"
        raise DeltaError(msg)
    return [step.replace("~1", "/").replace("~0", "~") for step in steps]


def _key(container: Any, step: str) -> Any:
    """The key or index of a value that exists."""
    if type(container) is dict:
        if step in container:
            return step
    elif type(container) is list:
        return _index(step, len(container) - 1)
    raise _no_such_place(step)


def _index(step: str, largest: int) -> int:
    if _INDEX.fullmatch(step) and (index := int(step)) <= largest:
        return index
    raise _no_such_place(step)


def _no_such_place(step: str) -> DeltaError:
    return DeltaError(f"JSON Patch: there is no {_shown(step)} here; it was made for another base")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _is_equal(a: Any, b: Any) -> bool:
    """Equality as RFC 6902 section 4.6 has it: 1 equals 1.0, and neither equals true."""
    if type(a) is dict:
        return type(b) is dict and a.keys() == b.keys() and all(_is_equal(value, b[key]) for key, value in a.items())
    if type(a) is list:
        return type(b) is list and len(a) == len(b) and all(_is_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) and (type(a) is bool) == (type(b) is bool)
