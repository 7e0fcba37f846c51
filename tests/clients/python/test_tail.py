"""`distributary-tail` as a user runs it: a process, against a scripted edge."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distributary.tail import app
from tests.clients.python.fake_edge import EPOCH, FakeEdge, Peer, run

ROOT = Path(__file__).resolve().parents[3]


async def start(*words: str, **environment: str) -> asyncio.subprocess.Process:
    settings = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients' / 'python'}", "NO_PROXY": "127.0.0.1", "TERM": "dumb", **environment}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "distributary.tail",
        *words,
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def two_publications(peer: Peer) -> None:
    await peer.welcome()
    frame = await peer.expect("subscribe")
    answer = {"type": "subscribed", "id": frame["id"], "channel": frame["channel"], "number": 17, "kind": "stream", "mode": "queue"}
    await peer.send({**answer, "delta": None, "position": None, "recovered": None})
    await peer.publish(
        1, {"id": "1430", "asked": {name: frame[name] for name in ("channel", "position", "delta", "rewind") if name in frame}}
    )
    await peer.publish(2, [2])
    await peer.stay()


def test_one_json_line_a_publication_and_the_rest_on_standard_error():
    async def main() -> None:
        async with FakeEdge(two_publications) as edge:
            tail = await start(edge.url, "bus:1430", "--count", "2", "--stats")
            out, err = await tail.communicate()
            assert tail.returncode == 0
            first, second = [json.loads(line) for line in out.splitlines()]
            assert (first["channel"], first["epoch"], first["offset"]) == ("bus:1430", EPOCH, 1)
            assert first["data"]["asked"] == {"channel": "bus:1430", "delta": ["vcdiff"]}
            assert second["data"] == [2]
            assert b"connected" in err
            assert b"2 publications (0 as deltas), 0 gaps" in err

    run(main())


def test_options_reach_the_edge_and_the_url_may_come_from_the_environment():
    async def main() -> None:
        async with FakeEdge(two_publications) as edge:
            words = ("bus:1430", "--count", "1", "--raw", "--quiet", "--format", "json", "--delta", "none", "--since", f"{EPOCH}:7")
            tail = await start(*words, DISTRIBUTARY_URL=edge.url)
            out, err = await tail.communicate()
            assert tail.returncode == 0
            assert json.loads(out)["asked"] == {"channel": "bus:1430", "position": {"epoch": EPOCH, "offset": 7}}
            assert err == b""

    run(main())


def test_interrupting_it_is_quiet():
    async def main() -> None:
        async with FakeEdge(two_publications) as edge:
            tail = await start(edge.url, "bus:1430", "--rewind", "3", "--quiet")
            assert tail.stdout is not None
            assert json.loads(await tail.stdout.readline())["data"]["asked"]["rewind"] == {"count": 3}
            tail.send_signal(signal.SIGINT)
            _, err = await tail.communicate()
            assert tail.returncode == 130
            assert err == b""

    run(main())


def test_whoever_reads_may_go_away():
    async def main() -> None:
        async with FakeEdge(two_publications) as edge:
            read, write = os.pipe()
            os.close(read)
            settings = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients' / 'python'}"}
            tail = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "distributary.tail", edge.url, "bus:1430", "--quiet"),
                env={**os.environ, **settings},
                stdout=write,
                stderr=asyncio.subprocess.PIPE,
            )
            os.close(write)
            _, err = await tail.communicate()
            assert tail.returncode == 0
            assert err == b""

    run(main())


def test_an_edge_that_is_away():
    async def main() -> None:
        edge = FakeEdge(two_publications)
        async with edge:
            url = edge.url
        tail = await start(url, "bus:1430", "--no-retry", "--quiet")
        _, err = await tail.communicate()
        assert tail.returncode == 1
        assert f"cannot reach {url}".encode() in err
        assert b"Traceback" not in err
        tail = await start(url, "bus:1430")
        assert tail.stderr is not None
        lines = [await tail.stderr.readline() for _ in range(3)]
        assert b"next try in" in lines[1]
        assert lines[2].startswith(b"connecting")
        tail.send_signal(signal.SIGINT)
        await tail.communicate()
        assert tail.returncode == 130

    run(main())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["http://host", "bus:1430"], "no WebSocket URL"),
        (["ws://host"], "name a channel"),
        (["ws://host", "a b"], "contains ' '"),
        (["ws://host", "bus:1430", "--since", "12"], "EPOCH:OFFSET"),
        (["ws://host", "bus:1430", "feed", "--since", f"{EPOCH}:1"], "name one"),
    ],
)
def test_wrong_arguments(words: list[str], complaint: str):
    result = CliRunner().invoke(app, words, env={"TERM": "dumb", "COLUMNS": "200"})
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_modes_are_asked_for_and_what_is_printed_is_acknowledged():
    async def edge_of_one(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.take(mode="ack", window=3, kind="stream")
        assert (frame["mode"], frame["window"]) == ("ack", 3)
        await peer.publish(1, 1)
        assert (await peer.expect("ack"))["offset"] == 1
        await peer.publish(2, 2)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(edge_of_one) as edge:
            tail = await start(edge.url, "bus:1430", "--mode", "ack", "--window", "3", "--count", "2", "--raw")
            out, _ = await tail.communicate()
            assert (tail.returncode, out) == (0, b"1\n2\n")

    run(main())


@pytest.mark.parametrize("words", [["--max-rate", "1"], ["--mode", "ack", "--max-rate", "1"], ["--window", "2"], ["--mode", "latest"]])
def test_a_rate_or_window_without_its_mode_is_an_error(words: list[str]):
    assert CliRunner().invoke(app, ["bus:1430", *words]).exit_code == 2
