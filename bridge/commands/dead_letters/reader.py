"""The way to Kafka: a reader of letters whose failures end the command, and the topics to read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bridge.commands.dead_letters.options import properties_of, wrong
from bridge.commands.rules_file import PROBLEMS, load_or_exit

if TYPE_CHECKING:
    from bridge.adapters.kafka_letters import Letter, LetterReader
    from bridge.core.ruleset import CompiledRules

INTERRUPTED = 130


@contextmanager
def open_reader(servers: str, file: Path | None, pairs: list[str] | None) -> Iterator[LetterReader]:
    """A reader; what goes wrong with it ends the command with a line and an exit code."""
    from bridge.adapters.kafka_letters import LetterReader, LettersError
    from shared.errors import ConfigurationError

    properties = properties_of(file, pairs)
    try:
        with LetterReader(servers, properties) as reader:
            yield reader
    except ConfigurationError as error:
        wrong("\n".join(error.problems))
    except LettersError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(PROBLEMS) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None


def topics_meant(reader: LetterReader, names: list[str] | None, rules: Path | None) -> list[tuple[str, int]]:
    """The topics that are meant and exist, with their partitions."""
    there = reader.topics()
    if names:
        missing = [name for name in names if name not in there]
        if missing:
            typer.echo(f"there is no topic {', '.join(missing)} (or it may not be seen)", err=True)
            raise typer.Exit(PROBLEMS)
        return [(name, there[name]) for name in dict.fromkeys(names)]
    if rules is None:
        wrong("say which topics: --topic, or --rules to take those of a rules file")
    return [(name, there[name]) for name in _topics_of(load_or_exit(rules), there) if name in there]


def without_value(letter: Letter) -> Letter:
    """A list needs no values, and a topic may have more of them than this machine has memory."""
    from msgspec.structs import replace

    return replace(letter, record=replace(letter.record, value=None))


def _topics_of(rules: CompiledRules, there: dict[str, int]) -> list[str]:
    from bridge.core.draft import OnError

    found: set[str] = set()
    for route in rules.routes:
        source = route.source
        if route.on_error is not OnError.DEAD_LETTER:
            continue
        topics = list(source.topics)
        if source.topic_pattern is not None:
            topics += [name for name in there if re.search(source.topic_pattern, name)]
        found.update(source.dead_letters.of(topic) for topic in topics)
    return sorted(found)
