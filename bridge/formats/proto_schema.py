"""Protobuf schemas: descriptor sets, .proto files and the registry's, made into a pool of types."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from base64 import b64decode
from binascii import Error as Base64Error
from pathlib import Path, PurePosixPath

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError as ProtobufDecodeError

from bridge.formats.schema import RegisteredSchema
from shared.errors import ConfigurationError

MAX_FILES = 1_000
_COMPILE_TIMEOUT_S = 30.0
_WELL_KNOWN = ("any", "api", "descriptor", "duration", "empty", "field_mask", "source_context", "struct", "timestamp", "type", "wrappers")


def pool_of(files: FileDescriptorSet) -> DescriptorPool:
    """A pool of these files, each after those that it imports. Raises ConfigurationError."""
    pool, waiting = DescriptorPool(), {file.name: file for file in files.file}
    if len(waiting) > MAX_FILES:
        raise ConfigurationError([f"has more than {MAX_FILES} files"])
    done: set[str] = set()

    def add(name: str, importer: str, above: frozenset[str]) -> None:
        if name in done:
            return
        file = waiting.get(name) or _well_known(name)
        if file is None:
            hint = "make the set with protoc's --include_imports" if importer else ""
            raise ConfigurationError([f'"{importer}" imports "{name}", which is not there; {hint}'])
        if name in above:
            raise ConfigurationError([f'"{name}" imports itself'])
        for dependency in file.dependency:
            add(dependency, name, above | {name})
        done.add(name)
        try:
            pool.Add(file)
            pool.FindFileByName(name)  # Where the pool builds lazily, it finds mistakes only now.
        except Exception as error:
            # TypeError, KeyError and others: each implementation has its own.
            raise ConfigurationError([f'"{name}" is no right descriptor: {error}']) from error

    try:
        for name in waiting:
            add(name, "", frozenset())
    except RecursionError as error:
        raise ConfigurationError(["its files import each other too deeply"]) from error
    return pool


def read_set(data: bytes) -> FileDescriptorSet:
    """A serialized FileDescriptorSet, as protoc and buf write it. Raises ConfigurationError."""
    files = FileDescriptorSet()
    try:
        files.ParseFromString(data)
    except ProtobufDecodeError as error:
        raise ConfigurationError(["is no descriptor set (`protoc --include_imports --descriptor_set_out=FILE ...`)"]) from error
    if not files.file or not all(file.name for file in files.file):
        raise ConfigurationError(["is no descriptor set, or an empty one (`protoc --include_imports --descriptor_set_out=FILE ...`)"])
    return files


def compile_file(path: Path) -> FileDescriptorSet:
    """A .proto file and what it imports, looked for beside it. Raises ConfigurationError with protoc's words."""
    return _compile(path.parent.resolve(), [path.name])


def compile_texts(texts: dict[str, str]) -> FileDescriptorSet:
    """Texts of .proto files by name. Raises ConfigurationError."""
    with tempfile.TemporaryDirectory(prefix="distributary-proto-") as name:
        folder = Path(name).resolve()
        for file, text in texts.items():
            place = _inside(folder, file)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        return _compile(folder, list(texts))


def _inside(folder: Path, file: str) -> Path:
    """Where a file of that name stands in `folder`. The registry chose the name, so it may not lead out of it."""
    if not re.fullmatch(r"[A-Za-z0-9_./ +@-]{1,300}", file) or file.startswith("/") or ".." in PurePosixPath(file).parts:
        raise ConfigurationError([f"has a file of the name {file[:100]!r}"])
    return folder / file


def _compile(folder: Path, names: list[str]) -> FileDescriptorSet:
    if importlib.util.find_spec("grpc_tools") is None:
        raise ConfigurationError(["needs the compiler of .proto files: install distributary[formats], or name a descriptor set instead"])
    with tempfile.TemporaryDirectory(prefix="distributary-proto-") as name:
        output = Path(name) / "set"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{_includes()}", f"--descriptor_set_out={output}"]
        # A process of its own: what protoc says, it writes to stderr, and what it cannot bear ends it.
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter, and no name can be an option
                [*command, "--include_imports", *(str(folder / name) for name in names)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=_COMPILE_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise ConfigurationError([f"is not compiled after {_COMPILE_TIMEOUT_S:g} s"]) from error
        if done.returncode != 0 or not output.is_file():
            said = [line.replace(f"{folder}/", "") for line in done.stderr.splitlines() if line and "RuntimeWarning" not in line]
            raise ConfigurationError([f"does not compile: {line[:300]}" for line in said[:20]] or ["does not compile"])
        return read_set(output.read_bytes())


def _includes() -> Path:
    """Where the well-known types stand, in protoc's package."""
    spec = importlib.util.find_spec("grpc_tools")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0]) / "_proto"


def _well_known(name: str) -> FileDescriptorProto | None:
    """A file that every implementation brings along."""
    short = name.removeprefix("google/protobuf/").removesuffix(".proto")
    if short not in _WELL_KNOWN or name != f"google/protobuf/{short}.proto":
        return None
    module = importlib.import_module(f"google.protobuf.{short}_pb2")
    found = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(found)
    return found


def registered(schema: RegisteredSchema) -> tuple[DescriptorPool, FileDescriptorProto]:
    """A schema of the registry: its pool, and the file whose messages the wire format counts. Raises ConfigurationError."""
    texts: dict[str, str] = {}
    _collect(schema, "", texts)
    main = next(reversed(texts))  # After all that it refers to.
    files = FileDescriptorSet()
    serialized = {name: _serialized(text) for name, text in texts.items()}
    if all(serialized.values()):
        for name, file in serialized.items():
            if file is not None:
                file.name = name
                files.file.append(file)
    else:  # A registry that gives the texts only.
        files = compile_texts(texts)
    return pool_of(files), next(file for file in files.file if file.name == main)


def _collect(schema: RegisteredSchema, name: str, texts: dict[str, str]) -> None:
    for reference, inner in schema.references:
        if reference not in texts and _well_known(reference) is None:
            _collect(inner, reference, texts)
    texts[name or _free("main.proto", texts)] = schema.text


def _free(name: str, taken: dict[str, str]) -> str:
    while name in taken:
        name = f"_{name}"
    return name


def _serialized(text: str) -> FileDescriptorProto | None:
    file = FileDescriptorProto()
    try:
        file.ParseFromString(b64decode(text, validate=True))
    except (Base64Error, ValueError, ProtobufDecodeError):
        return None
    return file


def message_at(file: FileDescriptorProto, indexes: tuple[int, ...]) -> str | None:
    """The full name of the message that the wire format counts so; None where there is none."""
    inside: FileDescriptorProto | DescriptorProto = file
    names = [file.package] if file.package else []
    for index in indexes:
        messages = inside.message_type if isinstance(inside, FileDescriptorProto) else inside.nested_type
        if not 0 <= index < len(messages):
            return None
        inside = messages[index]
        names.append(inside.name)
    return ".".join(names)


def message_of(pool: DescriptorPool, files: FileDescriptorSet, name: str) -> Descriptor:
    """The message type `name`. Raises ConfigurationError, naming those that there are."""
    try:
        return pool.FindMessageTypeByName(name)
    except KeyError:
        from difflib import get_close_matches  # noqa: PLC0415 - for a mistake only

        names = [".".join(filter(None, (file.package, message.name))) for file in files.file for message in file.message_type]
        close = get_close_matches(name, names, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"there are {', '.join(names[:20]) or 'none'}"
        raise ConfigurationError([f'there is no message "{name[:100]}" in it; {hint}']) from None
