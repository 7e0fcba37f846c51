"""Starting those who ask for a channel: with what the edge holds, or with a read of the bus that serves all who wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from edge.core.delivery import Mode
from edge.core.item import Item
from edge.core.limits import Limits
from edge.core.protocol import Subscribe
from edge.core.recovery import NeedHistory, PacedStart, Start, start_from, start_keyed, start_new, start_paced_from
from edge.deliveries import Deliveries
from edge.holdings import Holdings
from edge.lane import Lane, Subscriber, Waiting
from edge.ports import Bus, ChannelHistory
from edge.reach import READ_MARGIN
from edge.turns import Turns
from shared.envelope import Envelope


class Starts:
    """See the module. What a subscriber is told at its start and what is delivered afterwards join without a hole: both in one turn."""

    def __init__(
        self, bus: Bus, limits: Limits, deliveries: Deliveries, holdings: Holdings, turns: Turns, now_ms: Callable[[], int]
    ) -> None:
        self.framed: dict[Lane, None] = {}
        """Channels somebody recovered on: publications in their rings hold frames, for others who come at the same time."""
        self._bus = bus
        self._limits = limits
        self._deliveries = deliveries
        self._holdings = holdings
        self._turns = turns
        self._now_ms = now_ms

    def start(self, lane: Lane, request: Subscribe, subscriber: Subscriber, items: list[Item] | None = None) -> int:
        """Start a subscriber; returns 0, or how much history must be read first. `items` is what such a read brought."""
        self._deliveries.close_to_newcomers(lane.channel)  # Or who starts at the newest publication would get some of it twice.
        stream, limits = lane.channel.stream, self._limits
        is_paced = request.delivery.mode is not Mode.QUEUE
        start: Start | PacedStart | NeedHistory
        if stream.keyed is not None:
            mode, most = request.delivery.mode, limits.max_recovery_items
            start = start_keyed(stream, request.position, mode, most=most, is_read=items is not None)
        elif request.position is not None and is_paced:
            start = start_paced_from(stream, request.position, request.delivery.mode)
        elif request.position is not None:
            start = start_from(stream, request.position, most=limits.max_recovery_items, most_bytes=limits.max_recovery_bytes, items=items)
        else:
            now_ms, most, most_bytes = self._now_ms(), limits.max_recovery_items, limits.max_recovery_bytes
            start = start_new(stream, request.rewind, now_ms, most=most, most_bytes=most_bytes, items=items)
        if isinstance(start, NeedHistory):
            return start.count
        if isinstance(start, Start) and len(start.items) > 1:
            self.framed[lane] = None
        if isinstance(start, Start) and is_paced:
            start = PacedStart(start.items[0].offset - 1 if start.items else stream.offset)
        if isinstance(start, PacedStart):
            subscriber.begin_paced(request, lane.channel, start)
        else:
            subscriber.begin(request, lane.channel, start)
        return 0

    async def serve(self, lane: Lane, history: ChannelHistory | None) -> bool:
        """Start those who wait; for those who want more than the ring and what was read have, read the history once for all of them.

        False where the stream itself must be read once more. Raises BusUnavailableError and StateTooLargeError.
        """
        most = self._limits.max_recovery_items
        wanted = await self._start_waiting(lane)
        if wanted and history is not None:
            wanted = await self._start_waiting(lane, history)
        asked = 0
        while wanted and lane.is_live and asked < most:
            # Somewhat more than is wanted, and ever more: what the bus holds may be ahead of what came here.
            asked = min(max(wanted + READ_MARGIN, 2 * asked), most)
            history = await self._bus.read(lane.name, asked)
            wanted = await self._start_waiting(lane, history)
        return not wanted

    async def _start_waiting(self, lane: Lane, history: ChannelHistory | None = None) -> int:
        """Start all who can be, with `history` those who need no more than it has; returns how much of it the others need.

        Those who are nearest go first, and no more in one turn of the event loop than others can wait for.
        """
        if not lane.waiting:
            return 0
        items, is_all = None, False
        if history is not None:
            items = lane.channel.stream.extend(history.envelopes, asked=history.asked)
            # What came meanwhile may have pushed out of the ring what would have joined the two: then it must be read once more.
            is_all = len(history.envelopes) < history.asked and _reaches(items, history.envelopes)
            self._holdings.count(lane)
        lane.waiting = deque(sorted(lane.waiting, key=lambda waiting: self._cost(lane, waiting.request)))
        left: deque[Waiting] = deque()
        wanted = 0

        def start_some() -> bool:
            nonlocal items, is_all, wanted
            if items is not None:
                followed = lane.channel.stream.follow(items)
                is_all = is_all and bool(followed) and followed[0].offset == items[0].offset
                items = followed
            reach = 0 if items is None else self._limits.max_recovery_items if is_all else len(items)
            while lane.waiting:
                if self._turns.is_over():
                    return False
                waiting = lane.waiting.popleft()
                needed = self._start_one(lane, waiting, items, reach)
                if needed:
                    left.append(waiting)
                    wanted = max(wanted, needed)
            return True

        try:
            await self._turns.finish(start_some, self._cost(lane, lane.waiting[-1].request))
        finally:
            lane.waiting.extendleft(reversed(left))
        return wanted

    def _start_one(self, lane: Lane, waiting: Waiting, items: list[Item] | None, reach: int) -> int:
        """Start one who waits; returns 0, how much history must be read first, or -1 where the stream itself must be."""
        if waiting.subscriber.is_closed or waiting.subscriber.postpones(waiting.request):
            return 0
        if not lane.is_live or lane.is_in_doubt(waiting):
            return -1
        needed = self.start(lane, waiting.request, waiting.subscriber)
        if 0 < needed <= reach:
            return self.start(lane, waiting.request, waiting.subscriber, items)
        return needed

    def _cost(self, lane: Lane, request: Subscribe) -> int:
        """How many publications one who waits gets at its start, about."""
        position, stream = request.position, lane.channel.stream
        if position is not None:
            return max(0, stream.offset - position.offset) if position.epoch == stream.epoch else 1
        if request.rewind is None:
            return 1
        return self._limits.ring_items if request.rewind.age_ms else request.rewind.count


def _reaches(items: Sequence[Item], history: Sequence[Envelope]) -> bool:
    """Whether the items go as far back as what was read."""
    return not history or (bool(items) and items[0].offset <= history[0].offset)
