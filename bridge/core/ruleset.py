"""Rules as the bridge uses them: checked, with every default filled in and every expression compiled."""

from __future__ import annotations

import msgspec

from bridge.core.cardinality import DEFAULT_MAX_CHANNELS
from bridge.core.decoding import Decoder
from bridge.core.draft import ChannelSettings, OnError
from bridge.core.expression import Expression
from bridge.core.letter_topic import DeadLetterTopic
from bridge.core.marks import Marks
from bridge.core.template import Template
from shared.publication import ContentType, Kind


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
    """What a client gets of an item: an object of named expressions, or one expression's value with such fields added."""

    fields: tuple[tuple[str, Expression], ...] = ()
    whole: Expression | None = None

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """All of them."""
        fields = tuple(expression for _, expression in self.fields)
        return fields if self.whole is None else (self.whole, *fields)


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
    marks: Marks = Marks()
    max_channels: int = DEFAULT_MAX_CHANNELS
    """How many channels it may make from data within their `ttl`."""

    @property
    def deletes(self) -> bool:
        """Whether a record without a value deletes a key: its key and channels are known without the value."""
        return (
            self.settings.kind is Kind.KEYED
            and self.split is None
            and self.marks.key is not None
            and not self.marks.key.needs_value
            and not any(template.needs_value for template in self.channels)
        )

    @property
    def reads_value(self) -> bool:
        """Whether the record's value is decoded: for an expression, or to check what is passed on as it came.

        Clients must never get what is no JSON (no text) under the name of JSON (text).
        """
        passes_value_on = self.projection is None and self.source.decoder.has_value
        return passes_value_on or any(expression.needs_value for expression in self.expressions)

    @property
    def reads_key(self) -> bool:
        """Whether an expression looks at the key. Where none does, nothing is made of it."""
        return any("key" in expression.roots for expression in self.expressions)

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
        found += [expression for _, expression in self.marks.expressions]
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
