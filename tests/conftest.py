"""Fixtures that give tests real parts. What they are made of is in tests/rig."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.rig import parts, process
from tests.rig.kafka_server import NEVER_KILLED, KafkaCluster
from tests.rig.parts import Part
from tests.rig.process import Process, project_command
from tests.rig.redis_cluster import RedisCluster, has_cluster
from tests.rig.redis_server import RedisServer
from tests.rig.stack import Stack

TESTS = Path(__file__).parent
NO_PARAMETERS = SimpleNamespace(params={})

PART_OF_FIXTURE = {
    "redis_server": Part.REDIS,
    "start_redis": Part.REDIS,
    "redis_cluster": Part.REDIS,
    "start_redis_cluster": Part.REDIS,
    "kafka": Part.KAFKA,
    "start_kafka": Part.KAFKA,
    "helm": Part.HELM,
    "helm_tools": Part.HELM,
    "browser_path": Part.BROWSER,
}
"""A test that uses one of these, itself or through another fixture, runs only where the part is."""


# No test may fail because the machine is slow (neither one example nor making them), nor by chance: each run has the same examples.
# `--hypothesis-profile=fresh` looks for others.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None)
settings.register_profile("fresh", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=False)
settings.load_profile("patient")


def pytest_configure() -> None:
    parts.put_parts_on_path()


def parts_of(item: pytest.Item) -> set[Part]:
    """The parts that a test cannot do without."""
    wanted = {PART_OF_FIXTURE[name] for name in getattr(item, "fixturenames", ()) if name in PART_OF_FIXTURE}
    parameters = getattr(item, "callspec", NO_PARAMETERS).params.values()
    if item.path.is_relative_to(TESTS / "contract") and {"redis", "redis-cluster"} & set(map(str, parameters)):
        wanted.add(Part.REDIS)  # The contract's buses ask for their server by parameter.
    return wanted


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        wanted = parts_of(item)
        if wanted & {Part.REDIS, Part.KAFKA} or item.path.is_relative_to(TESTS / "integration"):
            item.add_marker("integration")
        if Part.BROWSER in wanted:
            item.add_marker("browser")
        if item.path.is_relative_to(TESTS / "faults"):
            item.add_marker("faults")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for part in sorted(parts_of(item)):
        parts.need(part, item.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in parts.report():
        terminalreporter.write_line(line, yellow=True)


def pytest_sessionfinish() -> None:
    process.end_all()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One real Redis for the whole run. Tests take `redis_url`; those that break theirs, `start_redis`."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of the run's Redis, emptied for this test."""
    redis_server.flush()
    return redis_server.url


class StartRedis(Protocol):
    """Takes RedisServer's arguments and returns one that runs; it is killed after the test."""

    def __call__(self, *, options: Mapping[str, str] | None = None, acl: Sequence[str] = ()) -> RedisServer: ...


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[StartRedis]:
    """Start real Redis servers of this test's own, to be killed, paused and restarted at will."""
    numbers = count(1)
    with ExitStack() as servers:

        def start(*, options: Mapping[str, str] | None = None, acl: Sequence[str] = ()) -> RedisServer:
            return servers.enter_context(RedisServer(tmp_path / f"redis-{next(numbers)}", options=options, acl=acl))

        yield start


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """One real Redis Cluster of three for the whole run, to be emptied by who takes it."""
    _need_cluster()
    with RedisCluster(tmp_path_factory.mktemp("redis-cluster")) as cluster:
        yield cluster


class StartRedisCluster(Protocol):
    """Takes RedisCluster's arguments and returns one that runs; it is killed after the test."""

    def __call__(self, *, primaries: int = 3, replicas: int = 0, acl: Sequence[str] = ()) -> RedisCluster: ...


@pytest.fixture
def start_redis_cluster(tmp_path: Path) -> Iterator[StartRedisCluster]:
    """Start real Redis Clusters of this test's own, to be resharded, killed and failed over at will."""
    _need_cluster()
    numbers = count(1)
    with ExitStack() as clusters:

        def start(*, primaries: int = 3, replicas: int = 0, acl: Sequence[str] = ()) -> RedisCluster:
            directory = tmp_path / f"redis-cluster-{next(numbers)}"
            return clusters.enter_context(RedisCluster(directory, primaries=primaries, replicas=replicas, acl=acl))

        yield start


def _need_cluster() -> None:
    if not has_cluster():
        pytest.skip("this Redis is older than version 7: it cannot shard pub/sub in a cluster")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One real Kafka broker for the whole run. Topics are per test: take `topic`, or make names with `unique_name`."""
    with KafkaCluster(tmp_path_factory.mktemp("kafka"), parts.KAFKA_LIBS, settings=NEVER_KILLED) as cluster:
        yield cluster


class StartKafka(Protocol):
    """Takes KafkaCluster's arguments and returns one that runs; it is killed after the test."""

    def __call__(self, *, nodes: int = 1, settings: Mapping[str, str] | None = None) -> KafkaCluster: ...


@pytest.fixture
def start_kafka(tmp_path: Path) -> Iterator[StartKafka]:
    """Start real Kafka clusters of this test's own, to be killed, paused and restarted at will."""
    numbers = count(1)
    with ExitStack() as clusters:

        def start(*, nodes: int = 1, settings: Mapping[str, str] | None = None) -> KafkaCluster:
            directory = tmp_path / f"kafka-{next(numbers)}"
            return clusters.enter_context(KafkaCluster(directory, parts.KAFKA_LIBS, nodes=nodes, settings=settings))

        yield start


@pytest.fixture
def unique_name() -> str:
    """A name that no other test has, for topics and consumer groups."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic(kafka: KafkaCluster, unique_name: str) -> str:
    """A fresh topic of one partition on the run's Kafka."""
    return kafka.create_topic(unique_name)


class StartProject(Protocol):
    """Takes a console script's name and arguments, and returns the process; it is killed after the test."""

    def __call__(self, name: str, *arguments: str | int | Path, env: Mapping[str, str] | None = None) -> Process: ...


@pytest.fixture
def start_project(tmp_path: Path) -> Iterator[StartProject]:
    """Start `bridge`, `edge` or `distributary-tail` as their users do. What they logged is shown where the test fails."""
    started: list[Process] = []
    with ExitStack() as processes:

        def start(name: str, *arguments: str | int | Path, env: Mapping[str, str] | None = None) -> Process:
            log = tmp_path / f"{name}-{len(started) + 1}.log"
            process_ = Process(project_command(name, *arguments), log=log, env={"PYTHONUNBUFFERED": "1", **(env or {})})
            started.append(processes.enter_context(process_))
            return process_

        yield start
    for each in started:
        print(f"--- {each!r}\n{each.tail(60)}")  # noqa: T201 - pytest shows it with the failure


@pytest.fixture(scope="session")
def helm_tools() -> None:
    """The test runs `helm` and `kubeconform`, which are on PATH then."""


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The browser for playwright's `executable_path`."""
    return parts.browser() or ""


@pytest.fixture
def stack(start_project: StartProject, kafka: KafkaCluster, redis_url: str) -> Stack:
    """Bridges and an edge on the run's Kafka and Redis."""
    return Stack(start_project, kafka.bootstrap_servers, redis_url)
