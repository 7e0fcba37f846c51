"""VCDIFF's default code table (RFC 3284, section 5.6) and its address cache (section 5.3): what encoder and decoder share."""

from __future__ import annotations

from typing import Final, NamedTuple

NOOP, ADD, RUN, COPY = range(4)

NEAR_SIZE: Final = 4
SAME_SIZE: Final = 3
MODE_SELF: Final = 0
MODE_HERE: Final = 1
FIRST_NEAR: Final = 2
FIRST_SAME: Final = FIRST_NEAR + NEAR_SIZE
MODES: Final = FIRST_SAME + SAME_SIZE


class Half(NamedTuple):
    """One half of a code: an instruction, its size (0: the size follows as an integer) and, of a COPY, its address mode."""

    kind: int
    size: int
    mode: int


NOTHING: Final = Half(NOOP, 0, 0)


def _default_code_table() -> tuple[tuple[Half, Half], ...]:
    table = [(Half(RUN, 0, 0), NOTHING)]
    table += [(Half(ADD, size, 0), NOTHING) for size in range(18)]
    table += [(Half(COPY, size, mode), NOTHING) for mode in range(MODES) for size in (0, *range(4, 19))]
    table += [(Half(ADD, add, 0), Half(COPY, copy, mode)) for mode in range(FIRST_SAME) for add in range(1, 5) for copy in range(4, 7)]
    table += [(Half(ADD, add, 0), Half(COPY, 4, mode)) for mode in range(FIRST_SAME, MODES) for add in range(1, 5)]
    table += [(Half(COPY, 4, mode), Half(ADD, 1, 0)) for mode in range(MODES)]
    return tuple(table)


CODE_TABLE: Final = _default_code_table()
"""Code (0 to 255) to its two halves; the second is NOTHING for single instructions."""
CODES: Final = {halves: code for code, halves in enumerate(CODE_TABLE)}


class AddressCache:
    """The addresses that were used last: `near` are the newest four, `same` those with a given remainder modulo 768."""

    __slots__ = ("near", "same", "slot")

    def __init__(self) -> None:
        self.near = [0] * NEAR_SIZE
        self.same = [0] * (SAME_SIZE * 256)
        self.slot = 0

    def update(self, address: int) -> None:
        """Remember the address of a COPY. Encoder and decoder call it once a COPY, in order."""
        self.near[self.slot] = address
        self.slot = (self.slot + 1) % NEAR_SIZE
        self.same[address % (SAME_SIZE * 256)] = address

    def choose(self, address: int, here: int) -> tuple[int, int]:
        """The mode that writes `address` shortest, and the number to write: a byte for FIRST_SAME and above, else an integer."""
        key = address % (SAME_SIZE * 256)
        if self.same[key] == address:
            return FIRST_SAME + key // 256, key % 256
        best, number = MODE_SELF, address
        if here - address < number:
            best, number = MODE_HERE, here - address
        for index, near in enumerate(self.near):
            if 0 <= address - near < number:
                best, number = FIRST_NEAR + index, address - near
        return best, number
