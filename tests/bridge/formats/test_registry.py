from __future__ import annotations

import contextlib
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bridge.core.decoding import DecodeError, SchemaUnavailableError
from bridge.formats.registry import ABSENT_FOR_S, RegistrySettings, SchemaRegistry
from tests.rig.schema_registry import FakeRegistry
from tests.rig.wait import wait_until


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def client(
    fake: FakeRegistry, clock: Clock | None = None, *, wait_s: float = 20, timeout_s: float = 5, **properties: str
) -> SchemaRegistry:
    settings = RegistrySettings(fake.url, timeout_s, tuple({name.replace("_", "."): value for name, value in properties.items()}.items()))
    return SchemaRegistry(settings, clock=clock or Clock(), wait_s=wait_s)


def test_a_schema_is_fetched_once(fake: FakeRegistry):
    number = fake.register("s", '"int"')
    registry = client(fake)
    for _ in range(3):
        assert registry.schema(number).text == '"int"'
    assert len(fake.requests) == 1


def test_the_user_and_password_are_sent(fake: FakeRegistry):
    fake.credentials = "me:secret"
    number = fake.register("s", '"int"')
    assert client(fake, basic_auth_user_info="me:secret").schema(number).type == "AVRO"
    with pytest.raises(SchemaUnavailableError, match="Unauthorized"):  # Nothing is known about the record: the operator has to act.
        client(fake, basic_auth_user_info="me:wrong").schema(number)


def test_no_secret_is_shown(fake: FakeRegistry):
    settings = RegistrySettings(fake.url, properties=(("basic.auth.user.info", "me:secret"),))
    assert "secret" not in repr(settings) + str(settings) + repr(SchemaRegistry(settings))


def test_a_schema_that_is_not_there_is_the_records_problem_and_asked_for_again_later(fake: FakeRegistry):
    clock = Clock()
    registry = client(fake, clock)
    for _ in range(3):
        with pytest.raises(DecodeError, match="schema 100 is not in the schema registry"):
            registry.schema(100)
    assert len(fake.requests) == 1
    fake.register("s", '"int"', number=100)
    clock.now_s += ABSENT_FOR_S + 1
    assert registry.schema(100).text == '"int"'


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_registry_in_trouble_is_nobodys_fault_and_not_asked_all_the_time(fake: FakeRegistry, status: int):
    clock = Clock()
    registry = client(fake, clock)
    number = fake.register("s", '"int"')
    fake.status = status
    for _ in range(5):
        with pytest.raises(SchemaUnavailableError):
            registry.schema(number)
    assert len(fake.requests) == 1
    assert registry.is_away
    fake.status = 0
    clock.now_s += 20
    assert registry.schema(number).text == '"int"'
    assert not registry.is_away


def test_a_schema_that_the_registry_always_fails_on_keeps_no_other_from_being_asked_for(fake: FakeRegistry):
    clock = Clock()
    registry = client(fake, clock)
    broken, good = fake.register("s", '"int"'), fake.register("s", '"string"')
    fake.failing = {broken}
    for _ in range(8):  # Its partition comes first, each time.
        with pytest.raises(SchemaUnavailableError, match=f"asked for schema {broken}: "):
            registry.schema(broken)
        clock.now_s += 20
    with pytest.raises(SchemaUnavailableError):
        registry.schema(broken)

    def schema() -> str:
        with contextlib.suppress(SchemaUnavailableError):  # Not waited for, because there was trouble.
            return registry.schema(good).text
        return ""

    wait_until(lambda: schema() == '"string"', what="the other schema")


def test_a_wrong_address_is_not_a_schema_that_is_missing(fake: FakeRegistry):
    registry = SchemaRegistry(RegistrySettings(f"{fake.url}/wrong"), wait_s=20)
    with pytest.raises(SchemaUnavailableError, match="404"):
        registry.schema(1)


def test_one_that_refuses_connections(fake: FakeRegistry):
    clock = Clock()
    registry = client(fake, clock)
    number = fake.register("s", '"int"')
    fake.stop()
    with pytest.raises(SchemaUnavailableError, match="refused"):
        registry.schema(number)
    fake.start()
    clock.now_s += 20
    assert registry.schema(number).text == '"int"'


def test_one_that_is_slow_is_waited_for_once_and_then_only_looked_at(fake: FakeRegistry):
    number = fake.register("s", '"int"')
    registry = client(fake, wait_s=0.05)
    fake.may_answer.clear()
    for _ in range(20):  # Each of them at once: the loop has other things to do.
        with pytest.raises(SchemaUnavailableError, match="no answer yet"):
            registry.schema(number)
    fake.may_answer.set()
    wait_until(lambda: _has(registry, number), what="the answer")
    assert len(fake.requests) == 1


def _has(registry: SchemaRegistry, number: int) -> bool:
    try:
        registry.schema(number)
    except SchemaUnavailableError:
        return False
    return True


def test_one_that_never_answers_is_given_up(fake: FakeRegistry):
    fake.delay_s = 3
    with pytest.raises(SchemaUnavailableError, match=r"timed out|ReadTimeout"):
        client(fake, timeout_s=0.2).schema(1)


def test_an_answer_that_is_none_is_trouble(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fake, "answer", lambda *_: (200, ["what"]))
    with pytest.raises(SchemaUnavailableError):
        client(fake).schema(1)


@pytest.mark.parametrize("answer", [{}, {"schema": None}, {"schema": ""}, {"schema": 7}])
def test_an_answer_without_a_schema_is_not_kept(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch, answer: object):
    clock = Clock()
    registry = client(fake, clock)
    number = fake.register("s", '"int"')
    with monkeypatch.context() as patch:
        patch.setattr(fake, "answer", lambda *_: (200, answer))
        with pytest.raises(SchemaUnavailableError, match="no schema in it"):
            registry.schema(number)
    clock.now_s += 20
    assert registry.schema(number).text == '"int"'


def test_references_are_fetched_too_and_bounded(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch):
    fake.register("a", '"int"')
    number = fake.register("b", '"long"', references=[("a", "a", 1)])
    registry = client(fake)
    assert [(name, schema.text) for name, schema in registry.schema(number).references] == [("a", '"int"')]
    circle = fake.register("c", '"long"', references=[("c", "c", 1)])
    with pytest.raises(DecodeError, match="refers to more than 200 others"):
        registry.schema(circle)
    lost = fake.register("d", '"long"', references=[("e", "e", 1)])
    with pytest.raises(DecodeError, match=r'the reference "e" \(e 1\) is not in the schema registry'):
        registry.schema(lost)


def test_several_threads_ask_once(fake: FakeRegistry):
    number = fake.register("s", '"int"')
    fake.delay_s = 0.2
    registry, found = client(fake), []

    def ask() -> None:
        wait_until(lambda: _has(registry, number), what="the answer")
        found.append(registry.schema(number).text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == ['"int"'] * 4
    assert len(fake.requests) == 1


def test_any_property_of_the_client_such_as_those_of_oauth(fake: FakeRegistry):
    number = fake.register("s", '"int"')
    named = (
        ("bearer.auth.credentials.source", "STATIC_TOKEN"),
        ("bearer.auth.token", "opaque"),
        ("bearer.auth.logical.cluster", "lsrc-1"),
        ("bearer.auth.identity.pool.id", "pool-1"),
    )
    assert SchemaRegistry(RegistrySettings(fake.url, properties=named), wait_s=20).schema(number).text == '"int"'
    assert fake.authorizations == ["Bearer opaque"]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


def test_tls_and_whom_to_believe(tmp_path: Path):
    cert, key = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with FakeRegistry(tls) as fake:
        number = fake.register("s", '"int"')
        with pytest.raises(SchemaUnavailableError, match="certificate"):
            client(fake).schema(number)
        assert client(fake, ssl_ca_location=str(cert)).schema(number).text == '"int"'


def test_a_clients_own_certificate(tmp_path: Path):
    cert, key = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    tls.load_verify_locations(cert)
    tls.verify_mode = ssl.CERT_REQUIRED
    with FakeRegistry(tls) as fake:
        number = fake.register("s", '"int"')
        with pytest.raises(SchemaUnavailableError):
            client(fake, ssl_ca_location=str(cert)).schema(number)
        own = {"ssl_ca_location": str(cert), "ssl_certificate_location": str(cert), "ssl_key_location": str(key)}
        assert client(fake, **own).schema(number).text == '"int"'  # type: ignore[arg-type]
