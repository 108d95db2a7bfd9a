"""What one reader may be told, against the rule said plainly: histories drawn at random, no server."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from server.live.sight import FOREVER, Event, Sight, Span

ME, OTHERS = 1, (2, 3)


@dataclass
class History:
    """A thread as its log tells it, and who was in at which rev."""

    events: list[Event] = field(default_factory=list)
    seq: int = 0
    spans: dict[int, list[list[int]]] = field(
        default_factory=dict
    )  # from_seq, until_seq, from_rev, until_rev

    def inside(self, who: int) -> bool:
        return bool(self.spans.get(who)) and self.spans[who][-1][3] == FOREVER

    def add(self, kind: str, *, seq: int | None = None, quoted: int | None = None) -> None:
        rev = len(self.events) + 1
        bare = b"bare %d" % rev if quoted else None
        self.events.append(Event("", rev, kind, seq, quoted, None, None, b"data %d" % rev, rev, bare))

    def say(self, quoted: int | None = None) -> None:
        self.seq += 1
        self.add("message", seq=self.seq, quoted=quoted)

    def turn(self, who: int) -> None:
        """In, if they are out; out, if they are in."""
        rev = len(self.events) + 1
        if self.inside(who):
            self.spans[who][-1][1::2] = [self.seq, rev]
        else:
            self.spans.setdefault(who, []).append([self.seq, FOREVER, rev, FOREVER])
        act = "joined" if self.inside(who) else "left"
        self.events.append(Event("", rev, "member", None, None, who, act, b"data %d" % rev, rev))


STEP = st.one_of(
    st.tuples(st.just("say"), st.integers(0, 12)),
    st.tuples(st.just("edit"), st.integers(1, 12)),
    st.tuples(st.just("rename"), st.just(0)),
    st.tuples(st.just("turn"), st.sampled_from((ME, ME, *OTHERS))),
)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """With me in it at the end."""
    history = History()
    for word, number in draw(st.lists(STEP, max_size=40)):
        if word == "say":
            history.say(number if 0 < number <= history.seq else None)
        elif word == "edit" and number <= history.seq:
            history.add("message_updated", seq=number)
        elif word == "rename":
            history.add("thread_updated")
        elif word == "turn":
            history.turn(number)
    if not history.inside(ME):
        history.turn(ME)
    for event in history.events:
        if event.user_id is not None:
            event.spans = tuple((a, b) for _, _, a, b in history.spans[event.user_id])
    return history


def sight(history: History, *, everything: bool) -> Sight:
    return Sight(user_id=ME, everything=everything, spans=tuple(Span(*span) for span in history.spans[ME]))


def in_at(history: History, who: int) -> set[int]:
    """The revs at which somebody was in, their coming and going included."""
    return {e.rev for e in history.events for _, _, a, b in history.spans.get(who, []) if a <= e.rev <= b}


@settings(max_examples=400, deadline=None)
@given(histories())
def test_a_member_is_told_of_their_own_spans_and_whom_they_met(history: History) -> None:
    mine = in_at(history, ME)
    # Said plainly: a message is in sight when it was said while I was in.
    said = {e.seq: e.rev for e in history.events if e.kind == "message"}
    in_sight = {seq for seq, rev in said.items() if rev in mine}
    met = {who for who in OTHERS if in_at(history, who) & mine}
    reader = sight(history, everything=False)
    for event in history.events:
        told = reader.data(event)
        if event.seq is not None:
            quoted = event.quoted is None or event.quoted in in_sight
            expected = (event.data if quoted else event.bare) if event.seq in in_sight else None
        elif event.kind == "member":
            expected = event.data if event.rev in mine or event.user_id in {ME, *met} else None
        else:
            expected = event.data
        assert told == expected, event


@settings(max_examples=200, deadline=None)
@given(histories())
def test_a_member_of_a_channel_is_told_everything(history: History) -> None:
    reader = sight(history, everything=True)
    assert [reader.data(event) for event in history.events] == [event.data for event in history.events]


@settings(max_examples=200, deadline=None)
@given(histories(), st.sampled_from(("left", "removed", "role", "joined")))
def test_only_ones_own_going_ends_it_and_none_that_was_before_coming_back(history: History, act: str) -> None:
    reader = sight(history, everything=False)
    assert not any(reader.ends(event) for event in history.events)
    rev = len(history.events) + 1
    assert reader.ends(Event("", rev, "member", None, None, ME, act, b"", rev)) is (
        act in ("left", "removed")
    )
    assert not reader.ends(Event("", rev, "member", None, None, OTHERS[0], act, b"", rev))
    assert reader.ends(Event("", rev, "thread_deleted", None, None, None, None, b"", rev))
