"""The Lua scripts of this package, as Redis is given them."""

from __future__ import annotations

import hashlib
from importlib.resources import files


class Script:
    """A script and its SHA-1, by which Redis knows it. `sharded`: it publishes on sharded pub/sub."""

    def __init__(self, name: str, *, sharded: bool) -> None:
        text = (files("shared.bus") / name).read_bytes()
        self.text = text.replace(b"'PUBLISH'", b"'SPUBLISH'") if sharded else text
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


class Scripts:
    """The scripts as one kind of bus needs them: with sharded pub/sub or without."""

    def __init__(self, *, sharded: bool) -> None:
        self.publish, self.open, self.beat = (Script(name, sharded=sharded) for name in ("publish.lua", "open.lua", "beat.lua"))


PLAIN = Scripts(sharded=False)
SHARDED = Scripts(sharded=True)
"""For a Redis Cluster."""
