"""Progress: the line in the log that tells each minute what was done since the last one."""

from __future__ import annotations

from bridge.core.tally import Tally, saving
from shared.telemetry import Log

_SHOWN_ROUTES = 10
"""Whose savings a line tells; metrics tell all."""


class Progress:
    """See the module."""

    def __init__(self, tally: Tally, log: Log) -> None:
        self._tally = tally
        self._log = log
        self._told = (0, 0, 0, 0, 0, 0)
        self._told_of_routes: dict[str, tuple[int, int]] = {}

    def __repr__(self) -> str:
        return f"<Progress of {self._tally}>"

    def tell(self, *, lag: int | None, letters_waiting: int) -> None:
        """Write the line. `lag`: records that are not done; None while it is not known."""
        tally = self._tally
        unchanged = tally.skipped + tally.unchanged
        now = tally.records, tally.publications, unchanged, tally.payload_bytes, tally.sent_bytes, tally.letters
        records, publications, same, payload_bytes, sent_bytes, letters = (new - old for new, old in zip(now, self._told, strict=True))
        self._told = now
        self._log.info(
            "progress",
            records=records,
            publications=publications,
            unchanged=same,
            bytes_full=payload_bytes,
            bytes_sent=sent_bytes,
            saving=f"{saving(payload_bytes, sent_bytes):.0%}" if payload_bytes else "-",
            by_route=self._savings_by_route(),
            dead_letters=letters,
            dead_letters_waiting=letters_waiting,
            lag="-" if lag is None else lag,
        )

    def _savings_by_route(self) -> str:
        """What each route with publications saved since the last line: of those with the most bytes."""
        now = {name: (route.payload_bytes, route.sent_bytes) for name, route in self._tally.routes.items()}
        before, self._told_of_routes = self._told_of_routes, now
        new = []
        for name, (full, sent) in now.items():
            full_before, sent_before = before.get(name, (0, 0))
            if full > full_before:
                new.append((full - full_before, name, saving(full - full_before, sent - sent_before)))
        new.sort(reverse=True)
        shown = [f"{name}={saved:.0%}" for _, name, saved in new[:_SHOWN_ROUTES]]
        return ",".join([*shown, *(["..."] if len(new) > _SHOWN_ROUTES else [])]) or "-"
