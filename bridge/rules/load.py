"""Reading a rules file.

load_rules(path) -> CompiledRules, or ConfigurationError with every problem, one a line:

    rules.yaml:12: routes[1].chanel: unknown setting; did you mean "channel"?
"""

from __future__ import annotations

from pathlib import Path

from bridge.core.ruleset import CompiledRules
from bridge.rules.check import Checker
from bridge.rules.compile import compile_rules
from bridge.rules.document import MAX_FILE_BYTES, read_document
from shared.errors import ConfigurationError

MAX_PROBLEMS = 200
"""Told at once. A file of rules with more is another kind of file."""


def load_rules(path: Path) -> CompiledRules:
    """Read and compile the rules at `path`; raise ConfigurationError with every problem in them."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror or error}"]) from error
    return parse_rules(data, str(path))


def parse_rules(data: bytes, file: str) -> CompiledRules:
    """Compile the bytes of a rules file; problems name it `file`, and what files it names stand beside that."""
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError([f"{file}: is larger than {MAX_FILE_BYTES} bytes"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError([f"{file}:{line}: is not UTF-8 text (byte {error.start})"]) from error
    document = read_document(text)
    checker = Checker(document)
    rules = compile_rules(document.data, checker, Path(file).parent) if document.data is not None or not document.problems else None
    if rules is None:
        problems = [problem.shown(file) for problem in checker.problems]
        more = [f"{file}: and {len(problems) - MAX_PROBLEMS} more problems"] if len(problems) > MAX_PROBLEMS else []
        raise ConfigurationError([*problems[:MAX_PROBLEMS], *more])
    return rules
