"""A VCDIFF encoder in pure Python: greedy matching by 6-byte seeds, for machines without the compiled engine."""

from __future__ import annotations

from typing import Final

from shared.delta.vcdiff_format import PLAIN_HEADER, VCD_SOURCE, write_integer
from shared.delta.vcdiff_instructions import ADD, CODES, COPY, FIRST_SAME, NOTHING, RUN, AddressCache, Half

SEED: Final = 6
"""Bytes that must agree for a match to be found; it is then extended both ways. Of 4, 5, 6 and 8, six made the smallest
deltas of JSON snapshots."""
NEARBY: Final = 40
"""Bytes around the expected place in the base that are searched first: values change their length a little, their order seldom."""
WINDOW_SIZE: Final = 1 << 23
"""Bytes of target in a window. Decoders hold a window in memory; xdelta3 refuses more than 64 MiB."""

_LARGEST_COMBINED_COPY: Final = 6
_LARGEST_CODED_ADD: Final = 17
_LARGEST_CODED_COPY: Final = 18


def encode(base: bytes, target: bytes, *, window_size: int = WINDOW_SIZE) -> bytes:
    """Write `target` as a delta to `base`: default code table, no checksum, the whole base as the source of each window."""
    starts = range(0, len(target), window_size) or (0,)
    return PLAIN_HEADER + b"".join([_encode_window(base, target[start : start + window_size]) for start in starts])


def encode_plain(target: bytes) -> bytes:
    """Write `target` as a delta that uses no base: one ADD. A few bytes longer than `target`."""
    writer = _WindowWriter(0)
    writer.add(target)
    return PLAIN_HEADER + writer.finish(len(target))


def _encode_window(base: bytes, target: bytes) -> bytes:
    writer = _WindowWriter(len(base))
    seeds = {base[at : at + SEED]: at for at in range(len(base) - SEED, -1, -_step(len(base)))}
    end = len(target)
    at = pending = 0
    shift = 0  # From a place in the target to the place in the base that it most likely came from.
    while at <= end - SEED:
        seed = target[at : at + SEED]
        expected = at + shift
        address = base.find(seed, max(expected - NEARBY, 0), expected + NEARBY)
        if address < 0:
            address = seeds.setdefault(seed, len(base) + at)
            if address == len(base) + at:
                at += 1
                continue
            if address == len(base) + at - 1:
                at = pending = _write_run(writer, target, pending, at)
                continue
        start, address, size = _extend(base, target, at, address, pending)
        writer.add(target[pending:start])
        writer.copy(address, size)
        at = pending = start + size
        if address < len(base):
            shift = address - start
    writer.add(target[pending:])
    return writer.finish(end)


def _step(size: int) -> int:
    """Index every place of a small base, and fewer of a large one: what is lost is a few short matches."""
    return 1 if size <= 4096 else 4


def _write_run(writer: _WindowWriter, target: bytes, pending: int, at: int) -> int:
    """Write the run that `at` lies in, from the byte before it on, which is pending; answer with the run's end."""
    start = at - 1
    rest = target[start:]
    size = len(rest) - len(rest.lstrip(rest[:1]))
    writer.add(target[pending:start])
    writer.run(rest[0], size)
    return start + size


def _extend(base: bytes, target: bytes, at: int, address: int, pending: int) -> tuple[int, int, int]:
    """Widen a match of SEED bytes, back to what is already written and forward as far as it goes: start, address, size."""
    in_base = address < len(base)
    pool, place = (base, address) if in_base else (target, address - len(base))
    limit = min(len(base) - place, len(target) - at) if in_base else len(target) - at
    size = SEED + _common_prefix(pool, place + SEED, target, at + SEED, limit - SEED)
    while at > pending and place and pool[place - 1] == target[at - 1]:
        at -= 1
        place -= 1
        size += 1
    return at, place if in_base else place + len(base), size


def _common_prefix(a: bytes, a_at: int, b: bytes, b_at: int, limit: int) -> int:
    """How many bytes from a[a_at] and b[b_at] on agree, at most `limit`. By pieces that grow, compared in C."""
    done = 0
    piece = 16
    while done < limit:
        size = min(piece, limit - done)
        left = a[a_at + done : a_at + done + size]
        right = b[b_at + done : b_at + done + size]
        if left != right:
            difference = int.from_bytes(left) ^ int.from_bytes(right)
            return done + size - (difference.bit_length() + 7) // 8
        done += size
        piece = min(piece * 2, 4096)
    return limit


class _WindowWriter:
    """Collects the instructions of one window into its three sections."""

    __slots__ = ("addresses", "cache", "data", "instructions", "last", "position", "source_size")

    def __init__(self, source_size: int) -> None:
        self.source_size = source_size
        self.position = source_size
        self.data: list[bytes] = []
        self.instructions = bytearray()
        self.addresses = bytearray()
        self.cache = AddressCache()
        self.last: Half | None = None
        """The last instruction, where its code is the last byte written and may still become a combined one."""

    def add(self, data: bytes) -> None:
        """Literal bytes; none at all writes nothing."""
        if data:
            self.data.append(data)
            self.position += len(data)
            self._write(ADD, len(data), 0, _LARGEST_CODED_ADD)

    def run(self, byte: int, size: int) -> None:
        """`size` times the same byte."""
        self.data.append(bytes((byte,)))
        self.position += size
        self._write(RUN, size, 0, 0)

    def copy(self, address: int, size: int) -> None:
        """`size` bytes from `address`, in the source or behind it in the target."""
        mode, number = self.cache.choose(address, self.position)
        self.cache.update(address)
        self.addresses += bytes((number,)) if mode >= FIRST_SAME else write_integer(number)
        self.position += size
        self._write(COPY, size, mode, _LARGEST_CODED_COPY)

    def finish(self, target_size: int) -> bytes:
        """The bytes of the window."""
        data = b"".join(self.data)
        body = b"".join(
            (
                write_integer(target_size),
                b"\x00",
                write_integer(len(data)),
                write_integer(len(self.instructions)),
                write_integer(len(self.addresses)),
                data,
                self.instructions,
                self.addresses,
            )
        )
        head = bytes((VCD_SOURCE,)) + write_integer(self.source_size) + b"\x00" if self.source_size else b"\x00"
        return head + write_integer(len(body)) + body

    def _write(self, kind: int, size: int, mode: int, largest_coded: int) -> None:
        half = Half(kind, size, mode)
        if self.last is not None and size <= _LARGEST_COMBINED_COPY:
            code = CODES.get((self.last, half))
            if code is not None:
                self.instructions[-1] = code
                self.last = None
                return
        code = CODES.get((half, NOTHING)) if size <= largest_coded else None
        if code is None:
            self.instructions.append(CODES[Half(kind, 0, mode), NOTHING])
            self.instructions += write_integer(size)
            self.last = None
        else:
            self.instructions.append(code)
            self.last = half
