"""What one reader may be told of a thread's changes. The bytes are shared, the right to see them is not."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from server.live.wire import Wire

FOREVER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of membership: messages with from_seq < seq <= until_seq, changes from_rev..until_rev."""

    from_seq: int
    until_seq: int
    from_rev: int
    until_rev: int


@dataclass(slots=True)
class Event:
    """One durable change, ready to be told to every reader who may see it."""

    id: str  # the cursor of whoever has been told it
    rev: int
    kind: str  # message, message_updated, member, thread_updated, thread_deleted
    seq: int | None  # of the message
    quoted: int | None  # the seq it answers
    user_id: int | None  # whose membership
    act: str | None  # joined, left, removed, role
    data: bytes  # the bare object of its kind, as JSON in its shared form
    as_of: int  # the rev that its content is as new as, at most: of an edited message a later one
    bare: bytes | None = None  # the same with the quote as a seq alone
    spans: tuple[tuple[int, int], ...] | None = None  # of that person, as revs; known where read from the log
    _frames: dict[Wire, bytes] = field(default_factory=dict, repr=False, compare=False)

    def frame(self, wire: Wire, data: bytes) -> bytes:
        """As it goes over this wire, with one of `data` and `bare`; the first is made once."""
        if data is not self.data:
            return wire.event(self.kind, self.id, data)
        found = self._frames.get(wire)
        if found is None:
            found = self._frames[wire] = wire.event(self.kind, self.id, data)
        return found


class Sight:
    """The spans of one member, as they stand when the stream begins, the last one open.

    They need no refreshing: the changes come in the order of rev, so one's own removal is met, and
    ends the stream, before anything that came after it.
    """

    __slots__ = ("everything", "floor", "guarded", "opened", "spans", "user_id")

    def __init__(
        self, *, user_id: int, everything: bool, spans: Sequence[Span], guarded: bool = False
    ) -> None:
        self.user_id = user_id
        self.everything = everything  # history: all
        self.guarded = guarded  # a contact thread, out of which no change of it leads: see hub.Hub.stays
        self.spans = spans
        self.opened = spans[-1].from_rev
        # Above it a message needs no further look; below it the spans decide.
        self.floor = 0 if everything else spans[-1].from_seq

    def sees(self, seq: int) -> bool:
        """Whether a message is in sight."""
        return seq > self.floor or any(s.from_seq < seq <= s.until_seq for s in self.spans)

    def data(self, event: Event) -> bytes | None:
        """What this reader is told of a change, or None."""
        if event.seq is not None:
            if not self.sees(event.seq):
                return None
            return event.data if event.quoted is None or self.sees(event.quoted) else event.bare
        if self.everything or event.kind != "member":
            return event.data
        if event.rev >= self.opened or any(s.from_rev <= event.rev <= s.until_rev for s in self.spans):
            return event.data
        # Told from a time when the reader was away: only about people they have been in here with,
        # so that their list of members comes out right and nobody is betrayed who came and went.
        met = any(
            theirs[0] <= mine.until_rev and mine.from_rev <= theirs[1]
            for theirs in event.spans or ()
            for mine in self.spans
        )
        return event.data if met else None

    def ends(self, event: Event) -> bool:
        """Whether nothing after this change is for this reader."""
        if event.kind == "thread_deleted":
            return True
        return event.user_id == self.user_id and event.act in ("left", "removed") and event.rev > self.opened
