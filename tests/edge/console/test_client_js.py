"""The page's client, run by node's own test runner: client.test.js says what it must do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.console import CONTENT_SECURITY_POLICY, INDEX, static_files

HERE = Path(__file__).parent
CONSOLE = HERE.parents[2] / "edge" / "console"
VECTORS = HERE.parents[1] / "vectors"
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_client_keeps_to_the_protocol(tmp_path: Path) -> None:
    for file in (*CONSOLE.glob("*.js"), HERE / "client.test.js", *VECTORS.glob("sessions_*.json")):
        shutil.copy(file, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    assert NODE is not None
    done = subprocess.run([NODE, "--test", str(tmp_path / "client.test.js")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_and_all_that_it_names_are_there() -> None:
    files = static_files()
    page = files[INDEX].body.decode()
    assert files[INDEX].content_type == "text/html; charset=utf-8"
    assert files["client.js"].content_type.startswith("text/javascript")
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert name in files
    for file in files.values():
        for name in re.findall(r'from "\./([^"]+)"', file.body.decode()):
            assert name in files, (file.name, name)


def test_nothing_comes_from_outside_and_nothing_is_inline() -> None:
    """What the policy forbids would fail silently for users, so it must not be there."""
    assert "default-src 'self'" in CONTENT_SECURITY_POLICY
    for file in static_files().values():
        text = file.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text), file.name
    page = static_files()[INDEX].body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", page)


def test_only_the_page_s_files_are_served() -> None:
    assert not [name for name in static_files() if name.endswith((".py", ".pyc")) or "/" in name]
