"""A real Kafka that lets nobody in without a password or a token, and nobody do what no ACL allows."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialAlteration, UserScramCredentialUpsertion

from tests.rig import parts
from tests.rig.kafka_server import NEVER_KILLED, KafkaCluster
from tests.rig.ports import free_port

_LOGIN = "org.apache.kafka.common.security"
_ANSWER_S = 60


class SecureKafka(KafkaCluster):
    """One broker with three doors: `address` for tests (no password, may do all), `tls_address` (SASL_SSL), `oauth_address`.

    Users log in by SASL/PLAIN or SCRAM-SHA-512 with `passwords`; by OAuth as whoever a token names.
    """

    def __init__(self, directory: Path, passwords: Mapping[str, str]) -> None:
        super().__init__(directory / "kafka", parts.KAFKA_LIBS)
        self.passwords = dict(passwords)
        self.certificate = directory / "certificate.pem"
        self._key_store = directory / "key-store.pem"
        tls, oauth = free_port(), free_port()
        self.tls_address = f"127.0.0.1:{tls}"
        self.oauth_address = f"127.0.0.1:{oauth}"
        self._make_certificate(directory)
        [node] = self.nodes
        users = " ".join(f'user_{name}="{password}"' for name, password in passwords.items())
        doors = f"CLIENTS://{node.address},TLS://{self.tls_address},OAUTH://{self.oauth_address}"
        self._settings = {
            **NEVER_KILLED,
            "listeners": f"{doors},CONTROLLER://127.0.0.1:{node.controller_port}",
            "advertised.listeners": doors,
            "listener.security.protocol.map": "CLIENTS:PLAINTEXT,TLS:SASL_SSL,OAUTH:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            "listener.name.tls.ssl.keystore.type": "PEM",
            "listener.name.tls.ssl.keystore.location": str(self._key_store),
            "listener.name.tls.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.tls.plain.sasl.jaas.config": f"{_LOGIN}.plain.PlainLoginModule required {users};",
            "listener.name.tls.scram-sha-512.sasl.jaas.config": f"{_LOGIN}.scram.ScramLoginModule required;",
            "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
            # Kafka's own checker of tokens without a signature: enough to see that the bridge fetches one and shows it.
            "listener.name.oauth.oauthbearer.sasl.jaas.config": f"{_LOGIN}.oauthbearer.OAuthBearerLoginModule required "
            'unsecuredLoginStringClaim_sub="broker";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }

    def start(self, timeout_s: float = 120) -> Self:
        """See KafkaCluster; then the users' SCRAM credentials are made."""
        super().start(timeout_s)
        admin = self.admin()
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        users: list[UserScramCredentialAlteration] = [
            UserScramCredentialUpsertion(name, info, password.encode()) for name, password in self.passwords.items()
        ]
        for future in admin.alter_user_scram_credentials(users).values():
            future.result(_ANSWER_S)
        return self

    def allow(self, user: str, kind: ResourceType, name: str, *operations: AclOperation) -> None:
        """Let a user do these things to a topic or a group."""
        admin = self.admin()
        acls = [
            AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
            for operation in operations
        ]
        for future in admin.create_acls(acls).values():
            future.result(_ANSWER_S)

    def properties(self, user: str, mechanism: str, password: str | None = None) -> str:
        """A file of properties for clients of `tls_address`."""
        return (
            f"security.protocol=SASL_SSL\nsasl.mechanism={mechanism}\nsasl.username={user}\n"
            f"sasl.password={self.passwords[user] if password is None else password}\nssl.ca.location={self.certificate}\n"
        )

    def _make_certificate(self, directory: Path) -> None:
        key = directory / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        self._key_store.write_text(key.read_text() + self.certificate.read_text())


class TokenServer:
    """Gives tokens to who knows the client's secret: the client credentials grant of OAuth 2.0 (RFC 6749, section 4.4)."""

    def __init__(self, client: str, secret: str) -> None:
        self.asked: list[dict[str, str]] = []
        """The forms of the requests."""
        expected = "Basic " + base64.b64encode(f"{client}:{secret}".encode()).decode()
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                asked.append(dict(urllib.parse.parse_qsl(form)))
                is_right = self.headers["Authorization"] == expected
                body = json.dumps({"access_token": _token(client), "token_type": "Bearer", "expires_in": 3600} if is_right else {}).encode()
                self.send_response(200 if is_right else 401)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _token(subject: str) -> str:
    """A JSON Web Token without a signature (RFC 7519, section 6)."""
    now = int(time.time())
    parts_ = [{"alg": "none"}, {"sub": subject, "iat": now, "exp": now + 3600}]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts_]
    return ".".join([*encoded, ""])
