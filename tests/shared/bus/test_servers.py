from __future__ import annotations

import pytest

from shared.bus.servers import connect_servers, is_cluster, parse_servers, redacted, server_url
from shared.bus.slots import ClusterNode
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


def test_nodes_of_a_cluster_share_user_and_options():
    urls = parse_servers("rediss+cluster://u:p@a:1, b:2,c?ssl_ca_certs=/x")
    assert urls == [f"rediss+cluster://u:p@{node}?ssl_ca_certs=/x" for node in ("a:1", "b:2", "c")]
    assert is_cluster(urls)
    assert parse_servers("redis+cluster://a:1,redis+cluster://b:2") == ["redis+cluster://a:1", "redis+cluster://b:2"]
    assert not is_cluster(parse_servers("redis://a,redis://b"))


@pytest.mark.parametrize("bus", ["redis+cluster://a:1,redis://b:2", "redis://a:1,redis+cluster://b:2", "redis+cluster://a:1/3"])
def test_a_cluster_is_not_mixed_and_has_one_database(bus: str):
    with pytest.raises(ConfigurationError):
        parse_servers(bus)


def test_the_url_of_a_nodes_neighbour():
    url = "rediss+cluster://u:p@a:1?x=y"
    assert server_url(url) == "rediss://u:p@a:1?x=y"
    assert server_url(url, ClusterNode("b", 2)) == "rediss://u:p@b:2?x=y"
    assert server_url(url, ClusterNode("::1", 2)) == "rediss://u:p@[::1]:2?x=y"


@pytest.mark.parametrize("url", ["redis://u:hidden@a:1/0", "rediss://:hidden@a", "redis://a?password=hidden"])
def test_a_password_is_not_shown(url: str):
    assert "hidden" not in redacted(url)


def test_clients_are_bounded_and_do_not_retry():
    [client] = connect_servers(["redis://127.0.0.1:1"])
    settings = client.connection_pool.connection_kwargs
    assert 0 < settings["socket_timeout"] <= 10
    assert 0 < settings["socket_connect_timeout"] <= 10
    assert settings["retry"].get_retries() == 0
