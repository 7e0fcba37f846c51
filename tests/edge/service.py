"""For tests on real sockets: `edge run` as a process, what plays the bridge before it, and clients that write down what they get."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self, TypeVar
from urllib.parse import quote

import jsonpatch
import msgspec
import websockets
from websockets.asyncio.client import ClientConnection, connect

from shared.bus.layout import BusLayout
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Outcome, Push, Pushed, Source, source_id
from shared.bus.servers import connect_servers
from shared.delta import json_patch, vcdiff
from shared.envelope import epoch_to_text
from shared.errors import BusUnavailableError, IncarnationError
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash
from tests.conftest import StartProject
from tests.rig.ports import free_port
from tests.rig.process import Process
from tests.rig.wait import PATIENCE_S, wait_until, wait_until_async

T = TypeVar("T")


class EdgeProcess:
    """`edge run`, as an operator starts it."""

    def __init__(self, start_project: StartProject, bus: str, *options: str | int) -> None:
        self.port, self.internal_port = free_port(), free_port()
        self.process: Process = start_project(
            "edge", "run", "--bus", bus, "--port", self.port, "--internal-port", self.internal_port, "--log-format", "json", *options
        )
        self.process.wait_for_port(self.internal_port)
        self.process.wait_for_port(self.port)

    def url(self, **query: str) -> str:
        """The WebSocket URL, with this query."""
        parts = "&".join(f"{name}={quote(value, safe=',:')}" for name, value in query.items())
        return f"ws://127.0.0.1:{self.port}/v1/ws" + (f"?{parts}" if parts else "")

    def http(self, path: str) -> str:
        """A URL on the public port."""
        return f"http://127.0.0.1:{self.port}{path}"

    def internal(self, path: str) -> str:
        """A URL on the internal port."""
        return f"http://127.0.0.1:{self.internal_port}{path}"


class Bridge:
    """Publishes as a bridge does: heartbeats, tries again, opens again, and puts back what the bus lost. Remembers every value."""

    def __init__(self, url: str, *, layout: BusLayout | None = None) -> None:
        urls = url.split(",")
        self._publisher = BusPublisher(connect_servers(urls), layout or BusLayout(servers=len(urls)), instance="bridge-1")
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._kafka_offsets = itertools.count(1)
        self._newest: dict[str, Push] = {}
        self.published: dict[tuple[str, str, int], bytes] = {}
        """(channel, epoch, offset) -> payload."""
        self._beats = threading.Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> Self:
        self._beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._beats.join()
        self._publisher.close()

    def push(
        self,
        channel: str,
        value: Any,
        *,
        kind: Kind = Kind.LATEST,
        delta: DeltaFormat = DeltaFormat.VCDIFF,
        keep: int = 100,
        within_s: float = PATIENCE_S,
    ) -> Pushed:
        """Publish a value, as JSON unless it is bytes; try again until the bus takes it."""
        payload = value if isinstance(value, bytes) else msgspec.json.encode(value)
        content_type = ContentType.BINARY if isinstance(value, bytes) else ContentType.JSON
        with self._lock:
            known = self._newest.get(channel)
            body = None
            if known is not None and delta is not DeltaFormat.NONE:
                encode = vcdiff.encode if delta is DeltaFormat.VCDIFF else json_patch.encode
                body = encode(known.payload, payload)
            number = next(self._kafka_offsets)
            push = Push(
                channel,
                payload,
                payload_hash(payload),
                content_type,
                kind,
                1_700_000_000_000 + number,
                Source(source_id("cluster", "topic", 0), number, 0),
                Keep(history_size=keep, history_bytes=64 << 20),
                DeltaFormat.NONE if body is None else delta,
                body or b"",
                b"" if body is None or known is None else payload_hash(known.payload),
            )
            pushed = self._keep_trying(lambda: self._push(push), within_s)
            self._newest[channel] = push
            return pushed

    def _push(self, push: Push) -> Pushed:
        self._restore(self._publisher.open())
        (pushed,) = self._publisher.push([push])
        assert pushed.outcome is not Outcome.FAILED, pushed
        self.published[push.channel, epoch_to_text(pushed.epoch), pushed.offset] = push.payload
        return pushed

    def _restore(self, shards: list[int]) -> None:
        """Put back the newest value of every channel of these shards."""
        layout = self._publisher.layout
        for channel, push in self._newest.items():
            if layout.shard_of(channel) not in shards:
                continue
            restored = msgspec.structs.replace(push, restore=True, delta_format=DeltaFormat.NONE, delta=b"", base_hash=b"")
            (pushed,) = self._publisher.push([restored])
            if pushed.outcome is Outcome.FULL:
                self.published[channel, epoch_to_text(pushed.epoch), pushed.offset] = push.payload

    def _keep_trying(self, action: Callable[[], T], within_s: float) -> T:
        deadline = time.monotonic() + within_s
        while True:
            try:
                return action()
            except IncarnationError as error:
                with contextlib.suppress(BusUnavailableError, IncarnationError):
                    self._restore(self._publisher.reopen(error.shards))
            except BusUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _keep_beating(self) -> None:
        while not self._stopping.wait(0.3):
            with self._lock, contextlib.suppress(BusUnavailableError, IncarnationError):
                self._restore(self._publisher.open())
                self._restore(self._publisher.reopen(self._publisher.beat()))


class Heard(msgspec.Struct, frozen=True):
    """One publication, as a client holds it after applying it."""

    channel: str
    epoch: str
    offset: int
    value: Any
    was_delta: bool


class Listener:
    """A client that applies what it gets and writes it down, with the gaps, errors and the close."""

    def __init__(self, connection: ClientConnection, delta: str = "") -> None:
        self.connection = connection
        self.frames: list[Any] = []
        self.heard: list[Heard] = []
        self.gaps: list[dict[str, Any]] = []
        self.controls: list[dict[str, Any]] = []
        self._names: dict[Any, str] = {}
        self._held: dict[str, Heard] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._gap_before: dict[int, dict[str, Any]] = {}
        """By the index in `heard` of what came next on its channel."""
        self._delta = delta
        self._ids = itertools.count(1)
        self._reading = asyncio.create_task(self._read())

    def __repr__(self) -> str:
        newest = {name: (held.epoch, held.offset) for name, held in self._held.items()}
        return f"<Listener {newest} gaps {self.gaps} {self.controls[-3:]} close {self.connection.close_code}>"

    async def ask(self, **fields: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = next(self._ids)
        message = {"id": number, **fields}
        if self._is_text:
            await self.connection.send(msgspec.json.encode(message).decode())
        else:
            await self.connection.send(msgspec.msgpack.encode(message))
        return await wait_until_async(
            lambda: next((each for each in self.controls if each.get("id") == number), None),
            what=f"an answer to {fields}",
            state=self.__repr__,
        )

    async def wait_for(self, channel: str, value: Any) -> None:
        """Wait until the client holds this value of the channel."""
        await wait_until_async(
            lambda: channel in self._held and self._held[channel].value == value, what=f"{value!r} on {channel}", state=self.__repr__
        )

    async def closed(self) -> int | None:
        """Wait for the end; returns the close code."""
        await asyncio.wait_for(asyncio.shield(self._reading), PATIENCE_S)
        return self.connection.close_code

    def offsets(self, channel: str) -> list[int]:
        """Offsets of what was heard, in order."""
        return [each.offset for each in self.heard if each.channel == channel]

    def check(self, published: dict[tuple[str, str, int], bytes]) -> None:
        """Every value is the one that was published at its place, and places follow one another except where a gap was told just before.

        A gap without an epoch says that the channel has no publication now: the first one is then no gap.
        """
        before: dict[str, Heard] = {}
        for index, each in enumerate(self.heard):
            payload = published[each.channel, each.epoch, each.offset]
            assert each.value == (payload if isinstance(each.value, bytes) and payload[:1] != b"{" else msgspec.json.decode(payload)), each
            former = before.get(each.channel)
            if former is not None:
                follows = (former.epoch, former.offset + 1) == (each.epoch, each.offset)
                gap = self._gap_before.get(index, {"epoch": ""})
                is_told = gap["epoch"] == each.epoch or (gap["epoch"] is None and each.offset == 1)
                assert follows or is_told, f"{each} after {former}, and no gap was told: {self.gaps}"
            before[each.channel] = each

    @property
    def _is_text(self) -> bool:
        return self.connection.subprotocol != "distributary.v1.msgpack" and "msgpack" not in self.connection.request.path  # type: ignore[union-attr]

    async def _read(self) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for frame in self.connection:
                assert isinstance(frame, str) is self._is_text
                self.frames.append(frame)
                fields = msgspec.json.decode(frame) if isinstance(frame, str) else msgspec.msgpack.decode(frame)
                self._take(_from_array(fields) if isinstance(fields, list) else fields)

    def _take(self, fields: dict[str, Any]) -> None:
        if fields["type"] == "subscribed":
            self._names[fields["number"]] = fields["channel"]
        name = fields.get("channel") or self._names.get(fields.get("number"), "")
        if fields["type"] == "publication":
            self._on_publication(name, fields)
        elif fields["type"] == "gap":
            self._told[name] = {**fields, "channel": name}
            self.gaps.append(self._told[name])
            self._held.pop(name, None)
        else:
            self.controls.append(fields)

    def _on_publication(self, name: str, fields: dict[str, Any]) -> None:
        data: Any = fields["data"]
        if fields.get("encoding") == "base64":
            data = base64.b64decode(data)
        elif fields.get("encoding") == "utf-8":
            data = data.encode()
        held = self._held.get(name)
        epoch = fields.get("epoch")
        was_delta = "base" in fields
        if was_delta:
            assert held is not None, f"a delta, and nothing is held: {fields}"
            assert held.offset == fields["base"], f"a delta for {fields['base']}, and {held.offset} is held"
            epoch = held.epoch
            data = self._apply(held.value, data, fields["delta"])
        elif isinstance(data, bytes) and fields.get("content_type") in (None, 0):
            data = msgspec.json.decode(data)
        heard = Heard(name, str(epoch), fields["offset"], data, was_delta)
        self._held[name] = heard
        if name in self._told:
            self._gap_before[len(self.heard)] = self._told.pop(name)
        self.heard.append(heard)

    def _apply(self, value: Any, change: Any, form: str) -> Any:
        if form == "vcdiff":
            base = value if isinstance(value, bytes) else msgspec.json.encode(value)
            payload = vcdiff.decode(base, change, max_size=64 << 20)
            return payload if isinstance(value, bytes) else msgspec.json.decode(payload)
        return jsonpatch.apply_patch(value, msgspec.json.decode(change) if isinstance(change, bytes) else change)


def _from_array(fields: list[Any]) -> dict[str, Any]:
    form, who, offset, place, _, _, content_type, data = fields
    made: dict[str, Any] = {"type": "publication", "offset": offset, "content_type": content_type, "data": data}
    made["channel" if isinstance(who, str) else "number"] = who
    if form == 0:
        return made | {"epoch": place}
    epoch, base = place if isinstance(place, list) else (None, place)
    return made | {"base": base, "delta": "vcdiff" if form == 1 else "json-patch"} | ({} if epoch is None else {"epoch": epoch})


@contextlib.asynccontextmanager
async def bare(edge: EdgeProcess, channels: str, **query: str) -> AsyncIterator[Listener]:
    """A bare client on these channels."""
    async with connect(edge.url(channels=channels, **query), max_size=None, compression=None, open_timeout=PATIENCE_S) as connection:
        yield Listener(connection)


@contextlib.asynccontextmanager
async def client(edge: EdgeProcess, *, form: str = "json") -> AsyncIterator[Listener]:
    """A client that has introduced itself."""
    name = websockets.Subprotocol(f"distributary.v1.{form}")
    async with connect(edge.url(), subprotocols=[name], max_size=None, compression=None, open_timeout=PATIENCE_S) as connection:
        listener = Listener(connection)
        assert (await listener.ask(type="connect", client="test"))["type"] == "connected"
        yield listener


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine, bounded."""

    async def bounded() -> None:
        async with asyncio.timeout(300):
            await main()

    asyncio.run(bounded())


async def aside(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call what blocks in a thread."""
    return await asyncio.to_thread(function, *arguments, **options)


def wait_for_json(url: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until a GET is answered with an object that meets the condition."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        _, body = get(url)
        found.append(msgspec.json.decode(body))
        return condition(found[-1])

    wait_until(look, what=url, state=lambda: found[-1:], ignore=(OSError,))
    return found[-1]


def get(url: str) -> tuple[int, bytes]:
    """GET: status and body."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310  (the URLs are made by tests)
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
