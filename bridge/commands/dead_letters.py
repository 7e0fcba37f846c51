"""`bridge dead-letters list | show | replay`: look at records that were put aside, and play them again."""

from __future__ import annotations

import base64
import re
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from bridge.commands.rules_file import PROBLEMS, USAGE, load_or_exit, printable

if TYPE_CHECKING:
    from bridge.adapters.kafka_letters import Letter, LetterReader, Place
    from bridge.core.record import Record
    from bridge.core.ruleset import CompiledRules

INTERRUPTED = 130
MAX_SHOWN_BYTES = 4_096
MAX_SHOWN_ERROR = 300

dead_letters = typer.Typer(
    name="dead-letters",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Look at records that routes with `on_error: dead-letter` could not handle, and play them again. docs/operations.md, section 10.",
)

Servers = Annotated[
    str, typer.Option("--bootstrap-servers", envvar="BRIDGE_BOOTSTRAP_SERVERS", metavar="HOST:PORT,...", help="Some of Kafka's brokers.")
]
Topics = Annotated[
    list[str] | None,
    typer.Option(
        "--topic", "-t", envvar="BRIDGE_DEAD_LETTER_TOPICS", help="A topic of dead letters. Repeatable. Default: those of --rules."
    ),
]
Rules = Annotated[
    Path | None,
    typer.Option(
        "--rules", envvar="BRIDGE_RULES", exists=True, dir_okay=False, help="The rules file: names the topics, and decodes values."
    ),
]
Property = Annotated[
    list[str] | None,
    typer.Option("--kafka-property", envvar="BRIDGE_KAFKA_PROPERTY", metavar="NAME=VALUE", help="A property of librdkafka. Repeatable."),
]
Properties = Annotated[
    Path | None,
    typer.Option("--kafka-properties", envvar="BRIDGE_KAFKA_PROPERTIES", metavar="FILE", help="A file of such properties: for passwords."),
]
Route = Annotated[str | None, typer.Option("--route", envvar="BRIDGE_ROUTE", help="Only letters of this route.")]
Since = Annotated[
    str | None,
    typer.Option("--since", envvar="BRIDGE_SINCE", metavar="TIME", help="Only letters put aside since: 30m, 2h, 7d, or 2026-01-31T12:00Z."),
]
AsJson = Annotated[bool, typer.Option("--json", envvar="BRIDGE_JSON", help="Print JSON, a line for each letter.")]


class _Wanted:
    """Which letters are meant."""

    def __init__(self, route: str | None, since: str | None) -> None:
        self.route = route
        self.since = _time_of(since)

    @property
    def is_all(self) -> bool:
        return self.route is None and self.since is None

    def takes(self, letter: Letter) -> bool:
        facts = letter.facts
        if self.route is not None and facts.route != self.route:
            return False
        return self.since is None or (facts.at is not None and facts.at >= self.since)


@dead_letters.command("list")
def list_(
    *,
    bootstrap_servers: Servers,
    topic: Topics = None,
    rules: Rules = None,
    route: Route = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, envvar="BRIDGE_LIMIT", help="At most so many: the newest ones.")] = 50,
    as_json: AsJson = False,
    kafka_property: Property = None,
    kafka_properties: Properties = None,
) -> None:
    """List dead letters, the newest ones last: when, from where, by which route, and why.

    Exit code 0: done, even where there are none; 1: Kafka does not answer, or the rules have problems; 2: the command line is wrong.

    [bold]Examples[/bold]

    bridge dead-letters list --bootstrap-servers kafka:9092 --rules rules.yaml

    bridge dead-letters list --bootstrap-servers kafka:9092 --topic vehicles.dead-letters --since 2h --route position --json
    """
    from bridge.adapters.kafka_letters import Mark

    wanted = _Wanted(route, since)
    with _reader(bootstrap_servers, kafka_properties, kafka_property) as reader:
        found: list[Letter] = []
        replayed: dict[object, datetime] = {}
        for name, partitions in _topics(reader, topic, rules):
            kept: defaultdict[int, deque[Letter]] = defaultdict(lambda: deque(maxlen=limit))
            # Marks come after their letters, so without a filter the ends of the partitions are enough (transactions take places, too).
            for each in reader.scan(name, partitions, newest=4 * limit if wanted.is_all else None):
                if isinstance(each, Mark):
                    replayed[each.identity] = each.at
                elif wanted.takes(each):
                    kept[each.place.partition].append(_without_value(each))
            found += [each for letters in kept.values() for each in letters]
        found.sort(key=_age)
        _print_list(found[-limit:], replayed, as_json=as_json)


@dead_letters.command("show")
def show(
    letter: Annotated[str, typer.Argument(metavar="LETTER", help="As the list names it: TOPIC:PARTITION:OFFSET.")],
    bootstrap_servers: Servers,
    rules: Rules = None,
    raw: Annotated[bool, typer.Option("--raw", envvar="BRIDGE_RAW", help="Write the record's value, as it is, to stdout.")] = False,
    as_json: AsJson = False,
    kafka_property: Property = None,
    kafka_properties: Properties = None,
) -> None:
    """Show one dead letter: what its headers tell, and its key and value, decoded where that is possible.

    With --rules, the value is read as the route's source says (Avro, Protobuf ...). Exit code 0: done; 1: there is no such letter, or
    Kafka does not answer; 2: the command line is wrong.

    [bold]Examples[/bold]

    bridge dead-letters show vehicles.dead-letters:0:12 --bootstrap-servers kafka:9092

    bridge dead-letters show vehicles.dead-letters:0:12 --bootstrap-servers kafka:9092 --raw > value.bin
    """
    place = _place(letter)
    compiled = load_or_exit(rules) if rules is not None else None
    with _reader(bootstrap_servers, kafka_properties, kafka_property) as reader:
        found = reader.letter(place)
    if found is None:
        typer.echo(f"there is no dead letter at {place}", err=True)
        raise typer.Exit(PROBLEMS)
    if raw:
        sys.stdout.buffer.write(found.record.value or b"")
    elif as_json:
        typer.echo(_json({**_described(found, None), **_contents(found)}))
    else:
        _print_letter(found, compiled)


@dead_letters.command("replay")
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
    places = {_place(text) for text in letter or ()}
    if bool(places) == every:
        _wrong("name letters, or say --all (with --route and --since, if you like)")
    if places and (topic or route or since):
        _wrong("--topic, --route and --since go with --all, not with letters that are named")
    wanted = _Wanted(route, since)
    names = sorted({place.topic for place in places}) or topic
    with _reader(bootstrap_servers, kafka_properties, kafka_property) as reader:
        topics = _topics(reader, names, None if places else rules)
        failed = 0
        if not topics:
            typer.echo("no dead letters")
        for name, partitions in topics:
            job = _Job(reader, name, partitions, lambda each: each.place in places if places else wanted.takes(each), again=again)
            failed += job.run(bootstrap_servers, _properties(kafka_properties, kafka_property), to, now=now, dry_run=dry_run, yes=yes)
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
            _print_list(chosen, {}, as_json=False)
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
        for each in self._reader.scan(self._topic, self._partitions):
            if isinstance(each, Mark):
                marked.add(each.identity)
                continue
            identity, own = each.facts.identity, each.facts.items
            before = items.get(identity, ())
            items[identity] = None if own is None or before is None else tuple(dict.fromkeys((*before, *own)))
            if self._takes(each):
                self.seen.add(each.place)
                found.setdefault(identity, _without_value(each))
        chosen = [_with_items(letter, items[identity]) for identity, letter in found.items() if self._again or identity not in marked]
        return sorted(chosen, key=_age)

    def _ask(self, to: str | None) -> None:
        if not sys.stdin.isatty():
            _wrong("say --yes (or --dry-run) where nobody can be asked")
        chosen = self._choose()
        if chosen:
            where = to or ", ".join(sorted({each.facts.topic for each in chosen}))
            typer.confirm(f"{self._topic}: produce {_count(len(chosen))} to {where}?", abort=True)


def _tell_missing(places: set[Place], topic: str, job: _Job) -> int:
    missing = sorted(place for place in places if place.topic == topic and place not in job.seen)
    for place in missing:
        typer.echo(f"there is no dead letter at {place}", err=True)
    return len(missing)


# What the commands have in common.


def _properties(file: Path | None, pairs: list[str] | None) -> dict[str, str]:
    from bridge.settings import read_properties

    properties, problems = read_properties(file, pairs or ())
    if problems:
        _wrong("\n".join(problems))
    return properties


@contextmanager
def _reader(servers: str, file: Path | None, pairs: list[str] | None) -> Iterator[LetterReader]:
    """A reader; what goes wrong with it ends the command with a line and an exit code."""
    from bridge.adapters.kafka_letters import LetterReader, LettersError
    from shared.errors import ConfigurationError

    properties = _properties(file, pairs)
    try:
        with LetterReader(servers, properties) as reader:
            yield reader
    except ConfigurationError as error:
        _wrong("\n".join(error.problems))
    except LettersError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(PROBLEMS) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _wrong(text: str) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(USAGE)


def _place(text: str) -> Place:
    from bridge.adapters.kafka_letters import Place

    place = Place.parse(text)
    if place is None:
        msg = f"{printable(text, 80)} is not TOPIC:PARTITION:OFFSET"
        raise typer.BadParameter(msg)
    return place


def _topics(reader: LetterReader, names: list[str] | None, rules: Path | None) -> list[tuple[str, int]]:
    """The topics that are meant and exist, with their partitions."""
    there = reader.topics()
    if names:
        missing = [name for name in names if name not in there]
        if missing:
            typer.echo(f"there is no topic {', '.join(missing)} (or it may not be seen)", err=True)
            raise typer.Exit(PROBLEMS)
        return [(name, there[name]) for name in dict.fromkeys(names)]
    if rules is None:
        _wrong("say which topics: --topic, or --rules to take those of a rules file")
    return [(name, there[name]) for name in _topics_of(load_or_exit(rules), there) if name in there]


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


def _time_of(text: str | None) -> datetime | None:
    if text is None:
        return None
    from bridge.rules.units import parse_duration_ms

    try:
        return datetime.now(UTC) - timedelta(milliseconds=parse_duration_ms(text))
    except (ValueError, OverflowError):
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        msg = f"--since: {printable(text, 80)} is neither a duration such as 30m, 2h or 7d nor a time such as 2026-01-31T12:00Z"
        raise typer.BadParameter(msg) from None
    return found if found.tzinfo is not None else found.astimezone()


def _without_value(letter: Letter) -> Letter:
    """A list needs no values, and a topic may have more of them than this machine has memory."""
    from msgspec.structs import replace

    return replace(letter, record=replace(letter.record, value=None))


def _with_items(letter: Letter, items: tuple[int | str, ...] | None) -> Letter:
    from msgspec.structs import replace

    return replace(letter, facts=replace(letter.facts, items=items))


_NEVER = datetime.min.replace(tzinfo=UTC)


def _age(letter: Letter) -> tuple[datetime, Place]:
    return letter.facts.at or _NEVER, letter.place


def _count(number: int) -> str:
    return f"{number} letter{'' if number == 1 else 's'}"


# Printing.


def _print_list(letters: list[Letter], replayed: dict[object, datetime], *, as_json: bool) -> None:
    if as_json:
        for letter in letters:
            typer.echo(_json(_described(letter, replayed.get(letter.facts.identity))))
        return
    from rich.table import Table

    from bridge.commands.terminal import console

    if not letters:
        typer.echo("no dead letters")
        return
    table = Table("put aside", "letter", "from", "route", "error", "replayed")
    for letter in letters:
        facts = letter.facts
        at = replayed.get(facts.identity)
        row = [
            _shown_time(facts.at),
            str(letter.place),
            facts.source,
            facts.route,
            printable(facts.error, MAX_SHOWN_ERROR),
            _shown_time(at),
        ]
        table.add_row(*map(_plain, row))
    console().print(table)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _shown_time(at: datetime | None) -> str:
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _described(letter: Letter, replayed_at: datetime | None) -> dict[str, Any]:
    facts = letter.facts
    return {
        "letter": str(letter.place),
        "at": facts.at.isoformat() if facts.at else None,
        "cluster": facts.cluster,
        "topic": facts.topic,
        "partition": facts.partition,
        "offset": facts.offset,
        "timestamp": facts.timestamp_ms,
        "group": facts.group,
        "route": facts.route,
        "error": facts.error,
        "items": facts.items,
        "failed": facts.failed,
        "version": facts.version,
        "value_left_out_bytes": facts.left_out,
        "replayed_at": replayed_at.isoformat() if replayed_at else None,
    }


def _contents(letter: Letter) -> dict[str, Any]:
    record = letter.record
    headers = [{"name": name, **_text_or_base64(value)} for name, value in letter.facts.headers]
    return {"headers": headers, "key": _text_or_base64(record.key), "value": _text_or_base64(record.value)}


def _text_or_base64(data: bytes | None) -> dict[str, str | None]:
    if data is None:
        return {"text": None}
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _json(value: object) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()


def _print_letter(letter: Letter, rules: CompiledRules | None) -> None:
    facts, record = letter.facts, letter.record
    lines = {
        "letter": str(letter.place),
        "put aside": _shown_time(facts.at),
        "from": f"{facts.source} of cluster {facts.cluster or 'unknown'}",
        "record's time": _shown_time(_from_ms(facts.timestamp_ms)),
        "route": f"{facts.route} (group {facts.group})",
        "error": facts.error,
        "items": f"{facts.failed} failed" + (f": {', '.join(map(str, facts.items))}" if facts.items is not None else ""),
        "version": facts.version,
    }
    for name, text in lines.items():
        typer.echo(f"{name + ':':<15}{printable(text, 5_000)}")
    for header, value in facts.headers:
        typer.echo(f"{'header:':<15}{printable(header, 200)} = {_shown_bytes(value, 500)}")
    typer.echo(f"{'key:':<15}{_shown_bytes(record.key, 500)}")
    if facts.left_out is not None:
        typer.echo(
            f"{'value:':<15}left out: its {facts.left_out} bytes were more than the topic takes; it is at {facts.source}, if that is kept"
        )
        return
    typer.echo(f"{'value:':<15}{'none (a tombstone)' if record.value is None else f'{len(record.value)} bytes'}")
    if record.value is not None:
        typer.echo(_shown_value(letter, rules))


def _from_ms(time_ms: int | None) -> datetime | None:
    try:
        return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _shown_value(letter: Letter, rules: CompiledRules | None) -> str:
    """As its source reads it, else as JSON or text, else as bytes."""
    value = letter.record.value or b""
    decoded, problem = _decoded(letter, rules)
    if problem:
        return f"(not decoded: {problem})\n{_shown_bytes(value, MAX_SHOWN_BYTES)}"
    if decoded is None:
        return _shown_bytes(value, MAX_SHOWN_BYTES)
    import json

    text = json.dumps(decoded, indent=2, ensure_ascii=False, default=str)
    shown = "\n".join(printable(line, 1_000) for line in text[: 4 * MAX_SHOWN_BYTES].splitlines())
    return shown + ("\n..." if len(text) > 4 * MAX_SHOWN_BYTES else "")


def _decoded(letter: Letter, rules: CompiledRules | None) -> tuple[Any, str]:
    """The value and nothing, or nothing and why there is none."""
    import json

    from shared.errors import DistributaryError

    value = letter.record.value or b""
    route = next((each for each in rules.routes if each.name == letter.facts.route), None) if rules is not None else None
    if route is not None:
        try:
            return route.source.decoder.decode(value, _original(letter)), ""
        except DistributaryError as error:
            return None, str(error)
    try:
        return json.loads(value), ""
    except (ValueError, RecursionError):
        return None, ""


def _original(letter: Letter) -> Record:
    """The record as it was: a decoder may look at its topic and headers."""
    from msgspec.structs import replace

    facts = letter.facts
    return replace(letter.record, topic=facts.topic, partition=facts.partition, offset=facts.offset, headers=facts.headers)


def _shown_bytes(data: bytes | None, limit: int) -> str:
    if data is None:
        return "none"
    try:
        return printable(data.decode(), limit)
    except UnicodeDecodeError:
        shown = data[:limit].hex(" ", 4)
        return f"{shown} (hexadecimal{', cut' if len(data) > limit else ''})"
