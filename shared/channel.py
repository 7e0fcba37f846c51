"""Channel names: their grammar, their namespace and the shard they live on."""

from __future__ import annotations

import re
from binascii import crc_hqx

from shared.errors import ChannelError

MAX_CHANNEL_BYTES = 255

# No comma (it separates names in a query string), no `*`, `?`, `#` or `+` (patterns, here and in MQTT), no braces (Redis'
# hash tags), no white space, quotes or control bytes. ASCII only: two names that look alike are the same name.
_CHANNEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@~=%!$-]{0,254}")
_SEGMENT = re.compile(r"[A-Za-z0-9_./@~=%!$-]+")


def check_channel(name: str) -> str:
    """Return `name` if it is a channel name; raise ChannelError, saying why, if it is not."""
    if _CHANNEL.fullmatch(name):
        return name
    raise ChannelError(_why_not(name))


def is_segment(text: str) -> bool:
    """Whether `text` may fill a placeholder of a channel template.

    A value from a record may not contain `:`, so that data can neither leave its namespace nor make
    `a:{x}:{y}` ambiguous.
    """
    return _SEGMENT.fullmatch(text) is not None


def namespace_of(channel: str) -> str:
    """The part before the first `:`, or the empty string where there is none."""
    head, separator, _ = channel.partition(":")
    return head if separator else ""


def shard_of(channel: str, shards: int) -> int:
    """The shard, 0 to `shards` - 1, that holds `channel`: CRC-16/XMODEM of the name modulo the number of shards."""
    return crc_hqx(channel.encode(), 0) % shards


def _why_not(name: str) -> str:
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    if not name:
        return "a channel name must not be empty"
    if len(name.encode("utf-8", "surrogatepass")) > MAX_CHANNEL_BYTES:
        return f"channel name {shown!r} is longer than {MAX_CHANNEL_BYTES} bytes"
    if not re.match(r"[A-Za-z0-9_]", name):
        return f"channel name {shown!r} must start with an ASCII letter, a digit or `_`"
    for character in name:
        if not re.match(r"[A-Za-z0-9_.:/@~=%!$-]", character):
            return f"channel name {shown!r} contains {character!r}; allowed are ASCII letters, digits and _ . : / @ ~ = % ! $ -"
    return f"{shown!r} is not a channel name"
