"""Reloading rules: when a file is to be read again, and what changes between the rules that run and new ones."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import msgspec

from bridge.core.decoding import Decoder
from bridge.core.draft import ChannelSettings
from bridge.core.expression import Expression
from bridge.core.ruleset import CompiledRules
from bridge.core.template import Template

STEADY_LOOKS = 2
"""A file that looks different is read when it has looked the same so many times in a row: until then somebody may be writing it."""


class Watch:
    """Decides when a file that is looked at every now and then is to be read. A signature is anything that changes with the file."""

    def __init__(self, signature: Hashable) -> None:
        self._read = self._seen = signature
        self._same = 1

    def __repr__(self) -> str:
        return f"<Watch {'unchanged' if self._seen == self._read else f'changed, the same {self._same} times'}>"

    def look(self, signature: Hashable | None) -> bool:
        """The file looks so now; None where there is none. True once for each change, when it is to be read."""
        if signature is None:
            return False
        self._same = self._same + 1 if signature == self._seen else 1
        self._seen = signature
        if signature == self._read or self._same < STEADY_LOOKS:
            return False
        self._read = signature
        return True


class Change(msgspec.Struct, frozen=True):
    """From the rules that run to new ones. Routes and topics are named."""

    rules: CompiledRules
    """The new ones, with the very objects of the old ones for routes that did not change."""
    kept: tuple[ChannelSettings, ...]
    """Of the routes that did not change."""
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    topics_added: tuple[str, ...] = ()
    topics_removed: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether all is as it was."""
        return not (self.added or self.changed or self.removed or self.topics_added or self.topics_removed)

    @property
    def shown(self) -> dict[str, str]:
        """What a log tells of it."""
        named = {
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "topics_added": self.topics_added,
            "topics_removed": self.topics_removed,
        }
        return {name: _names(values) for name, values in named.items() if values}


def compare(old: CompiledRules, new: CompiledRules) -> Change:
    """What changes. A route is the same where its name, its source and all its settings are; its place in the file does not matter."""
    before, after = ({route.name: route for route in rules.routes} for rules in (old, new))
    same = {name for name in before.keys() & after.keys() if plain(before[name]) == plain(after[name])}
    routes = tuple(before[route.name] if route.name in same else route for route in new.routes)
    return Change(
        msgspec.structs.replace(new, routes=routes),
        tuple(before[name].settings for name in same),
        added=tuple(name for name in after if name not in before),
        changed=tuple(name for name in after if name in before and name not in same),
        removed=tuple(name for name in before if name not in after),
        topics_added=tuple(topic for topic in new.topics if topic not in old.topics),
        topics_removed=tuple(topic for topic in old.topics if topic not in new.topics),
    )


def plain(value: Any) -> Any:
    """`value` (a part of compiled rules) as what can be compared: expressions and templates by their text.

    What is of no kind known here is compared as itself; where it cannot be equal, its route counts as changed, which is always safe.
    """
    if isinstance(value, Expression | Template):
        return type(value).__name__, value.meaning
    if isinstance(value, Decoder):
        return type(value).__name__, value.format, value.digest
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, tuple(plain(field) for field in msgspec.structs.astuple(value))
    if isinstance(value, tuple | list):
        return tuple(plain(part) for part in value)
    if isinstance(value, dict):
        return tuple((name, plain(part)) for name, part in value.items())
    return value


def _names(names: tuple[str, ...]) -> str:
    return ",".join(names if len(names) <= 20 else (*names[:20], f"and {len(names) - 20} more"))
