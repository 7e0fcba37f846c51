"""The difference of two JSON values as the operations of a JSON Patch (RFC 6902).

Where the shapes agree (objects by key, arrays of one length by index) a plain walk finds it. Where arrays differ in
length the common head and tail are cut off first, and what remains goes to jsonpatch, within bounds.
"""

from __future__ import annotations

from typing import Any, Final

import jsonpatch
import msgspec

from shared.delta.json_apply import apply
from shared.errors import DeltaError

MAX_SEARCH_BYTES: Final = 16_384
"""JSON bytes of both arrays together that jsonpatch is asked about in one diff: it takes some 100 us a kilobyte.
Beyond that the whole array is replaced."""
MAX_SEARCH_ITEMS: Final = 512
"""The same for their items: jsonpatch's search is quadratic in them."""

Operation = dict[str, Any]

_encode_as_is = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode
_ABSENT: Final = object()


def diff(base: Any, target: Any, *, ordered: bool = False) -> list[Operation]:
    """The operations that make `target` of `base`; none where they are equal. Neither is changed; the patch shares values with `target`.

    Types count: 1, 1.0 and true differ. With `ordered` the order of an object's keys counts, too; a patch can only
    append keys, so an object whose order differs is replaced as a whole. The patch is right but not always smaller
    than `target`: compare before sending it.
    """
    try:
        return _Differ(ordered=ordered).run(base, target)
    except RecursionError:
        return [_replace("", target)]


def escape(key: str) -> str:
    """A key as a step of a JSON Pointer (RFC 6901)."""
    if "~" in key or "/" in key:
        return key.replace("~", "~0").replace("/", "~1")
    return key


def _replace(path: str, value: Any) -> Operation:
    return {"op": "replace", "path": path, "value": value}


class _Differ:
    __slots__ = ("encode", "operations", "ordered", "search_bytes", "search_items")

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        self.encode = _encode_as_is if ordered else _encode_sorted
        self.operations: list[Operation] = []
        self.search_bytes = MAX_SEARCH_BYTES
        self.search_items = MAX_SEARCH_ITEMS

    def run(self, base: Any, target: Any) -> list[Operation]:
        self._values(base, target, "")
        return self.operations

    def _values(self, base: Any, target: Any, path: str) -> None:
        kind = type(target)
        if type(base) is not kind:
            self.operations.append(_replace(path, target))
        elif kind is dict:
            self._objects(base, target, path)
        elif kind is list:
            self._arrays(base, target, path)
        elif base != target:
            self.operations.append(_replace(path, target))

    def _objects(self, base: dict[str, Any], target: dict[str, Any], path: str) -> None:
        if len(base) != len(target) or list(base) != list(target):
            if self.ordered and not _keeps_order(base, target):
                self.operations.append(_replace(path, target))
                return
            self.operations += [{"op": "remove", "path": f"{path}/{escape(key)}"} for key in base if key not in target]
        for key, new in target.items():
            old = base.get(key, _ABSENT)
            kind = type(new)
            # Equal scalars are by far the most; they need no path.
            if type(old) is kind and kind is not dict and kind is not list and old == new:
                continue
            place = f"{path}/{escape(key)}"
            if old is _ABSENT:
                self.operations.append({"op": "add", "path": place, "value": new})
            else:
                self._values(old, new, place)

    def _arrays(self, base: list[Any], target: list[Any], path: str) -> None:
        if len(base) != len(target):
            self._arrays_of_other_length(base, target, path)
            return
        for index, (old, new) in enumerate(zip(base, target, strict=True)):
            self._values(old, new, f"{path}/{index}")

    def _arrays_of_other_length(self, base: list[Any], target: list[Any], path: str) -> None:
        old = [self.encode(item) for item in base]
        new = [self.encode(item) for item in target]
        shorter = min(len(old), len(new))
        head = 0
        while head < shorter and old[head] == new[head]:
            head += 1
        tail = 0
        while tail < shorter - head and old[-1 - tail] == new[-1 - tail]:
            tail += 1
        old_end, new_end = len(old) - tail, len(new) - tail
        if head == old_end:
            self.operations += [{"op": "add", "path": f"{path}/{index}", "value": target[index]} for index in range(head, new_end)]
        elif head == new_end:
            self.operations += [{"op": "remove", "path": f"{path}/{head}"}] * (old_end - head)
        elif (found := self._search(old[head:old_end], new[head:new_end])) is not None:
            self.operations += [_moved(operation, path, head) for operation in found]
        else:
            self.operations.append(_replace(path, target))

    def _search(self, old: list[bytes], new: list[bytes]) -> list[Operation] | None:
        """Let jsonpatch find the difference of two arrays, given as the JSON of their items. None where that costs too much or fails."""
        self.search_bytes -= sum(map(len, old)) + sum(map(len, new))
        self.search_items -= len(old) + len(new)
        if self.search_bytes < 0 or self.search_items < 0:
            return None
        # Its own copies: the patch is tried on one of them.
        base, target = ([msgspec.json.decode(text) for text in texts] for texts in (old, new))
        operations: list[Operation] = jsonpatch.make_patch(base, target).patch
        # A patch that does not do what it should is not worth a wrong value at a client.
        try:
            made = apply(base, operations)
        except DeltaError:
            return None
        return operations if [self.encode(item) for item in made] == new else None


def _keeps_order(base: dict[str, Any], target: dict[str, Any]) -> bool:
    """Whether removing keys of `base` and appending new ones gives the order of `target`."""
    kept = [key for key in base if key in target]
    return [*kept, *(key for key in target if key not in base)] == list(target)


def _moved(operation: Operation, path: str, offset: int) -> Operation:
    """An operation on an array, as one on the array at `path` whose first `offset` items it does not know of."""
    moved = dict(operation)
    for name in ("path", "from"):
        if name in moved:
            index, separator, rest = moved[name][1:].partition("/")
            moved[name] = f"{path}/{int(index) + offset}{separator}{rest}"
    return moved
