"""Both VCDIFF engines, behind one face."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import pytest

from shared.delta import vcdiff, vcdiff_decode, vcdiff_encode


class Engine(NamedTuple):
    """What a test may do with an engine."""

    name: str
    encode: Callable[[bytes, bytes], bytes]
    decode: Callable[[bytes, bytes, int], bytes]


def _python_decode(base: bytes, delta: bytes, max_size: int) -> bytes:
    return vcdiff_decode.decode(base, delta, max_size=max_size)


def _compiled_decode(base: bytes, delta: bytes, max_size: int) -> bytes:
    return vcdiff.decode(base, delta, max_size=max_size)


PYTHON = Engine("python", vcdiff_encode.encode, _python_decode)
COMPILED = Engine("xdelta3", vcdiff.encode, _compiled_decode)


def need_compiled_engine() -> None:
    """Skip the test where xdelta3 is not installed, or fail it where CI=true."""
    if vcdiff.engine() == "xdelta3":
        return
    message = "xdelta3's compiled engine is missing: install the extra `xdelta` (it needs a C compiler)"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def _engine(name: str) -> Engine:
    if name == PYTHON.name:
        return PYTHON
    need_compiled_engine()
    return COMPILED


@pytest.fixture
def compiled() -> Engine:
    return _engine(COMPILED.name)


@pytest.fixture(params=[PYTHON.name, COMPILED.name], scope="module")
def writer(request: pytest.FixtureRequest) -> Engine:
    """The engine that encodes."""
    return _engine(request.param)


@pytest.fixture(params=[PYTHON.name, COMPILED.name], scope="module")
def reader(request: pytest.FixtureRequest) -> Engine:
    """The engine that decodes."""
    return _engine(request.param)
