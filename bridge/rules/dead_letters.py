"""Where dead letters go by the rules, and that they cannot come back: a topic for dead letters is no source of the same rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bridge.core.draft import OnError
from bridge.core.letter_topic import MAX_TOPIC_CHARACTERS, TOPIC_PLACE, DeadLetterTopic
from bridge.core.ruleset import Route, Source
from bridge.rules.check import Checker
from bridge.rules.document import Path
from bridge.rules.model import DeadLettersModel

_DEFAULT = DeadLetterTopic()


def dead_letter_topic(own: DeadLettersModel | None, common: DeadLettersModel) -> DeadLetterTopic:
    """What a source says, else what the file says, else what the program says; each setting by itself."""
    said = [model for model in (own, common) if model is not None]
    template = next((model.topic for model in said if model.topic is not None), _DEFAULT.template)
    create = next((model.create for model in said if model.create is not None), _DEFAULT.create)
    return DeadLetterTopic(template, create)


def check_dead_letters(routes: Sequence[Route], order: Sequence[str], checker: Checker) -> None:
    """Tell `checker` of names that are too long, and of dead letters that these rules would consume. `order`: the sources' names."""
    consumed = {route.source.name: route.source for route in routes}
    writing = {route.source.name: route.source for route in routes if route.on_error is OnError.DEAD_LETTER}
    for source in writing.values():
        path: Path = ("sources", order.index(source.name))
        for name in _known_names(source):
            if len(name) > MAX_TOPIC_CHARACTERS:
                checker.tell(path, f'its dead letters would go to "{name[:60]}...", which is too long for a topic: set dead_letters.topic')
            elif (other := _taker(name, consumed.values())) is not None:
                checker.tell(path, _loop(name, other))
        if source.topic_pattern is not None and TOPIC_PLACE in source.dead_letters.template:
            _check_pattern(source, path, checker)


def _known_names(source: Source) -> list[str]:
    if TOPIC_PLACE not in source.dead_letters.template:
        return [source.dead_letters.template]
    return sorted({source.dead_letters.of(topic) for topic in source.topics})


def _taker(topic: str, sources: Iterable[Source]) -> Source | None:
    return next((source for source in sources if _takes(source, topic)), None)


def _takes(source: Source, topic: str) -> bool:
    if source.topic_pattern is not None:
        return re.search(source.topic_pattern, topic) is not None
    return topic in source.topics


def _check_pattern(source: Source, path: Path, checker: Checker) -> None:
    """A pattern that says nothing about the name's end matches whatever is put behind a name that it matches."""
    template, pattern = source.dead_letters.template, source.topic_pattern or ""
    if template.startswith(TOPIC_PLACE) and "$" not in pattern:
        checker.tell(path, f'{_loop(template, source)}, or end the pattern with "$"')


def _loop(name: str, source: Source) -> str:
    return f'dead letters would go to "{name}", which the source "{source.name}" consumes: give dead_letters.topic another name'
