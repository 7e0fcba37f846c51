"""What the vectors cannot say about the client's core: what happens before its driver has reacted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distributary import AlreadySubscribedError, ProtocolError, Publication, RefusedError
from distributary._chain import Resubscribe
from distributary._core import Answered, Core, Ended

EPOCH = "AAECAwQFBgcICQoL"


def frame(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def publication(offset: int) -> bytes:
    return frame(type="publication", number=17, epoch=EPOCH, offset=offset, data=offset)


def subscribed_core() -> Core:
    core = Core("json")
    core.connect()
    core.add("bus:1430")
    core.subscribe("bus:1430")
    position = {"epoch": EPOCH, "offset": 12}
    core.receive(frame(type="subscribed", id=2, channel="bus:1430", number=17, kind="stream", mode="queue", position=position))
    return core


def test_nothing_of_a_broken_chain_is_used_while_the_new_subscription_waits():
    core = subscribed_core()
    assert isinstance(core.receive(publication(14)), Resubscribe)
    assert core.receive(publication(13)) is None
    assert core.receive(publication(15)) is None


def test_a_channel_is_wanted_once_until_it_is_refused_for_good():
    core = subscribed_core()
    with pytest.raises(AlreadySubscribedError):
        core.add("bus:1430")
    assert isinstance(core.receive(publication(13)), Publication)
    ended = core.receive(frame(type="unsubscribed", channel="bus:1430", code="unavailable", message="later", retry=True))
    assert isinstance(ended, Ended)
    assert list(core.channels) == ["bus:1430"]
    assert json.loads(core.subscribe("bus:1430")[1][0])["position"] == {"epoch": EPOCH, "offset": 13}
    ended = core.receive(frame(type="error", id=3, code="bad_channel", message="no", retry=False))
    assert isinstance(ended, Ended)
    assert list(core.channels) == []
    core.add("bus:1430")


def test_an_error_that_answers_no_subscription_is_passed_on():
    core = subscribed_core()
    event = core.receive(frame(type="error", id=None, code="bad_frame", message="not JSON", retry=False))
    assert isinstance(event, Answered)
    assert isinstance(event.error, RefusedError)
    assert event.error.code == "bad_frame"
    assert list(core.channels) == ["bus:1430"]


def test_removing_a_channel_that_the_edge_does_not_know_sends_nothing():
    core = Core("json")
    core.add("feed")
    assert core.remove("feed") is None
    assert core.remove("feed") is None


def test_an_answer_that_mixes_up_channels_is_an_error_and_not_a_wrong_value():
    core = subscribed_core()
    core.add("feed")
    core.subscribe("feed")
    with pytest.raises(ProtocolError, match="number 17 to feed and to bus:1430"):
        core.receive(frame(type="subscribed", id=3, channel="feed", number=17, mode="queue"))
    core.connect()
    core.subscribe("feed")
    with pytest.raises(ProtocolError, match="answered a subscription to feed with 'bus:1430'"):
        core.receive(frame(type="subscribed", id=2, channel="bus:1430", number=17, mode="queue"))
