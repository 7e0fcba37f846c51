"""Records that confluent-kafka for Python cannot make, and clients of other languages do: by the C library inside it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_int32, c_size_t, c_ssize_t, c_void_p
from pathlib import Path
from typing import Self

import confluent_kafka  # noqa: F401  (loads librdkafka)

_TOPIC, _PARTITION, _VALUE, _FLAGS, _HEADERS, _END = 1, 3, 4, 7, 10, 0
"""Of librdkafka's `rd_kafka_vtype_t`."""
_COPY = 2
_PRODUCER = 0


class RawProducer:
    """Produces to partition 0, headers of any bytes included."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._library = _library()
        error = ctypes.create_string_buffer(512)
        settings = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(c_void_p(settings), b"bootstrap.servers", bootstrap_servers.encode(), error, c_size_t(512))
        self._producer = c_void_p(self._library.rd_kafka_new(_PRODUCER, c_void_p(settings), error, c_size_t(512)))
        assert self._producer.value, error.value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        left = self._library.rd_kafka_flush(self._producer, 60_000)
        self._library.rd_kafka_destroy(self._producer)
        assert left == 0

    def send(self, topic: str, value: bytes, headers: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Produce one record, at the latest when the `with` ends."""
        added = c_void_p(self._library.rd_kafka_headers_new(c_size_t(len(headers))))
        for name, data in headers:
            size = c_ssize_t(len(data or b""))
            self._library.rd_kafka_header_add(added, c_char_p(name), c_ssize_t(len(name)), c_char_p(data), size)
        error = self._library.rd_kafka_producev(
            self._producer,
            *(c_int(_TOPIC), c_char_p(topic.encode()), c_int(_PARTITION), c_int32(0)),
            *(c_int(_VALUE), c_char_p(value), c_size_t(len(value)), c_int(_FLAGS), c_int(_COPY)),
            *(c_int(_HEADERS), added, c_int(_END)),
        )
        assert error == 0


def _library() -> ctypes.CDLL:
    """The librdkafka that this process has loaded already."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "librdkafka" in line}
    library = ctypes.CDLL(paths.pop())
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(library, name).restype = c_void_p
    return library
