"""The command `bridge`. What its subcommands do is in bridge/commands/."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

# Subcommand -> module in bridge/commands/. The function in it has the module's name. A module that is not there is left out.
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
        return [name for name, module in _COMMANDS.items() if find_spec(f"bridge.commands.{module}") is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = _COMMANDS[cmd_name]
        try:
            function = getattr(import_module(f"bridge.commands.{module}"), module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in {"bridge", "shared"}:
                raise
            function = _lacking(error.name or "a library")
        if isinstance(function, typer.Typer):  # A command that has subcommands.
            return get_command(function)
        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        app.command(cmd_name)(function)
        return get_command(app)


def _lacking(library: str) -> Any:
    """What stands in for a command whose libraries are not installed."""

    def command() -> None:
        typer.echo(f"{library} is not installed; install distributary with the extra `bridge`", err=True)
        raise typer.Exit(2)

    command.__doc__ = f"(not available: {library} is not installed)"
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
