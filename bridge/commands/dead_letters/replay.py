"""`bridge dead-letters replay`: produce records again, each with the mark that it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.commands.dead_letters.options import (
    Properties,
    Property,
    Route,
    Rules,
    Servers,
    Since,
    Topics,
    Wanted,
    place_of,
    properties_of,
    wrong,
)
from bridge.commands.dead_letters.reader import open_reader, topics_meant, without_value
from bridge.commands.dead_letters.table import age, print_list
from bridge.commands.rules_file import PROBLEMS

if TYPE_CHECKING:
    from bridge.adapters.kafka_letters import Letter, LetterReader, Place


def replay(
    *,
    bootstrap_servers: Servers,
    letter: Annotated[list[str] | None, typer.Argument(metavar="LETTER", help="As the list names them: TOPIC:PARTITION:OFFSET.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All letters of the topics that were not replayed.")] = False,
    topic: Topics = None,
    rules: Rules = None,
    route: Route = None,
    since: Since = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="TOPIC", help="Produce to this topic, not to the one that each record came from.")
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="With the present time instead of the record's own: for topics that forget old ones.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also those that were replayed before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be replayed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    kafka_property: Property = None,
    kafka_properties: Properties = None,
) -> None:
    """Play dead letters again: each record is produced as it was to the topic that it came from, for the bridge to try anew.

    Correct the rules first. A header tells the bridges of the letter's group to give it only to the route that failed, and of a split
    only the items that failed; bridges of other groups leave it out. [bold]Other consumers of the topic see the record again[/bold]:
    where they must not, name a topic of your own with --to, and consume it with a source of the same routes. Of two letters of one
    record and route one is played, with the items of both. Each record and the mark that it was replayed are written in one
    transaction, so a second replay does not play it twice, whatever happens.

    Exit code 0: all were replayed (or there was none); 1: some could not be, or Kafka does not answer; 2: the command line is wrong;
    130: interrupted: what was not told as replayed was not.

    [bold]Examples[/bold]

    bridge dead-letters replay vehicles.dead-letters:0:12 --bootstrap-servers kafka:9092

    bridge dead-letters replay --all --route position --since 1d --rules rules.yaml --bootstrap-servers kafka:9092 --dry-run
    """
    places = {place_of(text) for text in letter or ()}
    if bool(places) == every:
        wrong("name letters, or say --all (with --route and --since, if you like)")
    if places and (topic or route or since):
        wrong("--topic, --route and --since go with --all, not with letters that are named")
    wanted = Wanted(route, since)
    names = sorted({place.topic for place in places}) or topic
    with open_reader(bootstrap_servers, kafka_properties, kafka_property) as reader:
        topics = topics_meant(reader, names, None if places else rules)
        failed = 0
        if not topics:
            typer.echo("no dead letters")
        for name, partitions in topics:
            job = _Job(reader, name, partitions, lambda each: each.place in places if places else wanted.takes(each), again=again)
            failed += job.run(bootstrap_servers, properties_of(kafka_properties, kafka_property), to, now=now, dry_run=dry_run, yes=yes)
            failed += _tell_missing(places, name, job)
    if failed:
        raise typer.Exit(PROBLEMS)


class _Job:
    """The replay of one topic's letters."""

    def __init__(self, reader: LetterReader, topic: str, partitions: int, takes: Callable[[Letter], bool], *, again: bool) -> None:
        self._reader = reader
        self._topic = topic
        self._partitions = partitions
        self._takes = takes
        self._again = again
        self.seen: set[Place] = set()

    def run(self, servers: str, properties: dict[str, str], to: str | None, *, now: bool, dry_run: bool, yes: bool) -> int:
        """Do it. Returns how many could not be replayed."""
        from bridge.adapters.kafka_letters import LetterReader, Replayer

        if dry_run:
            chosen = self._choose()
            print_list(chosen, {}, as_json=False)
            typer.echo(f"{self._topic}: {_count(len(chosen))} would be replayed")
            return 0
        if not yes:
            self._ask(to)
        with LetterReader(servers, properties) as originals:
            targets = originals.topics()
            replayer = Replayer(servers, properties, originals, self._topic, keep_time=not now)
            replayer.open()
            # Only now: what another replay did is marked, and no other one can go on.
            meant = {each.place: each.facts.items for each in self._choose()}
            done = failed = 0
            try:
                for result in replayer.replay(self._letters(meant), targets, to):
                    if result.problem:
                        failed += 1
                        typer.echo(f"{result.letter.place}: not replayed: {result.problem}", err=True)
                    else:
                        done += 1
            finally:
                typer.echo(f"{self._topic}: {_count(done)} replayed" + (f", {failed} not" if failed else ""))
        return failed

    def _letters(self, meant: dict[Place, tuple[int | str, ...] | None]) -> Iterator[Letter]:
        """The letters at these places, with their values, and with these items as theirs."""
        if meant:
            yield from (_with_items(letter, meant[letter.place]) for letter in self._reader.letters(meant))

    def _choose(self) -> list[Letter]:
        """The letters that are meant, without their values: one for each record and route, and (unless told so) none that has a mark.

        A record has several letters of one route where that failed for some items and the bus refused others: one is played for all.
        """
        from bridge.adapters.kafka_letters import Mark

        marked: set[object] = set()
        found: dict[object, Letter] = {}
        items: dict[object, tuple[int | str, ...] | None] = {}
        for each in self._reader.scan(self._topic, range(self._partitions)):
            if isinstance(each, Mark):
                marked.add(each.identity)
                continue
            identity, own = each.facts.identity, each.facts.items
            before = items.get(identity, ())
            items[identity] = None if own is None or before is None else tuple(dict.fromkeys((*before, *own)))
            if self._takes(each):
                self.seen.add(each.place)
                found.setdefault(identity, without_value(each))
        chosen = [_with_items(letter, items[identity]) for identity, letter in found.items() if self._again or identity not in marked]
        return sorted(chosen, key=age)

    def _ask(self, to: str | None) -> None:
        if not sys.stdin.isatty():
            wrong("say --yes (or --dry-run) where nobody can be asked")
        chosen = self._choose()
        if chosen:
            where = to or ", ".join(sorted({each.facts.topic for each in chosen}))
            typer.confirm(f"{self._topic}: produce {_count(len(chosen))} to {where}?", abort=True)


def _tell_missing(places: set[Place], topic: str, job: _Job) -> int:
    missing = sorted(place for place in places if place.topic == topic and place not in job.seen)
    for place in missing:
        typer.echo(f"there is no dead letter at {place}", err=True)
    return len(missing)


def _with_items(letter: Letter, items: tuple[int | str, ...] | None) -> Letter:
    from msgspec.structs import replace

    return replace(letter, facts=replace(letter.facts, items=items))


def _count(number: int) -> str:
    return f"{number} letter{'' if number == 1 else 's'}"
