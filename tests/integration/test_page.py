"""The demo, whole: one command, and vehicles that move in a real browser, with their bytes and latencies.

DISTRIBUTARY_SCREENSHOT names a file to save what was seen to.
"""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartProject
from tests.rig.ports import is_listening
from tests.rig.process import Process
from tests.rig.wait import wait_until

pytestmark = pytest.mark.browser

VEHICLES = 152
STEP_TIMEOUT_S = 120
STATE = """() => {
  const { vehicles, stats, client } = window.distributary;
  return {
    connection: client.state,
    vehicles: vehicles.size,
    moved: [...vehicles.values()].filter((vehicle) => vehicle.moves > 0).length,
    placed: [...vehicles.values()].filter((vehicle) => vehicle.lat !== null).length,
    received: stats.total.received,
    full: stats.total.full,
    saving: stats.total.saving,
    publications: stats.total.publications,
    deltas: stats.total.deltas,
    latencies: stats.total.latency.samples.length,
    channels: [...client.subscriptions.keys()],
    troubled: [...client.subscriptions.values()].filter((item) => item.resyncs || item.problem).map((item) => [item.channel, item.problem]),
  };
}"""

# What fills the hands of a page: its state, as in STATE.
State = dict[str, Any]


class Page:
    """The live page in a browser, and all that it complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", lambda message: self.complaints.extend([message.text] if message.type in {"error", "warning"} else []))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))

    def state(self) -> State:
        state: State = self.page.evaluate(STATE)
        return state

    def wait_until(self, is_so: Callable[[State], bool], what: str) -> State:
        """Wait for a state of the page, in the page's own time."""

        def look() -> State | None:
            self.page.wait_for_timeout(50)
            state = self.state()
            return state if is_so(state) else None

        return wait_until(look, what=what, timeout_s=STEP_TIMEOUT_S, state=lambda: (self.complaints, self.state()))

    def choose(self, name: str, value: str) -> None:
        self.page.click(f'input[name="{name}"][value="{value}"] + span')

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))


@pytest.fixture
def demo(start_project: StartProject) -> Iterator[Process]:
    process = start_project("bridge", "demo", "--port", "0")
    process.wait_for_log(r"Ctrl-C ends all of it", timeout_s=STEP_TIMEOUT_S)
    yield process
    if process.is_running:
        process.terminate()


@pytest.fixture
def page(demo: Process, browser_path: str) -> Iterator[Page]:
    url = demo.wait_for_log(r"Live page\s+(http://\S+)").group(1)
    from playwright import sync_api  # Only here, where it is known to be installed: other tests of this file need no browser.

    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=flags)
        try:
            shown = Page(browser.new_page(viewport={"width": 1440, "height": 900}))
            shown.page.set_default_timeout(STEP_TIMEOUT_S * 1000)
            shown.page.goto(url)
            yield shown
        finally:
            browser.close()


@pytest.mark.usefixtures("redis_server")
def test_the_page_shows_moving_vehicles_and_what_deltas_save(demo: Process, page: Page) -> None:
    del demo
    # Every vehicle on a channel of its own, and most of them moving.
    state = page.wait_until(lambda now: now["vehicles"] == VEHICLES and now["moved"] > 80 and now["latencies"] > 80, "moving vehicles")
    assert state["connection"] == "connected"
    assert state["placed"] == VEHICLES
    assert set(state["channels"]) >= {f"position:{number}" for number in range(1400, 1400 + VEHICLES)}
    page.wait_until(lambda now: now["deltas"] > 500, "deltas")
    assert 0 < page.state()["saving"] < 1
    page.page.wait_for_function("document.querySelectorAll('#channels tr').length === 152")
    assert re.fullmatch(r"[\d.]+ [kM]?B", page.text("#total-received"))
    assert re.fullmatch(r"\d+ %", page.text("#total-saving"))
    assert re.fullmatch(r"[\d.]+ ms", page.text("#total-latency"))
    if target := os.environ.get("DISTRIBUTARY_SCREENSHOT"):
        page.page.screenshot(path=Path(target))

    # One vehicle: its two channels and no other.
    page.page.fill("#search", "1430")
    page.page.press("#search", "Enter")
    page.wait_until(
        # The page looks once at the feed, for which vehicles there are, whatever it shows.
        lambda now: now["publications"] >= 2 and sorted(now["channels"]) == ["bus:1430", "position:1430"],
        "a vehicle's publications, and no others",
    )
    assert "1430" in page.text("#about")

    # The feed in every format of frames and deltas: only deltas save, and every value can be used.
    page.choose("scope", "feed")
    for frames in ("msgpack", "json"):
        page.choose("format", frames)
        for delta in ("json-patch", "none", "vcdiff"):
            page.choose("delta", delta)
            state = page.wait_until(lambda now: now["publications"] >= 3, f"the feed with {delta} in {frames}")
            assert state["channels"] == ["feed"]
            if delta == "none":
                assert (state["deltas"], state["saving"]) == (0, 0)
            if delta == "vcdiff":
                assert state["deltas"] >= 2
                assert page.wait_until(lambda now: now["saving"] > 0.5, "savings")

    assert page.state()["troubled"] == []
    assert page.complaints == []


@pytest.mark.usefixtures("redis_server")
def test_what_it_says_to_try_works_at_once(demo: Process) -> None:
    url = demo.wait_for_log(r"curl -s (http://\S+)").group(1)
    with urllib.request.urlopen(url, timeout=STEP_TIMEOUT_S) as answer:  # noqa: S310 - a 404 would raise
        assert json.load(answer)["position"]["offset"] >= 1


@pytest.mark.usefixtures("redis_server")
def test_ctrl_c_ends_all_of_it(demo: Process) -> None:
    ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", demo.output())]
    pids = [int(pid) for pid in re.findall(r"^(?:redis|bridge|edge \d)\s+(\d+)", demo.output(), re.MULTILINE)]
    assert len(pids) == 4
    assert all(is_listening(port) for port in set(ports))
    demo.signal(signal.SIGINT)
    assert demo.wait() == 0
    assert not any(is_listening(port) for port in set(ports))
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.usefixtures("redis_server")
def test_a_part_that_ends_is_told_and_ends_the_demo(demo: Process) -> None:
    pids = {name: int(pid) for name, pid in re.findall(r"^(redis|bridge|edge \d)\s+(\d+)", demo.output(), re.MULTILINE)}
    os.kill(pids["edge 2"], signal.SIGKILL)
    assert demo.wait() == 1
    assert re.search(rf"edge 2 \(process {pids['edge 2']}\) was ended by signal 9", demo.output())
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())


@pytest.mark.usefixtures("redis_server")
def test_recordings_are_replayed_to_their_end(start_project: StartProject, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.json").write_text(f'[{{"id":"7","vehicle":{{"position":{{"latitude":{number},"longitude":1}}}}}}]')
    recordings = sorted(tmp_path.glob("*.json"))
    demo = start_project("bridge", "demo", "--port", "0", "--edges", "1", "--speed", "100", "--input", *recordings)
    demo.wait_for_log("The input ended after 3 records", timeout_s=STEP_TIMEOUT_S)
    url = demo.wait_for_log(r"(http://127\.0\.0\.1:\d+)/v1/channels/").group(1)
    demo.wait_for_http(f"{url}/v1/channels/position:7")
    demo.signal(signal.SIGTERM)
    assert demo.wait() == 0


def test_mistakes_in_rules_are_told_before_anything_starts(start_project: StartProject, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("version: 1\nroutes: []\n")
    demo = start_project("bridge", "demo", "--port", "0", "--rules", tmp_path / "rules.yaml")
    assert demo.wait() == 2
    assert re.search(r'rules\.yaml:1: needs "sources"', demo.output())


def test_a_bad_recording_is_told_before_anything_starts(start_project: StartProject, tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text("[{")
    demo = start_project("bridge", "demo", "--port", "0", "--input", tmp_path / "half.json", tmp_path / "gone.json")
    assert demo.wait() == 2
    assert "half.json: is not JSON" in demo.output()
    assert "gone.json: there is no such file" in demo.output()
