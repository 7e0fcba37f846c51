"""Checking a document against the model: problems in our words, each at its place."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bridge.core.expression import Expression
from bridge.rules.document import Document, Path, Problem, show_path
from bridge.rules.model import INNER_MODELS, KNOWN_ELSEWHERE, RouteModel, SettingsModel, SourceModel, kind_of

_M = TypeVar("_M", bound=BaseModel)


class Checker:
    """Collects problems; the same one at the same place once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: dict[Problem, None] = dict.fromkeys(document.problems)
        self.named: dict[str, Expression] = {}
        """Expressions that others may name."""

    @property
    def problems(self) -> list[Problem]:
        """All of them, in the order of the file."""
        return sorted(self._found, key=lambda problem: problem.line)

    def tell(self, path: Path, text: str) -> None:
        """Add a problem at `path`. A single channel is number 0 of the model's, and has no number in the file."""
        if path and isinstance(path[-1], int) and path not in self._document.value_lines:
            path = path[:-1]
        self._found[Problem(self._document.line_of(path), show_path(path), text)] = None

    def validate(self, model: type[_M], data: object, path: Path) -> _M | None:
        """`data`, which stands at `path`, as a `model`; None where it is none, and the problems are told."""
        if not isinstance(data, dict):
            self.tell(path, f"must be a mapping, not {kind_of(data)}")
            return None
        try:
            return model.model_validate(data, context={"named": self.named})
        except ValidationError as error:
            errors = error.errors(include_url=False)
        suggested: set[Path] = set()
        missing: list[Path] = []
        for found in errors:
            where = (*path, *self._reachable(data, found["loc"]))
            if found["type"] == "extra_forbidden":
                self.tell(where, self._unknown(model, found["loc"], data, suggested, path))
            elif found["type"] == "missing":
                missing.append((*path, *found["loc"]))
            else:
                self._tell_wrong(where, found)
        for where in missing:
            if where not in suggested:
                self.tell(where[:-1], f'needs "{where[-1]}"')
        return None

    def _tell_wrong(self, where: Path, found: Any) -> None:
        pairs = found.get("ctx", {}).get("problems")
        if pairs is None:  # One of pydantic's own.
            self.tell(where, f"is wrong: {found['msg']}")
            return
        for inside, text in pairs:
            self.tell((*where, inside) if inside else where, text)

    @staticmethod
    def _reachable(data: Any, loc: tuple[str | int, ...]) -> Iterator[str | int]:
        """The part of pydantic's path that the file has too: one channel may stand there without a list."""
        for step in loc:
            is_there = step in data if isinstance(data, dict) else isinstance(data, list) and isinstance(step, int) and step < len(data)
            if not is_there:
                return
            data = data[step]
            yield step

    @staticmethod
    def _unknown(model: type[BaseModel], loc: tuple[str | int, ...], data: dict[str, Any], suggested: set[Path], path: Path) -> str:
        name = str(loc[-1])
        inner = INNER_MODELS.get(str(loc[-2]), model) if len(loc) > 1 else model
        fields = list(inner.model_fields)
        if name in KNOWN_ELSEWHERE and model in {RouteModel, SourceModel, SettingsModel} and len(loc) == 1:
            return KNOWN_ELSEWHERE[name]
        if model is SettingsModel and name in RouteModel.model_fields:
            return "cannot be a default: each route says it itself"
        close = get_close_matches(name, fields, n=1, cutoff=0.6)
        if close:
            if close[0] not in data:
                suggested.add((*path, *loc[:-1], close[0]))
            return f'unknown setting; did you mean "{close[0]}"?'
        return f"unknown setting; there are {', '.join(sorted(fields))}"
