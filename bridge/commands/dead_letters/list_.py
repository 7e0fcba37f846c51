"""`bridge dead-letters list`."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.commands.dead_letters.options import AsJson, Properties, Property, Route, Rules, Servers, Since, Topics, Wanted
from bridge.commands.dead_letters.reader import open_reader, topics_meant, without_value
from bridge.commands.dead_letters.table import age, print_list

if TYPE_CHECKING:
    from datetime import datetime

    from bridge.adapters.kafka_letters import Letter


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

    wanted = Wanted(route, since)
    with open_reader(bootstrap_servers, kafka_properties, kafka_property) as reader:
        found: list[Letter] = []
        replayed: dict[object, datetime] = {}
        for name, partitions in topics_meant(reader, topic, rules):
            kept: defaultdict[int, deque[Letter]] = defaultdict(lambda: deque(maxlen=limit))
            # Marks come after their letters, so without a filter the ends of the partitions are enough (transactions take places, too).
            for each in reader.scan(name, partitions, newest=4 * limit if wanted.is_all else None):
                if isinstance(each, Mark):
                    replayed[each.identity] = each.at
                elif wanted.takes(each):
                    kept[each.place.partition].append(without_value(each))
            found += [each for letters in kept.values() for each in letters]
        found.sort(key=age)
        print_list(found[-limit:], replayed, as_json=as_json)
