"""`distributary-tail`: print the publications of channels, one JSON line each."""

from __future__ import annotations

import asyncio
import os
import sys
from base64 import b64encode
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from distributary.client import Client
from distributary.errors import ClientError, PayloadError
from distributary.options import Options, Status
from distributary.publication import Gap, Publication
from shared.channel import check_channel
from shared.errors import ChannelError
from shared.publication import CONTENT_TYPE_NAMES, ContentType, Position

INTERRUPTED = 130
DEFAULT_URL = "ws://127.0.0.1:8000"


class FormatChoice(StrEnum):
    """How frames are written."""

    MSGPACK = "msgpack"
    JSON = "json"


class DeltaChoice(StrEnum):
    """How publications are written."""

    VCDIFF = "vcdiff"
    JSON_PATCH = "json-patch"
    NONE = "none"


class ModeChoice(StrEnum):
    """What happens to publications that are not printed fast enough."""

    QUEUE = "queue"
    CONFLATE = "conflate"
    ACK = "ack"


class Counts(msgspec.Struct):
    """What was received, all channels together."""

    publications: int = 0
    deltas: int = 0
    gaps: int = 0
    bytes_received: int = 0
    bytes_of_payloads: int = 0


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def tail(  # noqa: PLR0917 - its options
    words: Annotated[
        list[str],
        typer.Argument(metavar="[URL] CHANNEL...", help="The edge (ws://HOST:PORT or wss://HOST) and channels, such as bus:1430."),
    ],
    url: Annotated[str, typer.Option(envvar="DISTRIBUTARY_URL", help="The edge, where the first word is no URL.")] = DEFAULT_URL,
    frame_format: Annotated[
        FormatChoice, typer.Option("--format", envvar="DISTRIBUTARY_FORMAT", help="How frames travel.")
    ] = FormatChoice.MSGPACK,
    delta: Annotated[DeltaChoice, typer.Option(envvar="DISTRIBUTARY_DELTA", help="The delta format to ask for.")] = DeltaChoice.VCDIFF,
    count: Annotated[int, typer.Option(min=0, help="Stop after this many publications. 0: never.")] = 0,
    since: Annotated[str, typer.Option(metavar="EPOCH:OFFSET", help="Go on right behind this position (one channel only).")] = "",
    rewind: Annotated[int, typer.Option(min=0, help="Start with this many publications of the past.")] = 0,
    mode: Annotated[
        ModeChoice | None, typer.Option(help="What the edge does while the output is slow; without it, what it does for all.")
    ] = None,
    max_rate: Annotated[float | None, typer.Option(min=0.001, max=1_000, help="Publications a second, with --mode conflate.")] = None,
    window: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Publications on their way before one is printed, with --mode conflate or ack."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print payloads alone, a line each.")] = False,
    retry: Annotated[bool, typer.Option("--retry/--no-retry", envvar="DISTRIBUTARY_RETRY", help="Come back when the edge is away.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing about the connection.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Say at the end what was received.")] = False,
) -> None:
    """Print the publications of channels, one JSON line each, to standard output; everything else goes to standard error.

    Exit status: 0 when --count was reached, 1 when the edge refused or (with --no-retry) was away, 2 for wrong arguments, 130 after Ctrl-C.
    """
    url, channels = (words[0], words[1:]) if "://" in words[0] else (url, words)
    _check_channels(channels)
    position = _position(since, channels)
    options = Options(name="distributary-tail", reconnect=retry, open_timeout_s=None)
    counts = Counts()
    if (max_rate is not None and mode is not ModeChoice.CONFLATE) or (window is not None and mode in {None, ModeChoice.QUEUE}):
        msg = "--max-rate goes with --mode conflate, --window with --mode conflate or ack"
        raise typer.BadParameter(msg)
    wish = {"position": position, "rewind": rewind or None, "mode": mode.value if mode else None, "max_rate": max_rate, "window": window}

    def say(status: Status) -> None:
        if not quiet and status.state != "closed":
            print(_status_line(status), file=sys.stderr, flush=True)

    try:
        client = Client(
            url,
            format=frame_format.value,
            delta=() if delta is DeltaChoice.NONE else (delta.value,),
            options=options,
            on_status=say,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    printer = _Printer(counts, limit=count, is_raw=raw)
    code = 0
    try:
        asyncio.run(_follow(client, channels, wish, printer))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not complain about it when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ClientError as error:
        print(f"distributary-tail: {error}", file=sys.stderr)
        code = 1
    if stats:
        print(_stats_line(counts), file=sys.stderr)
    raise typer.Exit(code)


class _Printer:
    """Writes publications to standard output."""

    def __init__(self, counts: Counts, *, limit: int, is_raw: bool) -> None:
        self._counts = counts
        self._limit = limit
        self._is_raw = is_raw

    @property
    def is_done(self) -> bool:
        return bool(self._limit) and self._counts.publications >= self._limit

    def print(self, publication: Publication) -> None:
        counts = self._counts
        counts.publications += 1
        counts.deltas += publication.is_delta
        counts.gaps += publication.gap is not None
        counts.bytes_received += publication.bytes_received
        counts.bytes_of_payloads += len(publication.body)
        if self._is_raw and publication.is_deleted:
            return
        line = publication.body if self._is_raw else msgspec.json.encode(line_of(publication))
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


def line_of(publication: Publication) -> dict[str, Any]:
    """A publication as a JSON value: binary data in base64, and what is absent left out."""
    line: dict[str, Any] = {
        "channel": publication.channel,
        "epoch": publication.position.epoch,
        "offset": publication.position.offset,
        "time": publication.time_ms,
        "key": publication.key,
        "deleted": publication.is_deleted or None,
        "tags": publication.tags or None,
        "delta": publication.is_delta or None,
        "recovered": publication.recovered or None,
        "gap": _gap(publication.gap) if publication.gap else None,
        "bytes": publication.bytes_received,
    }
    line = {name: value for name, value in line.items() if value is not None}
    if publication.is_deleted:
        return line
    if publication.content_type is not ContentType.JSON:
        line["content_type"] = CONTENT_TYPE_NAMES[publication.content_type]
    try:
        data = publication.data
    except PayloadError as error:
        line["problem"] = str(error)
        data = publication.body
    line["data"] = b64encode(data).decode() if isinstance(data, bytes) else data
    return line


def _gap(gap: Gap) -> dict[str, Any]:
    return {"reason": gap.reason, "missed": gap.missed}


async def _follow(client: Client, channels: list[str], wish: dict[str, Any], printer: _Printer) -> None:
    async with client:
        tasks = [asyncio.create_task(_print_channel(client, channel, wish, printer)) for channel in channels]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _print_channel(client: Client, channel: str, wish: dict[str, Any], printer: _Printer) -> None:
    subscription = client.subscribe(channel, **wish)
    async for publication in subscription:
        if not printer.is_done:
            printer.print(publication)
        if wish["mode"] == ModeChoice.ACK:
            await subscription.ack(publication)
        if printer.is_done:
            return


def _check_channels(channels: list[str]) -> None:
    if not channels:
        msg = "name a channel, such as bus:1430"
        raise typer.BadParameter(msg)
    for channel in channels:
        try:
            check_channel(channel)
        except ChannelError as error:
            raise typer.BadParameter(str(error)) from error


def _position(since: str, channels: list[str]) -> Position | None:
    if not since:
        return None
    epoch, _, offset = since.rpartition(":")
    if not epoch or not offset.isdecimal():
        msg = f"--since is EPOCH:OFFSET, not {since!r}"
        raise typer.BadParameter(msg)
    if len(channels) != 1:
        msg = "--since is the position of one channel; name one"
        raise typer.BadParameter(msg)
    return Position(epoch, int(offset))


def _status_line(status: Status) -> str:
    wait = f"; next try in {status.retry_in_s:.1f} s" if status.retry_in_s is not None else ""
    detail = f": {status.detail}" if status.detail else ""
    return f"{status.state}{detail}{wait}"


def _stats_line(counts: Counts) -> str:
    saved = 100 * (1 - counts.bytes_received / counts.bytes_of_payloads) if counts.bytes_of_payloads else 0.0
    return (
        f"{counts.publications} publications ({counts.deltas} as deltas), {counts.gaps} gaps, "
        f"{counts.bytes_received} bytes received for {counts.bytes_of_payloads} bytes of payloads ({saved:.0f}% saved)"
    )


def main() -> None:
    """The console script."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
