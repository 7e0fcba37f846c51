"""A VCDIFF decoder in pure Python: for machines without the compiled engine, and the referee where that one refuses."""

from __future__ import annotations

from zlib import adler32

from shared.delta.vcdiff_format import Window, read_integer, scan
from shared.delta.vcdiff_instructions import ADD, CODE_TABLE, COPY, FIRST_NEAR, FIRST_SAME, MODE_HERE, NOOP, AddressCache
from shared.errors import DeltaError


def decode(base: bytes, delta: bytes, *, max_size: int) -> bytes:
    """Apply `delta` to `base`.

    Raises DeltaError where the delta is damaged, reads outside the base, makes more than `max_size` bytes, or uses
    what `vcdiff_format.scan` refuses. Time is linear in the delta and the result.
    """
    return b"".join([_WindowDecoder(base, delta, window).run() for window in scan(delta, len(base), max_size)])


class _WindowDecoder:
    """Decodes one window. Its addresses count through the source segment and on through the target."""

    __slots__ = ("addresses_at", "cache", "data_at", "delta", "source", "target", "window")

    def __init__(self, base: bytes, delta: bytes, window: Window) -> None:
        self.source = base[window.source_position : window.source_position + window.source_length]
        self.delta = delta
        self.window = window
        self.data_at = window.data
        self.addresses_at = window.addresses
        self.cache = AddressCache()
        self.target = bytearray()

    def run(self) -> bytes:
        """The target of this window."""
        try:
            self._execute()
        except IndexError:
            msg = "damaged VCDIFF delta: it ends within an instruction"
            raise DeltaError(msg) from None
        window = self.window
        if len(self.target) != window.target_length:
            msg = f"damaged VCDIFF delta: a window makes {len(self.target)} bytes instead of {window.target_length}"
            raise DeltaError(msg)
        # Also catches what was read beyond a section, in the one behind it.
        if self.data_at != window.instructions or self.addresses_at != window.end:
            msg = "damaged VCDIFF delta: a window does not use what its sections hold"
            raise DeltaError(msg)
        if window.adler32 is not None and adler32(self.target) != window.adler32:
            msg = "damaged VCDIFF delta, or not made for this base: the checksum of a window differs"
            raise DeltaError(msg)
        return bytes(self.target)

    def _execute(self) -> None:
        delta, at, end = self.delta, self.window.instructions, self.window.addresses
        limit, target = self.window.target_length, self.target
        while at < end:
            code = delta[at]
            at += 1
            for kind, fixed_size, mode in CODE_TABLE[code]:
                if kind == NOOP:
                    break
                size = fixed_size
                if not size:
                    size, at = read_integer(delta, at)
                    if at > end:
                        raise IndexError
                if len(target) + size > limit:
                    msg = "damaged VCDIFF delta: a window makes more bytes than it says"
                    raise DeltaError(msg)
                if kind == COPY:
                    self._copy(self._read_address(mode), size)
                elif kind == ADD:
                    target += self._take_data(size)
                else:
                    target += self._take_data(1) * size

    def _take_data(self, size: int) -> bytes:
        at = self.data_at
        self.data_at = at + size
        return self.delta[at : self.data_at]

    def _read_address(self, mode: int) -> int:
        cache = self.cache
        here = len(self.source) + len(self.target)
        if mode >= FIRST_SAME:
            address = cache.same[(mode - FIRST_SAME) * 256 + self.delta[self.addresses_at]]
            self.addresses_at += 1
        else:
            address, self.addresses_at = read_integer(self.delta, self.addresses_at)
            if mode == MODE_HERE:
                address = here - address
            elif mode >= FIRST_NEAR:
                address += cache.near[mode - FIRST_NEAR]
        if not 0 <= address < here:
            msg = "damaged VCDIFF delta: it copies from a place that is not filled yet"
            raise DeltaError(msg)
        cache.update(address)
        return address

    def _copy(self, address: int, size: int) -> None:
        source, target = self.source, self.target
        if address < len(source):
            if address + size > len(source):
                # Section 3: what is copied lies entirely in the source or entirely in the target.
                msg = "damaged VCDIFF delta: it copies from beyond the source segment"
                raise DeltaError(msg)
            target += source[address : address + size]
            return
        start = address - len(source)
        period = len(target) - start
        if size <= period:
            target += target[start : start + size]
            return
        # The copy reads what it writes: the bytes from `start` on repeat.
        pattern = bytes(target[start:])
        target += (pattern * (size // period + 1))[:size]
