"""JMESPath's public compliance suite, through our compiler."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from bridge.core.expression import EvaluationError, compile_expression
from bridge.core.record import Record
from bridge.core.scope import Scope
from shared.errors import ConfigurationError
from tests.rig.parts import JMESPATH_SUITE, Part, need

CASES_IN_THE_PINNED_SUITE = 862


class Case(msgspec.Struct):
    """One expression on one value. `error` names what is wrong; a `bench` only has to run."""

    name: str
    given: Any
    expression: str
    expected: Any
    error: str | None


def cases() -> Iterator[Case]:
    for file in sorted(JMESPATH_SUITE.glob("*.json")):
        for group_number, group in enumerate(json.loads(file.read_text())):
            for number, case in enumerate(group["cases"]):
                name = f"{file.stem}[{group_number}][{number}]"
                yield Case(name, group["given"], case["expression"], case.get("result"), case.get("error"))


def outcome(case: Case) -> tuple[str, Any]:
    scope = Scope(Record("suite", 0, 0, None, None, b""))
    scope.put_value(case.given)
    try:
        # The suite's expressions work on a value, ours on a scope: whatever follows the pipe works on the value.
        return "result", compile_expression(f"item | {case.expression}").evaluate(scope)
    except (ConfigurationError, EvaluationError):
        return "error", None


def equal(got: Any, expected: Any) -> bool:
    """Python takes 1 and True for equal."""
    return json.dumps(got, sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_the_public_compliance_suite_passes(record_property: Any, capsys: pytest.CaptureFixture[str]):
    need(Part.JMESPATH, __name__)
    found = list(cases())
    failed = []
    for case in found:
        kind, got = outcome(case)
        if kind != ("error" if case.error else "result") or not equal(got, case.expected):
            failed.append(f"{case.name}: {case.expression} gave {kind} {got!r}, not {case.error or case.expected!r}")
    assert failed == []
    assert len(found) == CASES_IN_THE_PINNED_SUITE
    record_property("cases", len(found))
    with capsys.disabled():
        sys.stdout.write(f"\nJMESPath compliance suite: {len(found)} cases passed\n")
