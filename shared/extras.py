"""What a command says where a library of its extra is not installed, instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

USAGE_ERROR = 2
_OURS = frozenset(("bridge", "distributary", "edge", "shared"))


def describe_lack(error: ModuleNotFoundError, extra: str) -> str:
    """What is missing, and what to do. Raises `error` itself where a module of ours is missing: that is a fault of the program."""
    library = (error.name or "").partition(".")[0]
    if library in _OURS:
        raise error
    return f"{library or 'a library'} is not installed: pip install 'distributary[{extra}]'"


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """End the command with status 2 where the block needs a library that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        print(describe_lack(error, extra), file=sys.stderr)  # noqa: T201 - it is for the person who runs the command
        raise SystemExit(USAGE_ERROR) from None
