"""The schema registry: schemas by id, fetched once, by confluent-kafka's own client.

    registry_of(settings).schema(42) -> RegisteredSchema | DecodeError | SchemaUnavailableError

A fetch runs in a thread of its own, and who asks waits for it a moment only: a registry that is away or slow holds back the records that
need it and nothing else. A schema that is not there is the record's problem, and is asked for again after a while, because it
may be registered late. Whatever else goes wrong (no connection, 401, 500) leaves the record unread, to be tried again later.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import msgspec

from bridge.core.backoff import Backoff
from bridge.core.decoding import DecodeError, SchemaUnavailableError
from bridge.formats.schema import RegisteredSchema
from shared.errors import ConfigurationError
from shared.telemetry import Log

MAX_SCHEMAS = 2_000
"""Kept at once; the one that was not asked for longest goes first."""
MAX_REFERENCES = 200
MAX_SCHEMA_BYTES = 4_000_000
MAX_VERSIONS = 200
"""Of a subject, read for the fingerprints of single-object encoding: the newest ones."""
ABSENT_FOR_S = 30.0
"""How long a schema that was not there is not asked for again."""
_FIRST_BACKOFF_S = 0.25
_MOST_BACKOFF_S = 15.0
_CHATTY = ("httpx", "httpx2")
"""Loggers of the client's HTTP library, which tell each request."""
_NO_SUCH = frozenset((40401, 40402, 40403))
"""The registry's own codes for "no such subject, version, schema". A bare 404 may as well be a wrong URL."""


class RegistrySettings(msgspec.Struct, frozen=True):
    """Where a registry is and how to be let in, in the words of confluent-kafka's client."""

    url: str
    timeout_s: float = 5.0
    properties: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        # Properties hold passwords.
        return f"<registry {self.url}>"


class Answer(msgspec.Struct):
    """What became of one question."""

    found: Any = None
    absent: str = ""
    """Why it is not there, for a record's problem."""
    unavailable: str = ""
    """Why nothing is known."""


class _Question:
    """A fetch under way."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer = Answer()


class _Trouble:
    """A question that had no answer the last time: when to ask it again.

    Each has its own, so that one that the registry always fails on keeps nobody from asking another.
    """

    def __init__(self) -> None:
        self.backoff = Backoff(first_s=_FIRST_BACKOFF_S, most_s=_MOST_BACKOFF_S, random=random.SystemRandom().random)
        self.reason = ""
        self.not_before = 0.0


class SchemaRegistry:
    """One registry. May be asked by several threads."""

    wait_s: float = 0.5
    """How long who asks waits for a new answer. A command that has nothing else to do sets it higher, for all."""
    is_patient: bool = False
    """Whether who asks waits so long even if the registry had no answer to the question before."""

    def __init__(self, settings: RegistrySettings, *, clock: Callable[[], float] = time.monotonic, wait_s: float | None = None) -> None:
        self._settings = settings
        self._clock = clock
        if wait_s is not None:
            self.wait_s = wait_s
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[str, Any], Answer] = OrderedDict()
        self._asked_at: dict[tuple[str, Any], float] = {}
        self._questions: dict[tuple[str, Any], _Question] = {}
        self._backoff = Backoff(first_s=_FIRST_BACKOFF_S, most_s=_MOST_BACKOFF_S, random=random.SystemRandom().random)
        self._no_wait_before = 0.0
        self._troubles: OrderedDict[tuple[str, Any], _Trouble] = OrderedDict()
        self._away = ""
        self._clients: dict[str, Any] = {}
        self._log = Log("bridge.registry")

    def __repr__(self) -> str:
        return f"<SchemaRegistry {self._settings.url}, {len(self._answers)} schemas{', away' if self._away else ''}>"

    @property
    def is_away(self) -> bool:
        """Whether the last question had no answer."""
        return bool(self._away)

    def prepare(self) -> None:
        """Make the client, without asking anything. Raises ConfigurationError where it does not take a setting or a file."""
        try:
            self._client("")
        except (ValueError, TypeError, OSError) as error:  # An ssl.SSLError is an OSError.
            raise ConfigurationError([f"the registry's client does not take its settings: {_told(error)}"]) from error

    def schema(self, number: int, *, serialized: bool = False) -> RegisteredSchema:
        """The schema with this id; of Protobuf, where `serialized`, its descriptor in base64 if the registry can make it.

        Raises DecodeError where there is none, SchemaUnavailableError where it cannot be asked.
        """
        found = self._ask(("serialized" if serialized else "", number), self._fetch_schema)
        return cast("RegisteredSchema", found)

    def versions(self, subject: str) -> list[RegisteredSchema]:
        """The newest versions of a subject, the newest first; asked for anew after ABSENT_FOR_S. Raises as `schema`."""
        key = ("versions", subject)
        with self._lock:
            if self._clock() - self._asked_at.get(key, 0.0) > ABSENT_FOR_S:
                self._answers.pop(key, None)
        return cast("list[RegisteredSchema]", self._ask(key, self._fetch_versions))

    # Asking.

    def _ask(self, key: tuple[str, Any], fetch: Callable[[tuple[str, Any]], Any]) -> Any:
        question, is_new = self._question(key, fetch)
        if isinstance(question, _Question):
            # Once, and then not again for the same question, and in trouble not for each: who asks has other things to do.
            if is_new and (self.is_patient or not self._away or self._clock() >= self._no_wait_before):
                question.done.wait(self.wait_s)
            if not question.done.is_set():
                msg = f"schema registry {self._settings.url}: no answer yet"
                raise SchemaUnavailableError(msg)
            question = question.answer
        if question.unavailable:
            raise SchemaUnavailableError(question.unavailable)
        if question.absent:
            raise DecodeError(question.absent)
        return question.found

    def _question(self, key: tuple[str, Any], fetch: Callable[[tuple[str, Any]], Any]) -> tuple[_Question | Answer, bool]:
        """The answer, if it is known, or the question under way, and whether it was asked just now."""
        with self._lock:
            known = self._answers.get(key)
            if known is not None and not (known.absent and self._clock() - self._asked_at[key] > ABSENT_FOR_S):
                self._answers.move_to_end(key)
                return known, False
            if (asked := self._questions.get(key)) is not None:
                return asked, False
            trouble = self._troubles.get(key)
            if trouble is not None and self._clock() < trouble.not_before:
                return Answer(unavailable=trouble.reason), False
            question = self._questions[key] = _Question()
        # A daemon: a registry that hangs must not keep the process from ending.
        threading.Thread(target=self._answer, args=(key, question, fetch), name="schema-registry", daemon=True).start()
        return question, True

    def _answer(self, key: tuple[str, Any], question: _Question, fetch: Callable[[tuple[str, Any]], Any]) -> None:
        answer = question.answer
        try:
            answer.found = fetch(key)
        except DecodeError as error:
            answer.absent = str(error)
        except Exception as error:  # noqa: BLE001 - HTTP, TLS, OAuth, JSON: each library raises its own, and all mean "not now"
            answer.unavailable = f"schema registry {self._settings.url}, asked for {_named(key)}: {_told(error)}"
        with self._lock:
            self._questions.pop(key, None)
            now = self._clock()
            if answer.unavailable:
                if not self._away:
                    self._log.warning("the schema registry is away: records that need it wait", reason=answer.unavailable)
                self._away = answer.unavailable
                self._no_wait_before = now + self._backoff.next_s()
                trouble = self._troubles.setdefault(key, _Trouble())
                trouble.reason = answer.unavailable
                trouble.not_before = now + trouble.backoff.next_s()
                while len(self._troubles) > MAX_SCHEMAS:
                    self._troubles.popitem(last=False)
            else:
                if self._away:
                    self._log.info("the schema registry is back")
                self._away = ""
                self._backoff.reset()
                self._troubles.pop(key, None)
                for trouble in self._troubles.values():
                    trouble.not_before = 0.0
                self._answers[key] = answer
                self._asked_at[key] = now
                while len(self._answers) > MAX_SCHEMAS:
                    gone, _ = self._answers.popitem(last=False)
                    self._asked_at.pop(gone, None)
        question.done.set()

    # Fetching, in the thread of the question.

    def _client(self, kind: str) -> Any:
        """The client; one for each format of schemas, because it keeps them without telling these apart."""
        if kind not in self._clients:
            from confluent_kafka.schema_registry import SchemaRegistryClient  # noqa: PLC0415 - half a second, and in an extra

            for name in _CHATTY:
                logging.getLogger(name).setLevel(logging.WARNING)
            self._clients[kind] = SchemaRegistryClient(
                {"url": self._settings.url, "timeout": self._settings.timeout_s, "max.retries": 0, **dict(self._settings.properties)}
            )
        return self._clients[kind]

    def _fetch_schema(self, key: tuple[str, Any]) -> RegisteredSchema:
        kind, number = key
        schema = self._call(lambda: self._client(kind).get_schema(number, fmt=kind or None), f"schema {number}")
        return self._complete(schema, kind, [0])

    def _fetch_versions(self, key: tuple[str, Any]) -> list[RegisteredSchema]:
        kind, subject = key
        client = self._client(kind)
        numbers = self._call(lambda: client.get_versions(subject), f'subject "{subject}"')
        newest = sorted(numbers, reverse=True)[:MAX_VERSIONS]
        found = [self._call(lambda number=number: client.get_version(subject, number), f'"{subject}" {number}') for number in newest]  # type: ignore[misc]
        return [self._complete(version.schema, kind, [0]) for version in found]

    def _complete(self, schema: Any, kind: str, counted: list[int]) -> RegisteredSchema:
        """`schema` with what it refers to. `counted` bounds that: references may form a large net."""
        text = schema.schema_str
        if not isinstance(text, str) or not text:  # Something else than a registry answered, and the client would keep it for ever.
            self._clients.pop(kind, None)
            msg = "the answer has no schema in it"
            raise ValueError(msg)
        if len(text) > MAX_SCHEMA_BYTES:
            msg = f"the schema has more than {MAX_SCHEMA_BYTES} characters"
            raise DecodeError(msg)
        references = []
        for reference in schema.references or ():
            counted[0] += 1
            if counted[0] > MAX_REFERENCES:
                msg = f"the schema refers to more than {MAX_REFERENCES} others"
                raise DecodeError(msg)
            what = f'the reference "{reference.name}" ({reference.subject} {reference.version})'
            version = self._call(
                lambda reference=reference: self._client(kind).get_version(  # type: ignore[misc]
                    reference.subject, reference.version, deleted=True, fmt=kind or None
                ),
                what,
            )
            references.append((str(reference.name), self._complete(version.schema, kind, counted)))
        return RegisteredSchema(str(schema.schema_type or "AVRO"), text, tuple(references))

    def _call(self, call: Callable[[], Any], what: str) -> Any:
        from confluent_kafka.schema_registry.error import SchemaRegistryError  # noqa: PLC0415 - in an extra

        try:
            return call()
        except SchemaRegistryError as error:
            if error.error_code in _NO_SUCH:
                msg = f"{what} is not in the schema registry {self._settings.url}: was it registered there, and the record made with it?"
                raise DecodeError(msg) from error
            raise


@lru_cache(maxsize=100)
def registry_of(settings: RegistrySettings) -> SchemaRegistry:
    """The registry with these settings: one for all sources that name it, and for rules that are loaded again."""
    return SchemaRegistry(settings)


def _named(key: tuple[str, Any]) -> str:
    kind, name = key
    return f'the versions of "{name}"' if kind == "versions" else f"schema {name}"


def _told(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
