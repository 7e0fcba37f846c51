"""The command `bridge`. What its subcommands do is in bridge/commands/."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from shared.extras import describe_lack, needing

# Subcommand -> module in bridge/commands/. The function in it has the module's name.
_COMMANDS = {
    "check": "check",
    "try": "try_",
    "explain": "explain",
    "run": "run",
    "dead-letters": "dead_letters",
    "demo": "demo",
}


class _LazyGroup(TyperGroup):
    """Imports a subcommand when it is asked for: checking rules needs no Kafka."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the interface is typer's
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        takes_anything = False
        try:
            function = getattr(import_module(f"bridge.commands.{module}"), module)
        except ModuleNotFoundError as error:
            function, takes_anything = _lacking(error), True
        if isinstance(function, typer.Typer):  # A command that has subcommands.
            return get_command(function)
        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        app.command(cmd_name, context_settings={"ignore_unknown_options": takes_anything, "allow_extra_args": takes_anything})(function)
        return get_command(app)

    def invoke(self, ctx: Any) -> Any:
        with needing("bridge"):
            return super().invoke(ctx)


def _lacking(error: ModuleNotFoundError) -> Any:
    """What stands in for a command whose libraries are not installed, whatever it is told."""
    problem, _, _ = describe_lack(error, "bridge").partition(":")

    def command() -> None:
        raise error

    command.__doc__ = f"(not available: {problem})"
    return command


main = typer.Typer(
    name="bridge",
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    help="From Kafka to the bus: routes records to channels by a rules file, as deltas.",
    epilog="To begin: bridge check rules.yaml, then bridge try rules.yaml --input record.json. docs/rules.md describes rules.",
)


def _show_version(value: bool) -> None:
    if value:
        try:
            print(f"distributary {version('distributary')}")
        except PackageNotFoundError:
            print("distributary (not installed)")
        raise typer.Exit


@main.callback()
def _options(
    _version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Options before the subcommand."""


if __name__ == "__main__":
    main()
