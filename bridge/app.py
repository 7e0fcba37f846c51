"""The process `bridge run`: made of its parts, told to stop by signals."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from types import FrameType

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from bridge.adapters.internal_http import Health, InternalServer
from bridge.adapters.kafka import KafkaRecords
from bridge.adapters.kafka_dead_letters import KafkaDeadLetters
from bridge.adapters.metrics import PipelineCollector, RulesCollector
from bridge.adapters.rules_file import RulesFile
from bridge.core.chain import DeltaChain
from bridge.core.draft import OnError
from bridge.core.letter import Origin
from bridge.core.limits import PipelineSettings, Time
from bridge.core.routing import Router
from bridge.core.ruleset import CompiledRules
from bridge.dead_letters import DeadLetterQueue
from bridge.pipeline import Pipeline
from bridge.settings import BridgeSettings, check_settings
from shared.bus.placement import place
from shared.bus.publisher import BusPublisher
from shared.delta import vcdiff
from shared.errors import ConfigurationError
from shared.telemetry import Log

_STUCK_AFTER_S = 60.0
"""A loop that has not come round for so long is not alive. Time-outs of the bus and of Kafka are far shorter."""
_EXIT_AT_ONCE = 130


class Stop:
    """Whether to end. The first SIGTERM or SIGINT asks for it, the second one ends the process at once.

    SIGHUP calls `on_hang_up`, or asks for the end where it comes because the terminal was closed.
    """

    def __init__(self) -> None:
        self.is_asked_for = False
        self.on_hang_up: Callable[[], None] = _nothing
        self._had_terminal = False

    def __repr__(self) -> str:
        return f"<Stop {'asked for' if self.is_asked_for else 'not asked for'}>"

    def __call__(self) -> bool:
        """Ask."""
        return self.is_asked_for

    def listen(self) -> None:
        """Take the signals from here on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self.know_terminal()
        signal.signal(signal.SIGHUP, lambda _number, _frame: self.hang_up())

    def know_terminal(self) -> None:
        """Look whether there is a terminal that may be closed later."""
        self._had_terminal = _has_terminal()

    def hang_up(self) -> None:
        """SIGHUP came."""
        if self._had_terminal and not _has_terminal():
            self.is_asked_for = True
        else:
            self.on_hang_up()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # No log, no lock: this may interrupt any line.
        if self.is_asked_for:
            os._exit(_EXIT_AT_ONCE)
        self.is_asked_for = True


def _nothing() -> None:
    """Nobody listens yet."""


def _has_terminal() -> bool:
    """Whether this process has a terminal to which it belongs."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


Watch = Callable[[CollectorRegistry, Callable[[], Health]], AbstractContextManager[object]]
"""Shows metrics and health for as long as it is entered."""


def run(
    settings: BridgeSettings,
    rules_file: RulesFile,
    rules: CompiledRules,
    stop: Stop,
    *,
    on_started: Callable[[int | None], None] | None = None,
    watch: Watch | None = None,
) -> None:
    """Run until `stop`. Raises what `Pipeline.run` raises, and ConfigurationError where Kafka's client or an address refuses a setting.

    `on_started` is called with the internal port (None: there is none) once all parts are made.
    """
    log = Log("bridge")
    log.info(
        "starting",
        version=_version(),
        vcdiff=vcdiff.engine(),
        rules=settings.rules,
        routes=len(rules.routes),
        topics=",".join(rules.topics),
        **settings.shown(),
    )
    for note in rules.notes:
        log.warning(note)
    stop.on_hang_up = rules_file.ask
    _App(settings, rules_file, rules, stop, log).run(on_started, watch)
    log.info("stopped")


class _App:
    """All parts, wired."""

    def __init__(self, settings: BridgeSettings, rules_file: RulesFile, rules: CompiledRules, stop: Stop, log: Log) -> None:
        self._rules_file = rules_file
        self._settings = settings
        self._stop = stop
        self._log = log
        chance = random.SystemRandom().random
        self._records = KafkaRecords(
            settings.bootstrap_servers,
            settings.group,
            rules.topics,
            start_from=settings.start_from.value,
            properties=settings.kafka_properties,
            clock=time.monotonic,
            random=chance,
        )
        letters = KafkaDeadLetters(settings.bootstrap_servers, settings.kafka_properties)
        if any(route.on_error is OnError.DEAD_LETTER for route in rules.routes):
            letters.check()
        bus = BusPublisher(place(settings.bus_servers), settings.bus_layout, instance=f"{socket.gethostname()}-{os.getpid()}")
        self._chain = DeltaChain(shards=settings.bus_shards, clock=time.monotonic, max_bytes=settings.delta_cache_bytes)
        self.pipeline = Pipeline(
            self._records,
            bus,
            Router(rules, clock=time.monotonic),
            self._chain,
            time=Time(time.monotonic, time.sleep, chance),
            stop=stop,
            settings=PipelineSettings(
                commit_interval_s=settings.commit_interval_s,
                max_batch_records=settings.max_batch_records,
                report_interval_s=settings.report_interval_s,
            ),
            letters=DeadLetterQueue(letters, Origin(_version(), settings.group), now=time.monotonic, wall=time.time, random=chance),
            new_rules=rules_file,
        )

    def run(self, on_started: Callable[[int | None], None] | None, watch: Watch | None) -> None:
        """Serve health and metrics while the pipeline runs."""
        registry = self._registry()
        server = self._serve(registry)
        self._rules_file.start()
        if on_started is not None:
            on_started(None if server is None else server.port)
        try:
            with nullcontext() if watch is None else watch(registry, self._health):
                self.pipeline.run()
        finally:
            self._rules_file.close()
            if server is not None:
                server.close()

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        chain, records = self._chain, self._records
        registry.register(
            PipelineCollector(self.pipeline, bases=chain, kafka_is_away=lambda: records.is_away),
        )
        registry.register(RulesCollector(lambda: self._rules_file.state))
        return registry

    def _serve(self, registry: CollectorRegistry) -> InternalServer | None:
        if self._settings.internal_port is None:
            return None
        server = InternalServer(self._settings.internal_host, self._settings.internal_port, health=self._health, registry=registry)
        self._log.info("health and metrics", address=server.address)
        return server

    def _health(self) -> Health:
        pipeline, rules = self.pipeline, self._rules_file.state
        bus_away, kafka_away, halted = pipeline.bus_away_since is not None, self._records.is_away, dict(pipeline.halted)
        letters_away = pipeline.letters is not None and pipeline.letters.away_since is not None
        schemas_away = pipeline.waiting_for_schema > 0
        if self._stop():
            status = "stopping"
        elif not pipeline.is_started:
            status = "starting"
        else:
            status = "degraded" if bus_away or kafka_away or letters_away or schemas_away or halted or rules.problems else "ready"
        details = {
            "bus": "away" if bus_away else "ok",
            "kafka": "away" if kafka_away else "ok",
            "dead_letters": "away" if letters_away else "ok",
            "schemas": "away" if schemas_away else "ok",
            "halted": {f"{topic}[{number}]": problem for (topic, number), problem in halted.items()},
            "lag": pipeline.lag,
            "rules": {"generation": rules.generation, "digest": rules.digest, "problems": rules.problems},
        }
        return Health(status, time.monotonic() - pipeline.ticked_at < _STUCK_AFTER_S, details)


def check(settings: BridgeSettings, problems: Iterable[str] = ()) -> tuple[RulesFile, CompiledRules]:
    """The rules file and what is in it, if that and the settings are right; else ConfigurationError, `problems` found before included."""
    problems = list(problems)
    rules, rules_file = None, RulesFile(settings.rules, wall_clock=time.time)
    try:
        check_settings(settings)
    except ConfigurationError as error:
        problems += error.problems
    try:
        rules = rules_file.load()
    except ConfigurationError as error:
        problems += error.problems
    if problems or rules is None:
        raise ConfigurationError(problems)
    return rules_file, rules


def _version() -> str:
    try:
        return version("distributary")
    except PackageNotFoundError:
        return "not installed"
