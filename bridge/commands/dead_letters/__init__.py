"""`bridge dead-letters list | show | replay`: look at records that were put aside, and play them again. One module for each."""

from __future__ import annotations

import typer

from bridge.commands.dead_letters import list_, replay, show

dead_letters = typer.Typer(
    name="dead-letters",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Look at records that routes with `on_error: dead-letter` could not handle, and play them again. docs/operations.md, section 10.",
)
dead_letters.command("list")(list_.list_)
dead_letters.command("show")(show.show)
dead_letters.command("replay")(replay.replay)
