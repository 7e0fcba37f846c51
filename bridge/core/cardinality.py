"""A bound on the channels that one route makes from data: a field that is different in each record would otherwise fill the bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bridge.core.expression import EvaluationError

DEFAULT_MAX_CHANNELS = 100_000


class TooManyChannelsError(EvaluationError):
    """A channel more than the route may have."""


class ChannelCap:
    """Knows the channels that a route used lately, never more than `limit` of them.

    A channel is forgotten when it was not used for `ttl_s` (as the bus forgets it) or up to twice that. `clock` tells seconds that only
    go forward.
    """

    def __init__(self, limit: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._ttl_s = ttl_s
        self._clock = clock
        self._since = clock()
        self._recent: set[str] = set()
        self._older: set[str] = set()

    def __repr__(self) -> str:
        return f"<ChannelCap {len(self)} of {self._limit} channels>"

    def __len__(self) -> int:
        """How many it knows."""
        return len(self._recent) + len(self._older)

    def admit(self, names: Sequence[str]) -> None:
        """Note all of `names`; raise TooManyChannelsError, with none of the new ones noted, where they would be too many."""
        recent = self._recent
        if not recent.issuperset(names):  # Seldom: this is the hot path.
            self._admit([name for name in names if name not in recent])

    def _admit(self, new: list[str]) -> None:
        now = self._clock()
        if now - self._since >= self._ttl_s:
            self._older = self._recent if now - self._since < 2 * self._ttl_s else set()
            self._recent = set()
            self._since = now
        unknown = {name for name in new if name not in self._older}
        if len(self) + len(unknown) > self._limit:
            msg = (
                f"the channel {min(unknown)!r} would be one more than the {self._limit} that the route may have (max_channels): "
                "correct the template, or raise max_channels"
            )
            raise TooManyChannelsError(msg)
        self._older.difference_update(new)
        self._recent.update(new)
