"""How the key and value of a letter are shown: decoded where that is possible, else as text, else as bytes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from bridge.commands.rules_file import printable

if TYPE_CHECKING:
    from bridge.adapters.kafka_letters import Letter
    from bridge.core.record import Record
    from bridge.core.ruleset import CompiledRules

MAX_SHOWN_BYTES = 4_096


def shown_value(letter: Letter, rules: CompiledRules | None) -> str:
    """As its source reads it, else as JSON or text, else as bytes."""
    value = letter.record.value or b""
    decoded, problem = _decoded(letter, rules)
    if problem:
        return f"(not decoded: {problem})\n{shown_bytes(value, MAX_SHOWN_BYTES)}"
    if decoded is None:
        return shown_bytes(value, MAX_SHOWN_BYTES)
    import json

    text = json.dumps(decoded, indent=2, ensure_ascii=False, default=str)
    shown = "\n".join(printable(line, 1_000) for line in text[: 4 * MAX_SHOWN_BYTES].splitlines())
    return shown + ("\n..." if len(text) > 4 * MAX_SHOWN_BYTES else "")


def shown_bytes(data: bytes | None, limit: int) -> str:
    """As text where they are that, else as hexadecimal digits; no more than `limit` of either."""
    if data is None:
        return "none"
    try:
        return printable(data.decode(), limit)
    except UnicodeDecodeError:
        shown = data[:limit].hex(" ", 4)
        return f"{shown} (hexadecimal{', cut' if len(data) > limit else ''})"


def contents(letter: Letter) -> dict[str, Any]:
    """Its headers, key and value, for JSON."""
    record = letter.record
    headers = [{"name": name, **_text_or_base64(value)} for name, value in letter.facts.headers]
    return {"headers": headers, "key": _text_or_base64(record.key), "value": _text_or_base64(record.value)}


def _text_or_base64(data: bytes | None) -> dict[str, str | None]:
    if data is None:
        return {"text": None}
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _decoded(letter: Letter, rules: CompiledRules | None) -> tuple[Any, str]:
    """The value and nothing, or nothing and why there is none."""
    import json

    from shared.errors import DistributaryError

    value = letter.record.value or b""
    route = next((each for each in rules.routes if each.name == letter.facts.route), None) if rules is not None else None
    if route is not None:
        try:
            return route.source.decoder.decode(value, _original(letter)), ""
        except DistributaryError as error:
            return None, str(error)
    try:
        return json.loads(value), ""
    except (ValueError, RecursionError):
        return None, ""


def _original(letter: Letter) -> Record:
    """The record as it was: a decoder may look at its topic and headers."""
    from msgspec.structs import replace

    facts = letter.facts
    return replace(letter.record, topic=facts.topic, partition=facts.partition, offset=facts.offset, headers=facts.headers)
