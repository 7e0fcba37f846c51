"""A client's life: what it may say when, what it is answered, and that nothing of it is left."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

from edge.core.protocol import ErrorCode
from edge.core.variant import Dialect
from edge.session import Session
from tests.edge.builders import plain
from tests.edge.simulation import SMALL, Simulation


class Pipe:
    """Keeps what is written."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.messages: list[Any] = []
        self.closed: tuple[int, str] | None = None
        self.room = 1_000
        """So many messages are no reason to wait."""
        self.is_writable = True
        self.takes = 1_000_000
        """So many more messages until it is writable no more."""
        self.session: Session | None = None

    def write(self, frames: bytes) -> None:
        if frames:
            self.messages.append(msgspec.json.decode(frames) if self.dialect.is_text else msgspec.msgpack.decode(frames))
            self.takes -= 1
            self.is_writable = self.is_writable and self.takes > 0

    def allow_burst(self, size: int) -> None:
        pass

    @property
    def is_full(self) -> bool:
        return len(self.messages) >= self.room

    def keep_short(self) -> None:
        pass

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
        assert self.session is not None
        self.session.close()


class Client:
    """A session, and what it was answered."""

    def __init__(self, simulation: Simulation, dialect: Dialect = Dialect.JSON) -> None:
        self.simulation = simulation
        self.pipe = Pipe(dialect)
        self.session = self.pipe.session = Session(simulation.edges[0].node, self.pipe, dialect, plain)

    def says(self, **fields: Any) -> Any:
        """Say this; returns the last answer."""
        encode = msgspec.json.encode if self.pipe.dialect.is_text else msgspec.msgpack.encode
        self.simulation.do(lambda: self.session.receive(encode(fields)))
        return self.pipe.messages[-1] if self.pipe.messages else None


@pytest.fixture(params=[SMALL])
def simulation(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    simulation = Simulation(limits=request.param)
    yield simulation
    simulation.close()


@pytest.fixture
def client(simulation: Simulation) -> Client:
    client = Client(simulation)
    client.says(type="connect", id=1)
    return client


class TestConnect:
    @pytest.mark.parametrize("dialect", [Dialect.JSON, Dialect.MSGPACK])
    def test_is_answered_with_what_holds(self, simulation: Simulation, dialect: Dialect):
        answer = Client(simulation, dialect).says(type="connect", id=9, client="test")
        assert isinstance(answer.pop("session"), str)
        assert answer == {
            "type": "connected",
            "id": 9,
            "version": 1,
            "ping_interval_s": SMALL.ping_interval_s,
            "max_frame_bytes": SMALL.max_frame_bytes,
            "max_subscriptions": SMALL.max_subscriptions,
        }

    @pytest.mark.parametrize("kind", ["subscribe", "unsubscribe", "ping"])
    def test_comes_first(self, simulation: Simulation, kind: str):
        answer = Client(simulation).says(type=kind, id=3, channel="a")
        assert (answer["type"], answer["code"], answer["id"]) == ("error", ErrorCode.NOT_CONNECTED, 3)

    def test_comes_once(self, client: Client):
        assert client.says(type="connect", id=2)["code"] == ErrorCode.ALREADY_CONNECTED

    def test_is_not_for_bare_clients(self, simulation: Simulation):
        client = Client(simulation, Dialect.JSON_NAMED)
        assert client.says(type="connect", id=2)["code"] == ErrorCode.ALREADY_CONNECTED
        assert client.says(type="ping", id=3) == {"type": "pong", "id": 3}


class TestSubscribe:
    def test_is_answered_with_what_was_agreed_on(self, client: Client):
        client.simulation.do(lambda: client.simulation.push("stream:1"))
        client.says(type="subscribe", id=2, channel="stream:1", delta=["json-patch"])
        client.simulation.come_to_rest()
        newest = client.simulation.newest("stream:1")
        assert newest is not None
        assert client.pipe.messages[-1] == {
            "type": "subscribed",
            "id": 2,
            "channel": "stream:1",
            "number": 1,
            "kind": "stream",
            "mode": "queue",
            "delta": "json-patch",
            "position": {"epoch": newest.epoch, "offset": 1},
            "recovered": None,
        }

    def test_to_nothing_yet(self, client: Client):
        client.says(type="subscribe", id=2, channel="stream:1")
        client.simulation.come_to_rest()
        answer = client.pipe.messages[-1]
        assert (answer["kind"], answer["position"], answer["recovered"], answer["delta"]) == (None, None, None, None)

    def test_twice_is_an_error_even_before_the_answer(self, client: Client):
        client.says(type="subscribe", id=2, channel="a")
        assert client.says(type="subscribe", id=3, channel="a")["code"] == ErrorCode.ALREADY_SUBSCRIBED
        client.simulation.come_to_rest()
        assert client.says(type="subscribe", id=4, channel="a")["code"] == ErrorCode.ALREADY_SUBSCRIBED

    @pytest.mark.parametrize("simulation", [msgspec.structs.replace(SMALL, max_subscriptions=2)], indirect=True)
    def test_too_often_is_an_error(self, client: Client):
        for number in range(2):
            client.says(type="subscribe", id=2, channel=f"a{number}")
        answer = client.says(type="subscribe", id=5, channel="b")
        assert (answer["code"], answer["id"], answer["channel"]) == (ErrorCode.TOO_MANY_SUBSCRIPTIONS, 5, "b")
        client.says(type="unsubscribe", id=6, channel="a0")
        client.says(type="subscribe", id=7, channel="b")
        client.simulation.come_to_rest()
        assert client.pipe.messages[-1]["type"] == "subscribed"


class TestPostponed:
    """A client that has much to read first."""

    def test_begins_when_there_is_room(self, client: Client):
        client.pipe.room = 0
        for number, channel in enumerate(("a", "b"), 2):
            client.says(type="subscribe", id=number, channel=channel)
        client.simulation.come_to_rest()
        assert [message["type"] for message in client.pipe.messages] == ["connected"]
        assert client.says(type="subscribe", id=4, channel="a")["code"] == ErrorCode.ALREADY_SUBSCRIBED
        client.pipe.room = 1_000
        client.simulation.do(client.session.on_writable)
        client.simulation.come_to_rest()
        assert [message["channel"] for message in client.pipe.messages[-2:]] == ["a", "b"]

    def test_waits_though_the_bus_has_answered(self, client: Client):
        client.says(type="subscribe", id=2, channel="stream:1")
        client.pipe.room = 0
        client.simulation.come_to_rest()
        assert [message["type"] for message in client.pipe.messages] == ["connected"]
        client.simulation.do(lambda: client.simulation.push("stream:1"))
        client.simulation.come_to_rest()
        client.pipe.room = 1_000
        client.simulation.do(client.session.on_writable)
        client.simulation.come_to_rest()
        assert [message["type"] for message in client.pipe.messages] == ["connected", "subscribed"]
        assert client.pipe.messages[-1]["position"]["offset"] == 1

    def test_stops_where_there_is_no_room_again(self, client: Client):
        client.pipe.room = 0
        for number in range(2, 5):
            client.says(type="subscribe", id=number, channel=f"a:{number}")
        client.pipe.room = 2
        client.simulation.do(client.session.on_writable)
        client.simulation.come_to_rest()
        assert [message.get("channel") for message in client.pipe.messages] == [None, "a:2"]

    def test_begins_before_what_changes_all_the_time(self, client: Client):
        """A value that fills the room by itself, each time, must not take it each time."""
        client.says(type="subscribe", id=2, channel="latest:1", mode="conflate")
        client.simulation.come_to_rest()
        client.pipe.room, client.pipe.is_writable = len(client.pipe.messages), False
        client.says(type="subscribe", id=3, channel="a")
        client.simulation.do(lambda: client.simulation.push("latest:1"))
        client.simulation.come_to_rest()
        client.pipe.room, client.pipe.is_writable = len(client.pipe.messages) + 1, True
        client.simulation.do(client.session.on_writable)
        client.simulation.come_to_rest()
        assert [message["type"] for message in client.pipe.messages] == ["connected", "subscribed", "publication", "subscribed"]

    def test_one_begins_each_time_there_was_room(self, client: Client):
        """However much else took it meanwhile."""
        client.pipe.room = 0
        for number in range(2, 5):
            client.says(type="subscribe", id=number, channel=f"a:{number}")
        for begun in range(1, 4):
            client.simulation.do(client.session.on_writable)
            client.simulation.come_to_rest()
            assert len(client.pipe.messages) == 1 + begun

    def test_waits_once_for_a_turn_that_has_time(self, client: Client):
        turns = client.simulation.edges[0].node.turns
        client.pipe.room = 0
        client.says(type="subscribe", id=2, channel="a")
        client.pipe.room = 1_000

        def hurry() -> None:
            turns.is_over()
            turns.charge(1)
            for _ in range(3):
                client.session.on_writable()
            assert len(turns) == 1

        client.simulation.do(hurry)
        client.simulation.come_to_rest()
        assert [message["type"] for message in client.pipe.messages] == ["connected", "subscribed"]

    def test_can_be_unsubscribed_from(self, client: Client):
        client.pipe.room = 0
        client.says(type="subscribe", id=2, channel="a")
        assert client.says(type="unsubscribe", id=3, channel="a") == {"type": "unsubscribed", "id": 3, "channel": "a"}
        client.pipe.room = 1_000
        client.simulation.do(client.session.on_writable)
        client.simulation.come_to_rest()
        client.simulation.check_nothing_is_left()
        assert [message["type"] for message in client.pipe.messages] == ["connected", "unsubscribed"]

    def test_is_forgotten_with_the_session(self, client: Client):
        client.pipe.room = 0
        client.says(type="subscribe", id=2, channel="a")
        client.simulation.do(client.session.close)
        client.pipe.room = 1_000
        client.simulation.do(client.session.on_writable)
        client.simulation.come_to_rest()
        client.simulation.check_nothing_is_left()


class TestConflating:
    """Many channels over a thin line."""

    def test_takes_turns_with_the_room_that_there_is(self, client: Client):
        """Or those that began first would have it each time, if they change all the time."""
        names = [f"latest:{number}" for number in range(6)]
        for number, name in enumerate(names, 2):
            client.says(type="subscribe", id=number, channel=name, mode="conflate")
        client.simulation.come_to_rest()
        client.pipe.messages.clear()
        for _ in range(3):
            client.pipe.is_writable = False
            for name in names:
                client.simulation.do(partial(client.simulation.push, name))
            client.simulation.come_to_rest()
            client.pipe.is_writable, client.pipe.takes = True, 2
            client.simulation.do(client.session.on_writable)
        sent = [message["number"] for message in client.pipe.messages]
        assert sorted(sent) == sorted(set(sent))
        assert len(sent) == len(names)


class TestUnsubscribe:
    def test_before_the_answer_there_is_none(self, client: Client):
        client.says(type="subscribe", id=2, channel="a")
        assert client.says(type="unsubscribe", id=3, channel="a") == {"type": "unsubscribed", "id": 3, "channel": "a"}
        client.simulation.come_to_rest()
        assert [message["type"] for message in client.pipe.messages] == ["connected", "unsubscribed"]

    def test_and_subscribe_again_before_the_answer_is_answered_once(self, client: Client):
        client.says(type="subscribe", id=2, channel="a")
        client.says(type="unsubscribe", id=3, channel="a")
        client.says(type="subscribe", id=4, channel="a")
        client.simulation.come_to_rest()
        assert [(message["type"], message["id"]) for message in client.pipe.messages[1:]] == [("unsubscribed", 3), ("subscribed", 4)]

    def test_of_what_is_not_subscribed_is_an_error(self, client: Client):
        answer = client.says(type="unsubscribe", id=3, channel="a")
        assert (answer["code"], answer["channel"]) == (ErrorCode.NOT_SUBSCRIBED, "a")


class TestErrors:
    def test_the_connection_lives_until_there_are_too_many(self, client: Client):
        for _ in range(SMALL.max_errors - 1):
            client.simulation.do(lambda: client.session.receive(b"{"))
        assert client.says(type="ping", id=3) == {"type": "pong", "id": 3}
        client.says(type="nonsense", id=4)
        assert client.pipe.closed == (4102, "too_many_errors")

    def test_what_is_only_refused_does_not_count(self, client: Client):
        for _ in range(SMALL.max_errors + 1):
            client.says(type="unsubscribe", id=3, channel="a")
        assert client.pipe.closed is None

    @pytest.mark.parametrize("simulation", [msgspec.structs.replace(SMALL, max_commands_per_s=1, command_burst=2)], indirect=True)
    def test_too_many_commands_are_refused_until_later(self, client: Client):
        client.says(type="ping", id=2)
        answer = client.says(type="ping", id=3)
        assert (answer["code"], answer["retry"]) == (ErrorCode.RATE_LIMITED, True)
        client.simulation.wait(1)
        assert client.says(type="ping", id=4) == {"type": "pong", "id": 4}


class TestEnd:
    def test_nothing_is_left(self, client: Client):
        client.says(type="subscribe", id=2, channel="a")
        client.simulation.come_to_rest()
        client.says(type="subscribe", id=3, channel="b")  # and not answered
        client.simulation.do(client.session.close)
        client.simulation.come_to_rest()
        client.simulation.check_nothing_is_left()

    def test_what_comes_after_it_does_nothing(self, client: Client):
        client.simulation.do(lambda: client.pipe.close(4001, "slow_consumer"))
        heard = len(client.pipe.messages)
        client.says(type="subscribe", id=2, channel="a")
        client.simulation.come_to_rest()
        assert len(client.pipe.messages) == heard
        client.simulation.check_nothing_is_left()
