"""A schema registry of a test's own: the part of Confluent's REST API that clients read by, told to be slow, broken or strict."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from bridge.formats import proto_schema
from tests.rig.ports import free_port
from tests.rig.wait import PATIENCE_S

Reference = tuple[str, str, int]
"""Name, subject, version."""


class FakeRegistry:
    """Listens on a loopback port while it is `with`ed; `stop` and `start` keep the port."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.authorizations: list[str | None] = []
        """The header of that name, of each request."""
        self.requests: list[str] = []
        """Paths that were asked for."""
        self.credentials = ""
        """USER:PASSWORD that it wants."""
        self.delay_s = 0.0
        self.may_answer = threading.Event()
        """While it is clear, requests wait."""
        self.may_answer.set()
        self.status = 0
        """Answered to everything, where it is not 0."""
        self.failing: set[int] = set()
        """Schemas that it answers 500 to."""
        self.serializes = True
        """Whether it can give Protobuf as descriptors."""
        self._schemas: dict[int, dict[str, Any]] = {}
        self._subjects: dict[str, list[int]] = {}
        self._server: ThreadingHTTPServer | None = None
        self._port = free_port()

    def __repr__(self) -> str:
        return f"<FakeRegistry :{self._port}, {len(self._schemas)} schemas>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Its address."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port each time."""
        registry = self

        class Handler(_Handler):
            fake = registry

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def register(self, subject: str, text: str, kind: str = "AVRO", references: Sequence[Reference] = (), *, number: int = 0) -> int:
        """Add a version of a subject and return the schema's id."""
        number = number or 100 + len(self._schemas)
        listed = [{"name": name, "subject": of, "version": version} for name, of, version in references]
        self._schemas[number] = {"schema": text, "schemaType": kind, "references": listed}
        self._subjects.setdefault(subject, []).append(number)
        return number

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        """Status and body."""
        found = re.fullmatch(r"/schemas/ids/(\d+)", path)
        if found:
            return self._shown(int(found[1]), query)
        found = re.fullmatch(r"/subjects/([^/]+)/versions(?:/(\d+))?", path)
        if not found:
            return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}
        versions = self._subjects.get(unquote(found[1]))
        if versions is None:
            return 404, {"error_code": 40401, "message": f"Subject '{found[1]}' not found."}
        if found[2] is None:
            return 200, list(range(1, len(versions) + 1))
        if not 1 <= int(found[2]) <= len(versions):
            return 404, {"error_code": 40402, "message": "Version not found."}
        number = versions[int(found[2]) - 1]
        status, body = self._shown(number, query)
        return status, {**body, "subject": unquote(found[1]), "version": int(found[2]), "id": number}

    def _shown(self, number: int, query: dict[str, list[str]]) -> tuple[int, Any]:
        if number in self.failing:
            return 500, {"error_code": 50001, "message": "Error in the backend data store"}
        schema = self._schemas.get(number)
        if schema is None:
            return 404, {"error_code": 40403, "message": f"Schema {number} not found"}
        shown = {name: value for name, value in schema.items() if value and (name, value) != ("schemaType", "AVRO")}
        if query.get("format") == ["serialized"] and schema["schemaType"] == "PROTOBUF" and self.serializes:
            shown["schema"] = self._serialized(schema)
        return 200, shown

    def _serialized(self, schema: dict[str, Any]) -> str:
        texts = {"default": schema["schema"]}
        waiting = list(schema["references"])
        while waiting:
            reference = waiting.pop()
            inner = self._schemas[self._subjects[reference["subject"]][reference["version"] - 1]]
            texts[reference["name"]] = inner["schema"]
            waiting += inner["references"]
        [file] = [file for file in proto_schema.compile_texts(texts).file if file.name == "default"]
        assert isinstance(file, FileDescriptorProto)
        return b64encode(file.SerializeToString()).decode()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeRegistry

    def do_GET(self) -> None:
        """Answer."""
        split = urlsplit(self.path)
        self.fake.requests.append(self.path)
        self.fake.authorizations.append(self.headers.get("Authorization"))
        if self.fake.delay_s:
            time.sleep(self.fake.delay_s)
        self.fake.may_answer.wait(PATIENCE_S)
        wanted = f"Basic {b64encode(self.fake.credentials.encode()).decode()}" if self.fake.credentials else None
        if wanted is not None and self.headers.get("Authorization") != wanted:
            self._send(401, {"error_code": 401, "message": "Unauthorized"})
        elif self.fake.status:
            self._send(self.fake.status, {"error_code": 50001, "message": "Error in the backend datastore"})
        else:
            self._send(*self.fake.answer(split.path, parse_qs(split.query)))

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # Who asked may have given up.
            self.wfile.write(data)

    def setup(self) -> None:
        """Give up soon on who says nothing: a client that likes our certificate as little as it may."""
        self.request.settimeout(10)
        super().setup()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
