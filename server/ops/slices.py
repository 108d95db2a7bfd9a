"""The masses in slices: who writes when and what, made piece by piece in the order of time, as data for COPY.

A slice depends on the plan and its own number alone, so several processes make them side by side and the result is the
same. `python -m server.ops.slices` is such a process: see `main`. The words: server/ops/vocabulary.py.
"""

import contextlib
import fcntl
import json
import marshal
import os
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random
from struct import Struct, pack
from typing import IO, Any, TypeAlias, cast

from server import grams as grams_
from server.ops.vocabulary import CODES, EMOJI, LANGUAGES, SCRIPTS, SYLLABLES, Language

SLICE = 10_000  # messages, about: what a process holds at once
CACHED_WORDS = 14_000  # whose grams it remembers: more of them cost more memory, and save no time
DAYS = 365
SLOPE = 1 / 1.161  # of Pareto's law by rank, where a fifth has four fifths
FIFTH, FOUR_FIFTHS = 0.2, 0.8
BUSIEST = 20_000  # messages of one contact, when there are enough of them all
BUSIEST_SHARE = 0.05
LENGTHS = (16, 20, 18, 14, 10, 8, 6, 4, 2, 1, 1)  # of a talk in one go: so many of 1, 2, 3 ... messages
MOST = 16  # above the longest of them, and a power of 2
BEGINS, ANSWERS = 0.15, 0.55  # how often the team begins, and how often the other side writes next
GAPS_S = (8, 15, 25, 40, 60, 90, 150, 240, 400, 700, 1_500, 4_000)  # between two messages of a talk
HOURS = (
    2,
    1,
    1,
    1,
    1,
    2,
    5,
    12,
    24,
    34,
    38,
    36,
    28,
    32,
    36,
    35,
    32,
    28,
    24,
    20,
    16,
    12,
    7,
    4,
)  # the day's curve
WEEKEND = 0.35
GROWTH = 0.6  # so much more at the end of the year than at its beginning
STOCK, PLAIN, RARE, CODE = (
    0.07,
    0.86,
    0.90,
    0.96,
)  # what a message is: a stock sentence, words, words and something
WORDS = 9_000  # of a language, by falling frequency
FRESH = 1.3  # words drawn for a message: each is then said some times within a slice
SECOND = 9  # every so many messages the team's answer comes from the contact's second agent

EPOCH_2000 = datetime(2000, 1, 1, tzinfo=UTC)
HEAD, TAIL = Struct(">hiqiqiqiqi"), Struct(">iq")
CHANGE = Struct(">hiqiqi7siq")
BLOCK, GRAMS, LENGTH, ARRAY = Struct(">hiqiqiqiq"), Struct(">hiqi"), Struct(">i"), Struct(">iiiiii")
COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TAIL = b"\xff\xff"
BLOCKS = 10_000  # more than a slice can have: so its blocks have ids of their own
SINCE_1970 = 946_684_800_000_000  # microseconds until 2000
Said: TypeAlias = tuple[int, int, int, int, str, bool]  # as grams.blocks_of takes it
MESSAGE = ("thread_id", "seq", "rev", "author_id", "text", "created_at")
CHANGED = ("thread_id", "rev", "kind", "seq")


def micros(moment: datetime) -> int:
    """As Postgres stores it: since the year 2000."""
    return (moment - EPOCH_2000) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made. users and threads: the ids of the first contact and of its thread, the others follow."""

    contacts: int
    messages: int
    random_seed: int
    until: datetime
    users: int = 1
    threads: int = 1
    agents: tuple[int, ...] = (0,)

    @property
    def begin(self) -> datetime:
        return self.until - timedelta(days=DAYS)

    def chance(self, *what: object) -> Random:
        """A stream of chance of its own for each purpose."""
        return Random(" ".join(map(str, (self.random_seed, *what))))

    def sizes(self) -> list[int]:
        """How many messages each contact has: by Pareto's law, a fifth of them has four fifths."""
        few = max(1, round(self.contacts * FIFTH))
        much = round(self.messages * FOUR_FIFTHS) if few < self.contacts else self.messages
        most = min(BUSIEST, int(self.messages * BUSIEST_SHARE)) if few > 1 else much
        low, high = (
            0.0,
            few * 1_000.0,
        )  # how far from the law's pole: so that the busiest has as many as it shall
        for _ in range(60):
            flat = (low + high) / 2
            shares = [(rank + flat) ** -SLOPE for rank in range(1, few + 1)]
            low, high = (flat, high) if shares[0] / sum(shares) * much > most else (low, flat)
        sizes = [most, *_shared(much - most, shares[1:])]
        sizes += _shared(self.messages - much, [rank**-SLOPE for rank in range(few, self.contacts)])
        self.chance("sizes").shuffle(sizes)
        return sizes

    def languages(self) -> bytes:
        """Of each contact, as an index of LANGUAGES."""
        shares = [language.share for language in LANGUAGES]
        return bytes(self.chance("languages").choices(range(len(LANGUAGES)), shares, k=self.contacts))

    def agents_of(self, contact: int) -> tuple[int, int]:
        """Who answers a contact: mostly the first."""
        at = contact * 2_654_435_761 >> 7
        return self.agents[at % len(self.agents)], self.agents[(at + 1) % len(self.agents)]


def _shared(count: int, shares: Sequence[float]) -> list[int]:
    """A whole number in proportion to shares, nothing lost."""
    if not shares:
        return []
    per = count / sum(shares)
    marks = [round(mark * per) for mark in accumulate(shares)]
    marks[-1] = count
    return [mark - before for mark, before in zip(marks, [0, *marks], strict=False)]


class Calendar:
    """When people write: a share of all that is written in the year, as a moment."""

    def __init__(self, plan: Plan) -> None:
        self._begin = micros(plan.begin)
        first = plan.begin.weekday()
        weights = [
            HOURS[hour] * (WEEKEND if (first + day) % 7 >= 5 else 1) * (1 + GROWTH * day / DAYS)
            for day in range(DAYS)
            for hour in range(24)
        ]
        self._marks = list(accumulate(weights, initial=0.0))

    def moment(self, share: float) -> int:
        """Microseconds since 2000."""
        at = share * self._marks[-1]
        hour = min(bisect_right(self._marks, at) - 1, DAYS * 24 - 1)
        low, high = self._marks[hour], self._marks[hour + 1]
        return self._begin + int((hour + (at - low) / (high - low)) * 3_600_000_000)


class Voice:
    """What is said in a language: its words by falling frequency, fresh ones for each slice."""

    def __init__(self, language: Language) -> None:
        chance = Random(language.name)
        words = dict.fromkeys(language.words)
        late = language.words[len(language.words) * 2 // 5 :]
        more = [word + ending for word in late for ending in language.endings]
        syllables = SYLLABLES[SCRIPTS.get(language.name, "Latin")]
        sizes = (2, 3) if language.joint else (2, 3, 4)
        names = (
            "".join(chance.choices(syllables, k=chance.choice(sizes))).capitalize() for _ in range(3 * WORDS)
        )
        chance.shuffle(more)
        words |= dict.fromkeys([*more, *names])
        self.words = list(words)[:WORDS]
        self._marks = list(accumulate((rank + 2.7) ** -1.05 for rank in range(len(self.words))))
        self.language = language
        self.said: list[str] = []

    def listen(self, chance: Random, count: int) -> None:
        """The words of the next slice."""
        longest = 30
        self.said = chance.choices(self.words, cum_weights=self._marks, k=max(count, longest) + longest)
        self.span = max(count, longest)

    def rare(self, chance: Random) -> str:
        """A word of the many that are seldom said."""
        return self.words[int(len(self.words) * (1 - chance.random() ** 2))]


@dataclass(slots=True)
class Slice:
    """Some days of the year. Arrays: a contact of this slice, when it was first and last heard of (micros), and how far
    it, its first and its second agent have written (seq; 0: not here)."""

    number: int
    messages: int
    rows: bytes  # of messages, binary COPY
    changes: bytes
    blocks: bytes  # of search_blocks and search_grams: what they are found by
    grams: bytes
    heard: (
        "array[int]"  # contact, first, last, seq of the contact, of the first agent, of the second; and so on
    )


class Slices:
    """The slices of a plan. They are counted in order; those that are asked for are made.

    before: what was said by others, in order, which search finds as well: it comes into the blocks of its time.
    """

    def __init__(self, plan: Plan, before: Sequence[Said] = ()) -> None:
        self.plan, self._others = plan, before
        self._voices = [Voice(language) for language in LANGUAGES]
        self._languages = plan.languages()
        self._calendar = Calendar(plan)
        self._talks = self._made_talks()
        self._seqs = array("I", bytes(4 * plan.contacts))
        self.bounds: list[tuple[int, int, int, int]] = []  # talks from, to; messages before and with them
        count = begin = low = 0
        for at, talk in enumerate(self._talks):
            count += talk & MOST - 1
            if count - low >= SLICE or at == len(self._talks) - 1:
                self.bounds.append((begin, at + 1, low, count))
                begin, low = at + 1, count

    def _made_talks(self) -> "array[int]":
        """Each contact's messages in talks of some, all talks in one random order: contact * MOST + messages."""
        chance = self.plan.chance("talks")
        talks = array("I")
        drawn = iter(list[int]())
        for contact, left in enumerate(self.plan.sizes()):
            while left:
                length = next(drawn, 0)
                if not length:
                    drawn = iter(chance.choices(range(1, len(LENGTHS) + 1), LENGTHS, k=10_000))
                    continue
                length = min(length, left)
                talks.append(contact * MOST + length)
                left -= length
        chance.shuffle(talks)
        return talks

    def all(self, part: int = 0, of: int = 1) -> Iterator[Slice]:
        """Those whose number is part, modulo of, in order."""
        seqs = self._seqs
        for number, (begin, end, before, after) in enumerate(self.bounds):
            if number % of == part:
                yield self._made(number, begin, end, before, after)
            else:
                for talk in self._talks[begin:end]:
                    seqs[talk // MOST] += talk % MOST

    def _made(self, number: int, begin: int, end: int, before: int, after: int) -> Slice:
        chance = self.plan.chance("slice", number)
        keys = self._keys(chance, begin, end, before, after)
        texts = self._texts(chance, [self._languages[key >> 1 & 0xFFFFFF] for key in keys])
        plan, seqs = self.plan, self._seqs
        users, threads, head, tail = plan.users, plan.threads, HEAD.pack, TAIL.pack
        heard: dict[int, list[int]] = {}
        rows: list[tuple[int, bytes, bytes, bytes]] = []
        said: list[Said] = []
        start = self._start(before)
        for key, text in zip(keys, texts, strict=True):
            contact, when = key >> 1 & 0xFFFFFF, start + (key >> 25) * 1_000
            seq = seqs[contact] = seqs[contact] + 1
            one = heard.get(contact)
            if one is None:
                one = heard[contact] = [contact, when, when, 0, 0, 0]
            one[2] = when
            author = users + contact
            if key & 1:
                second = not seq % SECOND
                author = plan.agents_of(contact)[second]
                one[4 + second] = seq
            else:
                one[3] = seq
            told = text.encode()
            thread = threads + contact
            said.append((when + SINCE_1970, thread, seq, author, text, True))
            rows.append(
                (
                    thread << 32 | seq,
                    head(6, 8, thread, 8, seq, 8, seq, 8, author, len(told)),
                    told,
                    tail(8, when),
                )
            )
        # In the order of threads: a slice's messages of one thread lie side by side, and indexes are met in order.
        rows.sort()
        change = CHANGE.pack
        changes = [
            change(4, 8, row[0] >> 32, 8, row[0] & 0xFFFFFFFF, 7, b"message", 8, row[0] & 0xFFFFFFFF)
            for row in rows
        ]
        others = self._said_meanwhile(number, start, after)
        if others:
            said += others
            said.sort()
        blocks, grams = _found_by(said, number, last=number == len(self.bounds) - 1)
        return Slice(
            number,
            len(rows),
            b"".join([COPY_HEAD, *(part for row in rows for part in row[1:]), COPY_TAIL]),
            b"".join([COPY_HEAD, *changes, COPY_TAIL]),
            blocks,
            grams,
            array("q", (value for one in heard.values() for value in one)),
        )

    def _said_meanwhile(self, number: int, start: int, after: int) -> Sequence[Said]:
        """By others; the first slice has all that was said before it as well, the last what came later."""
        over = self._start(after) + SINCE_1970
        low = bisect_left(self._others, (start + SINCE_1970,)) if number else 0
        high = bisect_left(self._others, (over,)) if number < len(self.bounds) - 1 else len(self._others)
        return self._others[low:high]

    def _start(self, before: int) -> int:
        return self._calendar.moment(before / self.plan.messages)

    def _keys(self, chance: Random, begin: int, end: int, before: int, after: int) -> list[int]:
        """A slice's messages in the order of time: milliseconds since its start, contact, who writes (1: the team)."""
        calendar, total, span = self._calendar, self.plan.messages, after - before
        start, over = self._start(before), self._calendar.moment(after / total)
        last = (over - start) // 1_000 - 1
        roll = chance.random
        gaps = chance.choices([gap * 1_000 for gap in GAPS_S], k=after - before + MOST)
        keys, at = [], 0
        for talk in self._talks[begin:end]:
            when = (calendar.moment((before + roll() * span) / total) - start) // 1_000
            contact, team = talk // MOST << 1, roll() < BEGINS
            for _ in range(talk % MOST):
                keys.append((when if when < last else last) << 25 | contact | team)
                at += 1
                when += gaps[at] + int(roll() * 5_000)
                if roll() < ANSWERS:
                    team = not team
        keys.sort()
        return keys

    def _texts(self, chance: Random, languages: list[int]) -> list[str]:
        for index, voice in enumerate(self._voices):
            voice.listen(chance, int(languages.count(index) * FRESH))
        voices, roll = self._voices, chance.random
        texts = []
        lengths = chance.choices(range(3, 26), SPREAD, k=len(languages))
        for index, length in zip(languages, lengths, strict=True):
            voice = voices[index]
            language, kind = voice.language, roll()
            if kind < STOCK:
                texts.append(language.stock[int(roll() * len(language.stock))])
                continue
            low, high = language.lengths
            length = low if length < low else high if length > high else length
            said, span = voice.said, voice.span
            here, there = int(roll() * span), int(roll() * span)
            text = language.joint.join(said[here : here + length - 3] + said[there : there + 3])
            text = text[0].upper() + text[1:] + language.stops[int(roll() * len(language.stops))]
            if kind >= PLAIN:
                if kind < RARE:
                    text += f" {voice.rare(chance)} {voice.rare(chance)}"
                elif kind < CODE:
                    text += " " + CODES[int(roll() * len(CODES))].format(int(roll() * 1_000_000))
                else:
                    text += " " + EMOJI[int(roll() * len(EMOJI))]
            texts.append(text)
        return texts


def _found_by(said: Sequence[Said], number: int, *, last: bool) -> tuple[bytes, bytes]:
    """Rows of search_blocks and search_grams. The very last block still grows, and is found without grams."""
    blocks, grams = [COPY_HEAD], [COPY_HEAD]
    for block, (block_id, found_by) in grams_.blocks_of(said, first_id=1 + number * BLOCKS):
        _, at, thread_id, seq, *columns, text = cast("Any", block)
        told, runs = text.encode(), found_by.encode()
        blocks += BLOCK.pack(9, 8, block_id, 8, at, 8, thread_id, 8, seq), *map(_bigints, columns)
        blocks += LENGTH.pack(len(told)), told
        grams += GRAMS.pack(2, 8, block_id, len(runs)), runs
    if last:
        del grams[-2:]
    return b"".join([*blocks, COPY_TAIL]), b"".join([*grams, COPY_TAIL])


def _bigints(values: Sequence[int]) -> bytes:
    """A column that is an array of them: of one dimension, without nulls, of elements of type 20, counted from 1."""
    count = len(values)
    fields = [8] * (2 * count)
    fields[1::2] = values
    return ARRAY.pack(20 + 12 * count, 1, 0, 20, count, 1) + pack(f">{'iq' * count}", *fields)


SPREAD = [2.718 ** -(((words - 9.5) / 5.5) ** 2) + 0.03 for words in range(3, 26)]  # of the lengths, in words


FRAME = Struct(">IIQQQQQ")  # number, messages, and bytes of each part


def dumped(plan: Plan, part: int, of: int, before: Sequence[Said]) -> bytes:
    """What `main` takes: a line of JSON, and after it what was said before."""
    asked = {**asdict(plan), "until": plan.until.isoformat(), "part": part, "of": of}
    return json.dumps(asked).encode() + b"\n" + marshal.dumps(list(before))


def read(pipe: IO[bytes]) -> Slice:
    """The next slice that `main` writes. EOFError when there is none."""
    number, messages, *sizes = FRAME.unpack(_whole(pipe, FRAME.size))
    rows, changes, blocks, grams, heard = (_whole(pipe, size) for size in sizes)
    return Slice(number, messages, rows, changes, blocks, grams, array("q", heard))


def _whole(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def widen(pipe: int, size: int) -> None:
    """So that a process can make its next slice while this one is being read. Where the system can."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)


def main() -> int:
    """Standard input says what to make (see dumped); the slices go to standard output."""
    asked = json.loads(sys.stdin.buffer.readline())
    part, of = asked.pop("part"), asked.pop("of")
    plan = Plan(
        **{**asked, "until": datetime.fromisoformat(asked["until"]), "agents": tuple(asked["agents"])}
    )
    out = sys.stdout.buffer
    grams_.CACHED_WORDS = CACHED_WORDS
    try:
        for one in Slices(plan, marshal.load(sys.stdin.buffer)).all(part, of):
            parts = (one.rows, one.changes, one.blocks, one.grams, one.heard.tobytes())
            out.write(FRAME.pack(one.number, one.messages, *map(len, parts)))
            for piece in parts:
                out.write(piece)
            out.flush()
    except BrokenPipeError:  # who asked for them is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
