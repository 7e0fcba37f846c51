"""xdelta3's compiled engine, called through ctypes.

The PyPI package's own Python functions fail on every Python since 3.10 (`SystemError: PY_SSIZE_T_CLEAN`), but its
extension module exports the C functions `xd3_encode_memory` and `xd3_decode_memory`. Importing this module raises
ImportError where the extension is missing or exports something else; `vcdiff` then uses pure Python.

The engine allocates its tables in each call (about 1 MB for a target of 38 KB). Where glibc's malloc gives them back to
the kernel each time, that costs up to 300 us more a call; MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ of 16777216
in the environment of the process prevent it.

Thread-safe: ctypes releases the GIL during a call, and each call has its output buffer to itself.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import _xdelta3

from shared.errors import DeltaError

# `usize_t` of the C code is 64 bits wide in the version that the package carries (XD3_USE_LARGESIZET), on 32-bit machines too.
_SIZE = ctypes.c_uint64

_LEVEL_SHIFT = 20
_FAST: Final = 3
_THOROUGH: Final = 6
_THOROUGH_UP_TO: Final = 8192
"""Bytes of target. Up to here level 6 costs 1 to 2 us more than level 1, and saves up to a quarter of the delta. At 38 KB level 3
makes less than half of level 1's delta in about the same time, and level 6 takes twice that to save 3% more (bench/delta_codecs.py)."""

_SLACK: Final = 128
"""Bytes that a delta may exceed its target by before `encode` gives up."""
_KEPT_BUFFER_BYTES: Final = 1 << 20
_FIRST_BUFFER_BYTES: Final = 1 << 16


def _load() -> tuple[Any, Any]:
    try:
        library = ctypes.CDLL(_xdelta3.__file__)
        functions = library.xd3_encode_memory, library.xd3_decode_memory
    except (AttributeError, OSError, TypeError) as error:
        msg = f"the xdelta3 extension does not export its C functions: {error}"
        raise ImportError(msg) from error
    for function in functions:
        # input and its size, source and its size, output, its size (out), room, flags
        function.argtypes = [
            ctypes.c_char_p,
            _SIZE,
            ctypes.c_char_p,
            _SIZE,
            ctypes.c_void_p,
            ctypes.c_void_p,
            _SIZE,
            ctypes.c_int,
        ]
        function.restype = ctypes.c_int
    return functions


_encode_memory, _decode_memory = _load()


class _Output:
    """A buffer that the C code writes into, and where it says how much it wrote."""

    __slots__ = ("address", "array", "room", "size", "size_address")

    def __init__(self, room: int) -> None:
        self.room = room
        self.array: Any = ctypes.create_string_buffer(room)
        self.address = ctypes.addressof(self.array)
        self.size = _SIZE(0)
        self.size_address = ctypes.addressof(self.size)


# Buffers that no call uses now. `pop` and `append` are atomic, so two threads never share one.
_spare: list[_Output] = []


def _borrow(room: int) -> _Output:
    try:
        output = _spare.pop()
    except IndexError:
        return _Output(max(room, _FIRST_BUFFER_BYTES))
    return output if output.room >= room else _Output(room)


def _give_back(output: _Output) -> None:
    if output.room <= _KEPT_BUFFER_BYTES and len(_spare) < 8:
        _spare.append(output)


def encode(base: bytes, target: bytes, *, level: int = 0) -> bytes | None:
    """Write `target` as a delta to `base`, or answer None where that takes more bytes than `target` itself (and some slack).

    `level` is xdelta3's, from 1 (fast) to 9; 0 chooses by size.
    """
    size = len(target)
    if not level:
        level = _THOROUGH if size <= _THOROUGH_UP_TO else _FAST
    room = size + _SLACK
    output = _borrow(room)
    result = _encode_memory(
        target,
        size,
        base,
        len(base),
        output.address,
        output.size_address,
        room,
        level << _LEVEL_SHIFT,
    )
    delta: bytes | None = output.array[: output.size.value] if not result else None
    _give_back(output)
    return delta


def decode(base: bytes, delta: bytes, size: int) -> bytes:
    """Apply `delta`, which `vcdiff_format.scan` has checked and which makes `size` bytes by its headers.

    Never hand unchecked bytes to this function: the engine allocates what a window's header says, and takes a delta that
    ends within the magic for an empty one. Raises DeltaError where the engine refuses.
    """
    output = _borrow(size or 1)
    result = _decode_memory(delta, len(delta), base, len(base), output.address, output.size_address, size, 0)
    made = output.size.value
    target: bytes = output.array[:made] if not result else b""
    _give_back(output)
    if result or made != size:
        msg = f"xdelta3 refuses the delta (error {result})"
        raise DeltaError(msg)
    return target
