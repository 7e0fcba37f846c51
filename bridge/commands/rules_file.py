"""The argument RULES, and what becomes of rules with problems: each on a line of stderr, exit code 1, no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from bridge.core.ruleset import CompiledRules

PROBLEMS = 1
"""Exit code: what was asked was done, and something is wrong with the input."""
USAGE = 2
"""Exit code: the command line is wrong."""

RulesArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RULES",
        exists=True,
        dir_okay=False,
        readable=True,
        envvar="BRIDGE_RULES",
        help="The rules file (YAML).",
    ),
]


def load_or_exit(path: Path) -> CompiledRules:
    """The rules at `path`; or each of their problems on stderr, and exit code 1."""
    from bridge.rules.load import load_rules

    try:
        return load_rules(path)
    except ConfigurationError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        many = len(error.problems)
        typer.echo(f"{many} problem{'' if many == 1 else 's'}. The reference of all settings is docs/rules.md.", err=True)
        raise typer.Exit(PROBLEMS) from None


def wait_for_schemas() -> None:
    """Let a command that has nothing else to do wait for a schema registry's answer, and not try a record without it."""
    from bridge.formats.registry import SchemaRegistry

    SchemaRegistry.wait_s = 20.0
    SchemaRegistry.is_patient = True


def printable(text: str, limit: int) -> str:
    """`text` for a terminal: control characters escaped, cut at `limit` characters."""
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
