from __future__ import annotations

import pytest

from shared.bus.servers import connect_servers, parse_servers, redacted
from shared.errors import ConfigurationError


def test_a_list_is_split():
    assert parse_servers("redis://a:1/0, rediss://b ,unix:///tmp/s") == ["redis://a:1/0", "rediss://b", "unix:///tmp/s"]


def test_every_problem_is_told_at_once_and_no_password():
    with pytest.raises(ConfigurationError) as caught:
        parse_servers("http://:hidden@a,redis://:hidden@,redis://user:hidden@a:99999")
    assert len(caught.value.problems) == 3
    assert "hidden" not in str(caught.value)


def test_no_server_is_a_problem():
    with pytest.raises(ConfigurationError, match="no server"):
        parse_servers(" , ")


@pytest.mark.parametrize("url", ["redis://u:hidden@a:1/0", "rediss://:hidden@a", "redis://a?password=hidden"])
def test_a_password_is_not_shown(url: str):
    assert "hidden" not in redacted(url)


def test_clients_are_bounded_and_do_not_retry():
    [client] = connect_servers(["redis://127.0.0.1:1"])
    settings = client.connection_pool.connection_kwargs
    assert 0 < settings["socket_timeout"] <= 10
    assert 0 < settings["socket_connect_timeout"] <= 10
    assert settings["retry"].get_retries() == 0
