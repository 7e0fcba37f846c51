"""Who is subscribed to what on this edge, and the loop that writes to them.

A channel's subscribers are split by variant, and each variant into those *in step* (they hold the base: they get the delta) and those
*behind* (they get the next publication whole, and then are in step). So the loop decides nothing: it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

from edge.core.item import Item, Step
from edge.core.stream import ChannelStream, Gap
from edge.core.variant import Label, Variant, gap_message
from shared.publication import DeltaFormat

MAX_STEPS = 1_000
"""That one channel keeps between two ticks: those who read pages of the history make one for each publication that they pass."""
MAX_STEPS_BYTES = 4_194_304
"""Of the payloads that these lead to: the frames kept with them are no larger, but for what a transport adds."""

Write = Callable[[bytes], None]
"""Hands finished frames to a transport; never blocks, and may not change the hub."""

Outgoing = tuple[Collection[Write], bytes]
"""Finished frames, and who gets them."""


Audience = dict["Subscription", Write]
"""Who gets the same frames."""


def write_all(outgoing: Iterable[Outgoing]) -> None:
    """Write, and nothing but that: the kernel's part of a delivery is the larger one, and quicker where it is not interrupted."""
    for writes, frames in outgoing:
        for write in writes:
            try:
                write(frames)
            except RuntimeError:
                continue  # Its connection is lost; it leaves soon, when thousands of others may have to, too.


class Paced(Protocol):
    """A subscriber that goes at its own pace: it is told that there is something, and takes what it can."""

    def poke(self) -> None:
        """The channel has a new publication. May write; may not change the hub."""

    def on_gap(self, gap: Gap) -> None:
        """The stream was lost or skipped; its newest publication is there already."""

    def on_too_large(self, why: str) -> None:
        """The channel's state is larger than this edge holds: the subscription is over. Leaves the channel."""


class Holder(Protocol):
    """Who holds a subscription in mode queue."""

    def on_restart(self, subscription: Subscription, gap: Gap) -> None:
        """The state of a keyed channel has to be sent anew: the subscription is no member of the channel any more."""

    def on_end(self, subscription: Subscription, why: str) -> None:
        """The channel's state is larger than this edge holds: the subscription is over, and no member of the channel any more."""


class Subscription:
    """One session on one channel, in mode queue. Compared by identity."""

    __slots__ = ("channel", "floor", "holder", "variant", "write")

    def __init__(self, channel: Channel, variant: Variant, write: Write, holder: Holder, *, floor: int = 0) -> None:
        self.channel = channel
        self.variant = variant
        self.write = write
        self.holder = holder
        self.floor = floor
        """On a keyed channel: the subscriber was sent every publication with a greater offset (or a newer one of its key), and no other."""

    def leave(self) -> None:
        """End it. What is on its way to others of the channel passes it by (`Channel.encode_for_all`)."""
        self.channel.remove(self)
        self.write = _drop


class _Group:
    """The subscribers of one variant."""

    __slots__ = ("behind", "in_step")

    def __init__(self) -> None:
        self.in_step: dict[Subscription, Write] = {}
        self.behind: dict[Subscription, Write] = {}


class Channel:
    """One channel on this edge: its stream and its subscribers."""

    __slots__ = ("_made_bytes", "_steady", "_steps", "groups", "label", "paced", "stream", "subscribers")

    def __init__(self, label: Label, stream: ChannelStream) -> None:
        self.label = label
        self.stream = stream
        self.subscribers = 0
        self.groups: dict[Variant, _Group] = {}
        self.paced: dict[Paced, None] = {}
        self._steady: tuple[Variant, Collection[Write]] | None = None
        """All that a publication needs where all are in step, of one variant, and nobody goes at their own pace; None: look at them first.

        With thousands of channels of a client or two it is memory that is waited for: this is one place instead of ten.
        """
        self._steps: dict[tuple[int, int], Step] = {}
        """Those of this tick, and jumps to the newest publication from wherever somebody was: each is made once for all."""
        self._made_bytes = 0
        """Of the payloads that the jumps lead to."""

    def __repr__(self) -> str:
        return f"<Channel {self.label.name} {self.subscribers} subscribers {self.stream!r}>"

    def add(self, subscription: Subscription, *, in_step: bool) -> None:
        """Start delivering. `in_step`: the subscriber was just sent the newest publication (of each key), whole."""
        self._steady = None
        group = self.groups.get(subscription.variant)
        if group is None:
            group = self.groups[subscription.variant] = _Group()
        # Without deltas every publication is whole, so there is nothing to be behind of.
        is_ready = in_step or subscription.variant.delta is DeltaFormat.NONE
        (group.in_step if is_ready else group.behind)[subscription] = subscription.write
        self.subscribers += 1

    def remove(self, subscription: Subscription) -> None:
        """Stop delivering."""
        self._steady = None
        group = self.groups[subscription.variant]
        if group.in_step.pop(subscription, None) is None:
            del group.behind[subscription]
        if not group.in_step and not group.behind:
            del self.groups[subscription.variant]
        self.subscribers -= 1

    def rewrite(self, subscription: Subscription, write: Write) -> None:
        """Hand what comes next to another write."""
        self._steady = None
        subscription.write = write
        group = self.groups[subscription.variant]
        (group.in_step if subscription in group.in_step else group.behind)[subscription] = write

    def add_paced(self, subscriber: Paced) -> None:
        """Start telling a subscriber that goes at its own pace."""
        self._steady = None
        self.paced[subscriber] = None
        self.subscribers += 1

    def remove_paced(self, subscriber: Paced) -> None:
        """Stop telling it."""
        del self.paced[subscriber]
        self.subscribers -= 1

    def step(self, base: Item, item: Item) -> Step:
        """The step from one publication to another, which need not be the next: made once, whoever needs it."""
        key = base.offset, item.offset
        step = self._steps.get(key)
        if step is None:
            if len(self._steps) >= MAX_STEPS or self._made_bytes > MAX_STEPS_BYTES:
                self._forget_steps()
            self._made_bytes += len(item.payload)
            step = self._steps[key] = Step(item, base)
        return step

    def _forget_steps(self) -> None:
        self._steps.clear()
        self._made_bytes = 0

    def deliver(self, steps: Sequence[Step]) -> None:
        """Write one tick's publications to every subscriber: joined once, written once to each."""
        outgoing: list[Outgoing] = []
        self.encode(steps, outgoing)
        write_all(outgoing)

    def encode(self, steps: Sequence[Step], outgoing: list[Outgoing]) -> None:
        """Add one tick's publications to `outgoing`, to be written before anything else is done with this channel.

        Those who go at their own pace are told here.
        """
        if self._steady is None:
            outgoing += [(audience.values(), frames) for audience, frames in self._encode_all(steps)]
            for subscriber in list(self.paced):
                subscriber.poke()
            self._settle()
            return
        variant, writes = self._steady
        outgoing.append((writes, variant.step_frames(steps, self.label)))

    def encode_for_all(self, steps: Sequence[Step]) -> tuple[list[tuple[list[Subscription], bytes]], list[Paced]]:
        """As `encode`, for those who are there now, and may have left before it is written: more of them than one go is for.

        Each is written to by its `write` of that moment. Those who go at their own pace are to be told after the others.
        """
        return [(list(audience), frames) for audience, frames in self._encode_all(steps)], list(self.paced)

    def _settle(self) -> None:
        """See whether the next publication needs no look at who is there."""
        if self.paced or self._steps or len(self.groups) != 1:
            return
        ((variant, group),) = self.groups.items()
        if not group.behind:
            writes = group.in_step.values()
            self._steady = variant, tuple(writes) if len(writes) == 1 else writes

    def _encode_all(self, steps: Sequence[Step]) -> list[tuple[Audience, bytes]]:
        """One tick's publications for each of those who get the same; who was behind is in step then."""
        label = self.label
        if self._steps:
            self._forget_steps()
        if self.paced:
            # Only what the ring holds anyway: one tick may bring a thousand, and these stay until the next one, whenever that is.
            first = self.stream.ring[0].offset if self.stream.ring else 0
            kept = (step for step in steps if step.item.offset >= first)
            self._steps.update(((step.base.offset, step.item.offset), step) for step in kept if step.base is not None)
        encoded: list[tuple[Audience, bytes]] = []
        for variant, group in self.groups.items():
            frames = variant.step_frames(steps, label)
            if not group.behind:
                # One that has got all of a keyed channel's state joins a group, and has got this, too.
                encoded.append((dict(group.in_step) if self.paced else group.in_step, frames))
                continue
            encoded.append((dict(group.in_step), frames))
            if self.stream.keyed is not None:
                encoded += self._encode_behind(group, variant, steps)
                continue
            whole = variant.full_frame(steps[0].item, label) + variant.step_frames(steps[1:], label)
            encoded.append((group.behind, whole))
            group.in_step.update(group.behind)
            group.behind = {}
        return encoded

    def _encode_behind(self, group: _Group, variant: Variant, steps: Sequence[Step]) -> list[tuple[Audience, bytes]]:
        """Those who were not sent the newest publication of each key get deltas of those keys only of which they were."""
        label = self.label
        by_floor: dict[int, Audience] = {}
        for subscription, write in group.behind.items():
            by_floor.setdefault(subscription.floor, {})[subscription] = write
        encoded = []
        for floor, audience in by_floor.items():
            frames = [
                variant.step_frame(step, label) if step.base is None or step.base.offset > floor else variant.full_frame(step.item, label)
                for step in steps
            ]
            encoded.append((audience, b"".join(frames)))
        for subscription in [subscription for subscription in group.behind if not self.is_behind(subscription.floor)]:
            group.in_step[subscription] = group.behind.pop(subscription)
        return encoded

    def is_behind(self, floor: int) -> bool:
        """Whether there is a key whose newest publication is not among those after `floor`."""
        keyed = self.stream.keyed
        return floor > 0 and keyed is not None and 0 < keyed.oldest <= floor

    def tell_gap(self, gap: Gap, steps: Sequence[Step]) -> None:
        """Tell every subscriber of a gap, and give the newest publication whole where there is one; of a keyed channel, the state."""
        self._steady = None
        self._forget_steps()
        paced = list(self.paced)
        if self.stream.keyed is not None:
            for subscription in self._take_all():
                subscription.holder.on_restart(subscription, gap)
        else:
            self._tell_gap(gap, steps)
        for subscriber in paced:
            subscriber.on_gap(gap)

    def _tell_gap(self, gap: Gap, steps: Sequence[Step]) -> None:
        for variant, group in self.groups.items():
            message = variant.wrap(gap_message(gap, self.label, self.stream.epoch, variant.dialect))
            joined = message + b"".join(variant.full_frame(step.item, self.label) for step in steps)
            fresh = group.in_step | group.behind
            for subscription in fresh:
                subscription.floor = 0
            write_all([(fresh.values(), joined)])
            is_ready = bool(steps) or variant.delta is DeltaFormat.NONE
            group.in_step, group.behind = (fresh, {}) if is_ready else ({}, fresh)

    def tell_too_large(self, why: str) -> None:
        """End every subscription: the channel's state is larger than this edge holds."""
        for subscriber in list(self.paced):
            subscriber.on_too_large(why)
        for subscription in self._take_all():
            subscription.holder.on_end(subscription, why)

    def _take_all(self) -> list[Subscription]:
        """All members of the groups, which are empty then."""
        self._steady = None
        taken = [subscription for group in self.groups.values() for subscription in (*group.in_step, *group.behind)]
        self.groups.clear()
        self.subscribers -= len(taken)
        return taken


class Hub:
    """The channels of this edge, by name. Numbers are given once and never again in the life of the process."""

    def __init__(self, *, ring_items: int, ring_bytes: int) -> None:
        self._ring_items = ring_items
        self._ring_bytes = ring_bytes
        self._channels: dict[str, Channel] = {}
        self._numbers = 0

    def __repr__(self) -> str:
        return f"<Hub {len(self._channels)} channels>"

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel]:
        return iter(list(self._channels.values()))

    def get(self, name: str) -> Channel | None:
        """The channel, or None where nobody here has asked for it lately."""
        return self._channels.get(name)

    def open(self, name: str) -> Channel:
        """The channel, made if need be."""
        channel = self._channels.get(name)
        if channel is None:
            self._numbers += 1
            stream = ChannelStream(max_items=self._ring_items, max_bytes=self._ring_bytes)
            channel = self._channels[name] = Channel(Label(name, self._numbers), stream)
        return channel

    def drop(self, name: str) -> None:
        """Forget a channel that nobody subscribes to."""
        del self._channels[name]


def _drop(_: bytes) -> None:
    """Write to nobody."""
