"""Fuzz for as long as you like; what is found belongs into a test of its own.

usage: python -m tests.fuzz.run [--runs N] [--seconds S] [TARGET ...]

With atheris (`pip install atheris`) coverage guides the inputs, without it they are mutated seeds. Each target has a process of its
own, which stops at the first failure and prints its input.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

MAX_BYTES = 512


def mutated(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, with a few changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(0, 6)):
        at = chance.randrange(len(data) + 1)
        change = chance.randrange(5)
        if change == 0:
            data[at:at] = chance.randbytes(chance.randint(1, 4))
        elif change == 1:
            del data[at : at + chance.randint(1, 8)]
        elif change == 2 and at < len(data):
            data[at] = chance.randrange(256)
        elif change == 3 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        else:
            other = chance.choice(seeds)
            start = chance.randrange(len(other) + 1)
            data[at:at] = other[start : start + chance.randint(1, 16)]
    return bytes(data[:MAX_BYTES])


def fuzz_plainly(run: Callable[[bytes], None], seeds: Sequence[bytes], runs: int, seconds: float, seed: int = 1) -> int:
    """Mutated seeds, until so many runs or so much time; returns how many runs there were."""
    chance, until = random.Random(seed), time.monotonic() + seconds
    for count in range(runs):
        if count % 256 == 0 and time.monotonic() > until:
            return count
        data = mutated(chance, seeds)
        try:
            run(data)
        except Exception:
            print(f"failed on {data!r}", file=sys.stderr)
            raise
    return runs


def fuzz_one(name: str, runs: int, seconds: int) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    if find_spec("atheris") is None:
        from tests.fuzz.targets import TARGETS

        start = time.monotonic()
        count = fuzz_plainly(*TARGETS[name], runs, seconds)
        print(f"Done {count} runs in {time.monotonic() - start:.0f} second(s)", file=sys.stderr)
        return
    import atheris

    with atheris.instrument_imports(include=["bridge", "edge", "shared", "distributary", "tests.fuzz.targets"]):
        from tests.fuzz.targets import TARGETS
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(TARGETS[name].seeds):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        options = [
            f"-runs={runs}",
            f"-max_total_time={seconds}",
            f"-max_len={MAX_BYTES}",
            "-rss_limit_mb=4096",
            f"-artifact_prefix={corpus}-",
        ]
        atheris.Setup([sys.argv[0], *options, corpus], TARGETS[name].run)
        atheris.Fuzz()


def main() -> int:
    """Fuzz the targets one by one, and say how many executions there were."""
    options = argparse.ArgumentParser(description="Fuzz everything that parses bytes from outside.")
    options.add_argument("--runs", type=int, default=100_000, help="executions of each target (default: 100000)")
    options.add_argument("--seconds", type=int, default=60, help="the most for each target (default: 60)")
    options.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("targets", nargs="*", metavar="TARGET")
    chosen = options.parse_args()
    if chosen.child:
        fuzz_one(chosen.targets[0], chosen.runs, chosen.seconds)
        return 0
    from tests.fuzz.targets import TARGETS

    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        options.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    total, failed = 0, []
    for name in chosen.targets or TARGETS:
        count, problem = run_child(name, chosen.runs, chosen.seconds)
        total += count
        print(f"{name:20} {count:>12,} executions  {'FAILED' if problem else 'nothing found'}", flush=True)
        if problem:
            failed.append(name)
            print(problem, flush=True)
    print(f"{'all':20} {total:>12,} executions, {len(failed)} targets failed")
    return 1 if failed else 0


def run_child(name: str, runs: int, seconds: int) -> tuple[int, str]:
    """Fuzz one target in a process of its own. Returns how often it ran, and what was found."""
    command = [sys.executable, "-m", "tests.fuzz.run", "--child", "--runs", str(runs), "--seconds", str(seconds), name]
    result = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", timeout=seconds + 300)
    done = re.search(r"Done (\d+) runs", result.stderr)
    if result.returncode == 0 and done:
        return int(done[1]), ""
    counts = re.findall(r"^#(\d+)", result.stderr, re.MULTILINE)
    told = [line for line in (result.stdout + result.stderr).splitlines() if not re.match(r"#\d|INFO|WARNING", line)]
    return int(counts[-1]) if counts else 0, "\n".join(told[-60:])


if __name__ == "__main__":
    sys.exit(main())
