"""The outline of Avro schemas: rewritten with our logical types, and what their types contain, by names as Avro resolves them.

Avro 1.11, "Names" and "Logical Types".
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Any

from bridge.formats.avro_values import MAX_PRECISION, our_logical_type
from shared.errors import ConfigurationError

MAX_DEPTH = 200

_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_CONTAINERS = frozenset({"array", "map", "enum", *_PRIMITIVES} - {"null"})
_SIZES = {"uuid": 16, "duration": 12}
"""Bytes of the logical types of a fixed."""


class Outline:
    """Schemas rewritten with our logical types, and what their types contain: by names, as Avro resolves them."""

    def __init__(self) -> None:
        self._inside: dict[str, set[str]] = {}
        """The named types that each record contains, however indirectly inside of itself."""
        self._fields: dict[str, list[Any]] = {}
        self._items: list[tuple[Any, str]] = []
        self._empty: dict[str, bool] = {}
        """Whether types have no bytes at all, by name, as far as it is known."""

    def enter(self, schema: Any) -> Any:
        """`schema` with our logical types."""
        return self._rewrite(schema, "", None, 0)

    def is_recursive(self) -> bool:
        """Whether a type contains itself."""
        try:
            TopologicalSorter(self._inside).prepare()
        except CycleError:
            return True
        return False

    def empty_items(self) -> bool:
        """Whether an array's items may have no bytes at all. Raises ConfigurationError where types are too deep in each other to tell."""
        try:
            return any(self._is_empty(item, space) for item, space in self._items)
        except RecursionError as error:
            raise ConfigurationError(["has types that are nested too deeply in each other"]) from error

    def _is_empty(self, schema: Any, space: str) -> bool:
        if isinstance(schema, dict):
            kind = schema.get("type")
            if kind in {"record", "error", "fixed"}:
                return self._is_empty_type(_full_name(schema, space)[0])
            return kind not in _CONTAINERS and self._is_empty(kind, space) if isinstance(kind, str) else True
        if isinstance(schema, str) and schema not in _PRIMITIVES:
            return self._is_empty_type(_resolved(schema, space))
        return bool(schema == "null")

    def _is_empty_type(self, name: str) -> bool:
        """The same of a type by its name. Each is looked at once: records that share records would be 2**n ways to the same one."""
        if name not in self._empty:
            self._empty[name] = False  # What contains itself has bytes that say where it ends. So has an enum.
            self._empty[name] = name in self._fields and all(self._is_empty(kind, name.rpartition(".")[0]) for kind in self._fields[name])
        return self._empty[name]

    def _rewrite(self, schema: Any, space: str, inside: str | None, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ConfigurationError([f"is nested more than {MAX_DEPTH} levels deep"])
        if isinstance(schema, list):
            return [self._rewrite(branch, space, inside, depth + 1) for branch in schema]
        if isinstance(schema, str):
            if schema in _PRIMITIVES:
                ours = our_logical_type(schema, "")
                return schema if ours is None else {"type": schema, "logicalType": ours}
            self._contains(inside, _resolved(schema, space))
            return schema
        if not isinstance(schema, dict):
            return schema
        return self._rewrite_complex(schema, space, inside, depth)

    def _rewrite_complex(self, schema: dict[str, Any], space: str, inside: str | None, depth: int) -> Any:
        kind, logical = schema.get("type"), schema.get("logicalType", "")
        rest = {name: value for name, value in schema.items() if name not in {"logicalType", "doc", "aliases"}}
        if kind in {"record", "error"}:
            name, space = _full_name(schema, space)
            self._contains(inside, name)
            fields = [field for field in schema.get("fields", ()) if isinstance(field, dict)]
            self._fields[name] = [field.get("type") for field in fields]
            self._inside.setdefault(name, set())
            kept = [
                {"name": field.get("name"), "type": self._rewrite(field.get("type"), space, name, depth + 1)} for field in fields
            ]  # Without defaults: they are for readers of other versions.
            return {**rest, "fields": kept}
        if kind == "array":
            self._items.append((schema.get("items"), space))
            return {**rest, "items": self._rewrite(schema.get("items"), space, inside, depth + 1)}
        if kind == "map":
            return {**rest, "values": self._rewrite(schema.get("values"), space, inside, depth + 1)}
        if kind == "enum":
            return {name: value for name, value in rest.items() if name != "default"}
        if not isinstance(kind, str):
            return self._rewrite(kind, space, inside, depth + 1)
        if kind == "fixed":
            self._empty[_full_name(schema, space)[0]] = schema.get("size") == 0
        return _with_our_type(rest, kind, logical if isinstance(logical, str) else "")

    def _contains(self, inside: str | None, name: str) -> None:
        if inside is not None:
            self._inside.setdefault(inside, set()).add(name)


def _with_our_type(schema: dict[str, Any], kind: str, logical: str) -> dict[str, Any]:
    """A schema of a primitive or fixed type, or of a named one, with the logical type that reads it. `logical` is what it said itself."""
    if kind == "fixed" and not (isinstance(size := schema.get("size"), int) and size >= 0):
        raise ConfigurationError(["is no Avro schema: a fixed type's size must be a number of bytes"])
    if logical == "decimal":
        schema = {**schema, "scale": schema.get("scale", 0)}
    ours = our_logical_type(kind, logical if _is_right(schema, kind, logical) else "")
    return schema if ours is None else {**schema, "logicalType": ours}


def _is_right(schema: dict[str, Any], kind: str, logical: str) -> bool:
    """Whether a logical type has what it needs. One that has not is ignored, as Avro says."""
    if logical == "decimal":
        precision, scale = schema.get("precision"), schema.get("scale")
        return isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision <= MAX_PRECISION
    return kind != "fixed" or schema.get("size") == _SIZES.get(logical, schema.get("size"))


def _full_name(schema: dict[str, Any], space: str) -> tuple[str, str]:
    """A named type's full name, and its namespace, which is that of the names inside of it."""
    name = str(schema.get("name", ""))
    if "." not in name:
        space = str(schema.get("namespace", space) or "")
        return (f"{space}.{name}" if space else name), space
    return name, name.rpartition(".")[0]


def _resolved(name: str, space: str) -> str:
    return name if "." in name or not space else f"{space}.{name}"
