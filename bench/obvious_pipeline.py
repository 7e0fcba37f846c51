"""The pipeline that one writes first, and does so with care: what bench_obvious.py compares the bridge with.

confluent-kafka's consumer, json, jmespath.search, jsonpatch.make_patch, and redis-py's commands in pipelines of 100 publications. For each
publication: the next offset, the newest value, a history of 100 entries that expires, and PUBLISH of the patch, or of the whole value where
that is smaller. It checks no name, drops no duplicate and survives no loss: it is here for its cost alone.

usage: python -m bench.obvious_pipeline BOOTSTRAP REDIS_URL TOPIC RECORDS GROUP ROUTES, with ROUTES as JSON
prints READY when it has the first record, then DONE PUBLICATIONS
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jmespath
import jsonpatch
import redis
from confluent_kafka import Consumer

HISTORY = 100
TTL_S = 86_400
BATCH = 100


class ObviousPipeline:
    """One consumer, one Redis. A route is a mapping: prefix and id of the channel, maybe `split`, maybe `project`."""

    def __init__(self, redis_url: str, routes: list[dict[str, Any]]) -> None:
        self.published = 0
        self._routes = routes
        self._newest: dict[str, Any] = {}
        self._pipe = redis.Redis.from_url(redis_url).pipeline(transaction=True)
        self._offsets: dict[str, int] = {}

    def handle(self, value: bytes) -> None:
        """Publish what the routes make of one record."""
        data = json.loads(value)
        for route in self._routes:
            items = jmespath.search(route["split"], data) if "split" in route else [data]
            for item in items:
                self._publish(route, item)

    def _publish(self, route: dict[str, Any], item: Any) -> None:
        channel = route["prefix"] + jmespath.search(route["id"], item)
        payload = item
        if "project" in route:
            payload = {name: jmespath.search(path, item) for name, path in route["project"].items()}
        text = json.dumps(payload, separators=(",", ":"))
        body = {"data": payload}
        if channel in self._newest:
            patch = jsonpatch.make_patch(self._newest[channel], payload).patch
            if len(json.dumps(patch, separators=(",", ":"))) < len(text):
                body = {"patch": patch}
        self._newest[channel] = payload
        offset = self._offsets[channel] = self._offsets.get(channel, 0) + 1
        message = json.dumps({"offset": offset, **body}, separators=(",", ":"))
        pipe = self._pipe
        pipe.hset(f"channel:{channel}", mapping={"offset": offset, "newest": text})
        pipe.rpush(f"history:{channel}", text)
        pipe.ltrim(f"history:{channel}", -HISTORY, -1)
        pipe.expire(f"channel:{channel}", TTL_S)
        pipe.expire(f"history:{channel}", TTL_S)
        pipe.publish(f"channel:{channel}", message)
        self.published += 1
        if self.published % BATCH == 0:
            pipe.execute()

    def flush(self) -> None:
        """Send what waits."""
        self._pipe.execute()


def main() -> None:
    """Consume a topic from its beginning."""
    bootstrap, redis_url, topic, records, group, routes = sys.argv[1:7]
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            # As the bridge has it: what is measured is the pipeline, not the waiting.
            "fetch.queue.backoff.ms": 20,
        }
    )
    consumer.subscribe([topic])
    pipeline = ObviousPipeline(redis_url, json.loads(routes))
    left = int(records)
    while left:
        for message in consumer.consume(500, 0.5):
            if left == int(records):
                print("READY", flush=True)
            pipeline.handle(message.value() or b"null")
            left -= 1
        pipeline.flush()
        if left < int(records):
            consumer.commit(asynchronous=True)
    print("DONE", pipeline.published, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
