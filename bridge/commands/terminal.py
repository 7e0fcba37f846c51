"""Where commands print to."""

from __future__ import annotations

import sys

from rich.console import Console

WIDTH_ELSEWHERE = 140
"""Columns where the output is no terminal: tables in files and pipes need not be narrow."""


def console() -> Console:
    """A console on stdout, as it is now (tests replace it)."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_ELSEWHERE)
