"""fakeredis as a server for the publish script: the real Lua text runs on it, in this process, where no server is.

Two things that the script and its caller need are missing in fakeredis, and added here: Lua's `struct`, and INFO.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import fakeredis
import redis

_INFO = "redis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:" + "f" * 40 + "\r\nmaxmemory_policy:{}\r\n"
_PYTHONS_LETTERS = {"B": "B", "I4": "I", "I8": "Q", "i8": "q", "d": "d"}


class FakeServer:
    """An empty server, to be asked for clients as `RedisServer` is."""

    def __init__(self, *, eviction_policy: str = "noeviction") -> None:
        self._info = _INFO.format(eviction_policy).encode()
        self._server = fakeredis.FakeServer(version=(7, 0))
        client = self.client()
        client.eval("return 1", 0)  # This makes the Lua that all scripts share.
        client.close()
        _add_struct(self._server)

    def client(self) -> redis.Redis:
        """A new client, for the caller to close."""
        client = fakeredis.FakeRedis(server=self._server, connection_class=_Connection)
        client.connection_pool.connection_kwargs["info"] = self._info
        return client


class _Connection(fakeredis.FakeRedisConnection):
    """One that answers INFO."""

    def __init__(self, *arguments: Any, info: bytes, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._info = info
        self._is_asked_for_info = False

    def send_command(self, *command: Any, **options: Any) -> None:
        self._is_asked_for_info = command[0] == "INFO"
        if not self._is_asked_for_info:
            super().send_command(*command, **options)

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        if not self._is_asked_for_info:
            return super().read_response(*arguments, **options)
        self._is_asked_for_info = False
        return self._info


def _add_struct(server: Any) -> None:
    lua = server._lua_runtime
    library = lua.table()
    library[b"pack"], library[b"unpack"] = _pack, _unpack
    lua.globals()[b"struct"] = library
    server._lua_expected_globals.add(b"struct")


def _pack(format_: bytes, *values: Any) -> bytes:
    """Lua's `struct.pack`, as far as the scripts use it. All of Lua's numbers are floats."""
    letters = _letters(format_)
    return struct.pack(
        ">" + "".join(letters), *(int(value) if letter in "BIQq" else value for letter, value in zip(letters, values, strict=True))
    )


def _unpack(format_: bytes, data: bytes, at: float = 1) -> tuple[Any, ...]:
    """Lua's `struct.unpack`: the values, and where what follows them begins, from 1."""
    layout = struct.Struct(">" + "".join(_letters(format_)))
    return (*layout.unpack_from(data, int(at) - 1), int(at) + layout.size)


def _letters(format_: bytes) -> list[str]:
    found = re.findall(r"c(\d+)|(B|I4|I8|i8|d)", format_.decode().removeprefix(">"))
    return [f"{length}s" if length else _PYTHONS_LETTERS[letter] for length, letter in found]
