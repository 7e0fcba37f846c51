"""Rules as the bridge uses them: checked, with every default filled in and every expression compiled."""

from __future__ import annotations

import msgspec

from bridge.core.decoding import Decoder
from bridge.core.draft import ChannelSettings, OnError
from bridge.core.expression import Expression
from bridge.core.letter import DeadLetterTopic
from bridge.core.template import Template
from shared.publication import ContentType


class Source(msgspec.Struct, frozen=True):
    """Which topics belong together, and what their values are. Exactly one of `topics` and `topic_pattern` is set."""

    name: str
    topics: tuple[str, ...]
    topic_pattern: str | None
    """Begins with `^`, as librdkafka wants it, and is not anchored at its end unless it says so."""
    decoder: Decoder
    """What reads its values."""
    key_decoder: Decoder | None = None
    """What reads its keys; None: as text, and null where they are none."""
    dead_letters: DeadLetterTopic = DeadLetterTopic()
    """Where records go that a route with `on_error: dead-letter` cannot handle."""


class Projection(msgspec.Struct, frozen=True):
    """What a client gets of an item: an object of named expressions, or one expression's value."""

    fields: tuple[tuple[str, Expression], ...] = ()
    whole: Expression | None = None

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """All of them."""
        return (self.whole,) if self.whole is not None else tuple(expression for _, expression in self.fields)


class Route(msgspec.Struct, frozen=True):
    """From the records of one source to channels."""

    name: str
    source: Source
    channels: tuple[Template, ...]
    split: Expression | None
    where: Expression | None
    projection: Projection | None
    settings: ChannelSettings
    on_error: OnError

    @property
    def content_type(self) -> ContentType:
        """What its payloads are: JSON as soon as the bridge writes them, else what the source has."""
        if self.projection is not None or self.split is not None:
            return ContentType.JSON
        passes = self.source.decoder.passes
        return ContentType.JSON if passes is None else passes

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """All its expressions, those in its channel templates too."""
        found = [part for template in self.channels for part in template.parts if isinstance(part, Expression)]
        found += [expression for expression in (self.split, self.where) if expression is not None]
        return (*found, *(self.projection.expressions if self.projection else ()))


class CompiledRules(msgspec.Struct, frozen=True):
    """A whole rules file."""

    sources: tuple[Source, ...]
    routes: tuple[Route, ...]
    notes: tuple[str, ...] = ()
    """What is allowed but looks like a mistake, for `bridge check`."""

    @property
    def topics(self) -> list[str]:
        """What to subscribe to: names of topics and patterns (they begin with `^`), each once, of sources that a route uses."""
        used = {route.source.name for route in self.routes}
        found: dict[str, None] = {}
        for source in self.sources:
            if source.name in used:
                found.update(dict.fromkeys(source.topics))
                if source.topic_pattern is not None:
                    found[source.topic_pattern] = None
        return list(found)
