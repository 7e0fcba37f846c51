"""`bridge dead-letters list`."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.commands.dead_letters.options import AsJson, Properties, Property, Route, Rules, Servers, Since, Topics, Wanted
from bridge.commands.dead_letters.reader import open_reader, topics_meant, without_value
from bridge.commands.dead_letters.table import age, print_list

if TYPE_CHECKING:
    from datetime import datetime

    from bridge.adapters.kafka_letters import Letter, LetterReader

_RECORDS_A_LETTER = 4
"""At the end of a partition that are looked at for each letter to list, at first."""
_FURTHER = 16
"""So many times as many the next time."""


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
    wanted = Wanted(route, since)
    with open_reader(bootstrap_servers, kafka_properties, kafka_property) as reader:
        found: list[Letter] = []
        replayed: dict[object, datetime] = {}
        for name, partitions in topics_meant(reader, topic, rules):
            found += _newest(reader, name, partitions, wanted, limit, replayed)
        found.sort(key=age)
        print_list(found[-limit:], replayed, as_json=as_json)


def _newest(
    reader: LetterReader, topic: str, partitions: int, wanted: Wanted, limit: int, replayed: dict[object, datetime]
) -> list[Letter]:
    """The newest letters of each partition, up to `limit`; into `replayed`, when they were played again.

    Without a filter the ends of the partitions are enough, as marks come after their letters. But an end may be all marks: then it is
    looked at further back.
    """
    from bridge.adapters.kafka_letters import Mark

    kept: dict[int, deque[Letter]] = {}
    newest = _RECORDS_A_LETTER * limit if wanted.is_all else None
    to_scan = list(range(partitions))
    while to_scan:
        kept.update((number, deque(maxlen=limit)) for number in to_scan)
        for each in reader.scan(topic, to_scan, newest=newest):
            if isinstance(each, Mark):
                replayed[each.identity] = each.at
            elif wanted.takes(each):
                kept[each.place.partition].append(without_value(each))
        if newest is None:
            break
        to_scan = [number for number in to_scan if len(kept[number]) < limit and newest < reader.places(topic, number)]
        newest *= _FURTHER
    return [each for letters in kept.values() for each in letters]
