from __future__ import annotations

from pathlib import Path

import pytest

from bridge.settings import OWN_PROPERTIES, BridgeSettings, check_settings, read_properties
from shared.errors import ConfigurationError


def make(**changes: object) -> BridgeSettings:
    return BridgeSettings(**{"rules": Path("r"), "bootstrap_servers": "a:1", "bus": "redis://a", **changes})  # type: ignore[arg-type]


def problems_of(settings: BridgeSettings) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        check_settings(settings)
    return caught.value.problems


def test_defaults_are_right():
    check_settings(make())


def test_every_problem_is_told_at_once():
    found = problems_of(
        make(
            bootstrap_servers="a,,b",
            bus="redis://",
            group="",
            bus_prefix="",
            bus_shards=0,
            internal_port=70_000,
            delta_cache_bytes=-1,
            commit_interval_s=0,
            max_batch_records=0,
            kafka_properties={"group.id": "x"},
        )
    )
    for option in ("--bootstrap-servers", "--bus:", "--group", "--bus-prefix", "--bus-shards", "--internal-port", "--delta-cache-bytes"):
        assert [problem for problem in found if problem.startswith(option)], option
    assert len(found) == 10


@pytest.mark.parametrize("name", OWN_PROPERTIES)
def test_properties_that_the_bridge_sets_itself_are_refused(name: str):
    [problem] = problems_of(make(kafka_properties={name: "x"}))
    assert name in problem


def test_fewer_shards_than_servers_are_refused():
    assert "without any" in problems_of(make(bus="redis://a,redis://b,redis://c", bus_shards=2))[0]


def test_no_secret_is_shown():
    settings = make(
        bus="redis://u:hidden@a",
        kafka_properties={"sasl.password": "hidden", "ssl.key.pem": "hidden", "sasl.oauthbearer.client.secret": "hidden", "acks": "1"},
    )
    shown = str(settings.shown())
    assert "hidden" not in shown
    assert "acks=1" in shown


def test_properties_come_from_a_file_and_pairs_win(tmp_path: Path):
    file = tmp_path / "kafka.properties"
    file.write_text("# comment\n\nsecurity.protocol = SASL_SSL\nsasl.password=a=b\nacks=1\n")
    assert read_properties(file, ["acks=all"]) == ({"security.protocol": "SASL_SSL", "sasl.password": "a=b", "acks": "all"}, [])


def test_what_is_no_property_is_told_by_its_place_and_not_its_text(tmp_path: Path):
    file = tmp_path / "kafka.properties"
    file.write_text("acks=1\nhidden\n")
    found, problems = read_properties(file, ["=hidden", "x=1"])
    assert found == {"acks": "1", "x": "1"}
    assert [problem.partition(": ")[0] for problem in problems] == [f"{file}:2", "--kafka-property (number 1)"]
    assert "hidden" not in str(problems)


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path):
    assert "cannot be read" in read_properties(tmp_path / "none", [])[1][0]
    (tmp_path / "bytes").write_bytes(b"\xff=1")
    assert "UTF-8" in read_properties(tmp_path / "bytes", [])[1][0]
