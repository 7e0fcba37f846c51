"""Which topic takes the dead letters of a source."""

from __future__ import annotations

import msgspec

TOPIC_PLACE = "{topic}"
"""Stands for the record's topic."""
MAX_TOPIC_CHARACTERS = 249
"""Kafka's own bound."""


class DeadLetterTopic(msgspec.Struct, frozen=True):
    """Where the dead letters of a source go. `template` is a topic's name; `{topic}` in it stands for the record's topic."""

    template: str = "{topic}.dead-letters"
    create: bool = True
    """Whether the bridge may create it."""

    def of(self, topic: str) -> str:
        """The name for records of `topic`."""
        return self.template.replace(TOPIC_PLACE, topic)
