"""What a bridge tells its operator of the server that it has connected to."""

from __future__ import annotations

import pytest

from shared.bus.layout import BusLayout
from shared.bus.publisher import BusPublisher
from tests.contract.fake_redis import FakeServer


def warnings_of(policy: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    client = FakeServer(eviction_policy=policy).client()
    publisher = BusPublisher([client], BusLayout(shards=1), instance="one")
    for _ in range(2):
        publisher.open()
        publisher.close()
    client.close()
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_drops_channels_when_it_is_full_is_told_once(policy: str, caplog: pytest.LogCaptureFixture):
    [warning] = warnings_of(policy, caplog)
    assert "set maxmemory-policy noeviction" in warning


@pytest.mark.parametrize("policy", ["noeviction", ""])
def test_one_that_drops_nothing_or_does_not_tell_is_no_trouble(policy: str, caplog: pytest.LogCaptureFixture):
    assert warnings_of(policy, caplog) == []
