"""The documents hold together: links, anchors and sections that they name are there, and so are the files."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
DOCUMENTS = sorted(_LISTED or (str(path.relative_to(ROOT)) for place in (".", "docs", "docs/adr") for path in (ROOT / place).glob("*.md")))
RECORDS = sorted((ROOT / "docs" / "adr").glob("*.md"))

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_SECTION = re.compile(r"\(([\w/.-]+\.md)\),? sections? (\d+)|\[[^\]\n]*, section (\d+)\]\(([\w/.-]+\.md)\)|([\w/-]+\.md), section (\d+)")
_PATH = re.compile(r"`((?:bench|bridge|clients|docs|edge|examples|helm|scripts|shared|tests)/[\w./-]*)`")


@cache
def text_of(document: Path) -> str:
    """The text, without blocks of code."""
    return _INDENTED.sub("", _FENCE.sub("", document.read_text(encoding="utf-8")))


@cache
def anchors(document: Path) -> frozenset[str]:
    """What GitHub calls the headings."""
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text_of(document)))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    for link in _LINK.findall(_CODE.sub("", text_of(document))):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (document.parent / place).resolve() if place else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_sections_that_are_named_are_there(name: str) -> None:
    document = ROOT / name
    for first, number, other_number, second, third, third_number in _SECTION.findall(text_of(document)):
        place, section = first or second or third, number or other_number or third_number
        target = next((path for path in (document.parent / place, ROOT / place, ROOT / "docs" / place) if path.exists()), None)
        assert target is not None, place
        assert re.search(rf"^## {section}\. ", text_of(target), re.MULTILINE), f"{place}, section {section}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_are_there(name: str) -> None:
    for path in _PATH.findall(text_of(ROOT / name)):
        assert (ROOT / path).exists() or path.startswith("bench/results/"), path


def test_each_record_of_a_decision_has_its_own_number() -> None:
    numbers = [int(path.name[:4]) for path in RECORDS]
    assert numbers == list(range(1, len(RECORDS) + 1))
    for number, path in zip(numbers, RECORDS, strict=True):
        assert path.read_text(encoding="utf-8").startswith(f"# {number}. "), path.name


def test_links_to_records_say_their_number() -> None:
    for name in DOCUMENTS:
        for number, file in re.findall(r"\[(?:ADR )?(\d+)\]\([\w./-]*?(\d{4})-[\w-]+\.md\)", text_of(ROOT / name)):
            assert int(number) == int(file), (name, number, file)


def test_what_the_code_names_of_the_documents_is_there() -> None:
    found = 0
    for folder in ("shared", "bridge", "edge", "clients", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for record in re.findall(r"\b(\d{4}-[a-z][\w-]*\.md)", text):
                assert (ROOT / "docs" / "adr" / record).exists(), (path, record)
                found += 1
            for document, section in re.findall(r"\b([a-z]+\.md),? section (\d+)", text):
                assert re.search(rf"^## {section}\. ", text_of(ROOT / "docs" / document), re.MULTILINE), (path, document, section)
                found += 1
    assert found
