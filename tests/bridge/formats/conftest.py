from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig.schema_registry import FakeRegistry


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """A registry that answers."""
    with FakeRegistry() as registry:
        yield registry
