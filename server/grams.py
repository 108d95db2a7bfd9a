"""What messages are found by: their text in small letters, cut into grams. Pure: no database, no clock.

A gram is a run of four characters of a word, its neighbouring blanks included, so that it says where a word begins
and ends, and shorter at the end; from a character of a script that is written without blanks (Chinese, Japanese,
Korean) it is two. All grams of a needle are grams of each message that has the needle, and what is too short for a
gram begins one; so an index of the grams leads to the few blocks of messages in which it may be, and a look at their
texts tells. With three, and blocks of half the size, the index is as large and leads to half as much again in vain.
"""

import asyncio
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

RUN = 4
# Of a block. A tsvector has at most a megabyte, and each character may be 16 bytes of it.
MESSAGES, CHARS = 1024, 60_000
AT_ONCE = 128  # messages whose grams are made before others have their turn
GRAMS = 32  # of a needle that are asked for; the text tells the rest
MARK = "\x01"  # between the texts of a block, and before a lexeme that is no gram; in no text (see fold)
PARTS, LEAST = 10, 2
WORD = re.compile(r'(?<!\S)"([^"]+)"(?!\S)|(\S+)')
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CACHED_WORDS, CACHED_LENGTH = 40_000, 16
AROUND, SNIPPET = 60, 240  # characters before the first hit, and in all

Key = tuple[int, int, int]  # at, thread_id, seq

_words: dict[str, frozenset[str]] = {}


class Entry(NamedTuple):
    """A message as a block has it. They compare as what is newest first has them, backwards."""

    at: int  # createdAt in microseconds
    thread_id: int
    seq: int
    author_id: int
    text: str  # folded
    inbox: bool  # whether the thread is a contact's

    @property
    def key(self) -> Key:
        return self[:3]


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of messages that follow each other in order of (at, thread_id, seq)."""

    entries: Sequence[Entry]

    def row(self) -> tuple[int, int, int, list[int], list[int], list[int], list[int], str]:
        """at, thread_id and seq of its first message; ats, thread_ids, seqs, author_ids and text."""
        at, thread_ids, seqs, author_ids, texts, _ = zip(*self.entries, strict=True)
        return (at[0], thread_ids[0], seqs[0], list(at), list(thread_ids), list(seqs), list(author_ids),
                MARK.join(texts))  # fmt: skip

    def grams(self) -> str:
        """What it is found by, as search_grams has it."""
        return "\n".join(grams_of(self.entries))

    async def grams_in_between(self) -> str:
        """The same on an event loop, for which 20 ms at once would be long."""
        found = set[str]()
        for begun in range(0, len(self.entries), AT_ONCE):
            found |= grams_of(self.entries[begun : begun + AT_ONCE])
            await asyncio.sleep(0)
        return "\n".join(found)


def micros(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - EPOCH) // MICROSECOND


def fold(text: str) -> str:
    """In small letters, as long as it was."""
    return _folded(text.replace(MARK, "\ufffd"))


def _folded(text: str) -> str:
    return (
        text.replace("İ", "i").lower().replace("ς", "σ")
    )  # the one that gets longer, and the one that has two


def wide(char: str) -> bool:
    """Whether it is of a script without blanks, with so many characters that two of them tell enough."""
    return (
        "\u2e80" <= char <= "\u9fff"
        or "\uac00" <= char <= "\ud7a3"
        or "\uf900" <= char <= "\ufaff"
        or "\uff66" <= char <= "\uff9f"
        or char >= "\U00020000"
    )


def _grams(word: str) -> frozenset[str]:
    """Of a word that is somewhere in a text."""
    said = f" {word} "
    if max(word) < "\u2e80":
        return frozenset([said[i : i + RUN] for i in range(len(word))])
    return frozenset([said[i : i + (2 if wide(said[i]) else RUN)] for i in range(len(word) + 1)])


def grams(texts: Iterable[str]) -> set[str]:
    """All grams of some folded texts."""
    found: list[frozenset[str]] = []
    known = _words.get
    for word in set(" ".join(texts).split()):
        one = known(word)
        if one is None:
            one = _grams(word)
            if len(word) <= CACHED_LENGTH:
                if len(_words) >= CACHED_WORDS:
                    _words.clear()
                _words[word] = one
        found.append(one)
    return set().union(*found)


def month_of(at: int) -> str:
    moment = EPOCH + timedelta(microseconds=at)
    return f"{MARK}m{moment.year}-{moment.month}"


def grams_of(entries: Sequence[Entry]) -> set[str]:
    """What a block with these is found by: grams, threads, authors, months, and whether it is of the inbox."""
    ats, thread_ids, _, author_ids, texts, inboxes = zip(*entries, strict=True)
    return _lexemes(ats, thread_ids, author_ids, texts, inboxes)


def _lexemes(
    ats: Iterable[int],
    thread_ids: Iterable[int],
    author_ids: Iterable[int],
    texts: Iterable[str],
    inboxes: Iterable[bool],
) -> set[str]:
    found = grams(texts)
    found.update([f"{MARK}t{one}" for one in set(thread_ids)])
    found.update([f"{MARK}a{one}" for one in set(author_ids)])
    # Of each hour a time, as months begin at full hours.
    found.update([month_of(hour * 3_600_000_000) for hour in {at // 3_600_000_000 for at in ats}])
    if any(inboxes):
        found.add(f"{MARK}c")
    return found


def pieces(entries: Sequence[Entry]) -> list[Piece]:
    """Blocks of messages that are in order."""
    found, begun, chars = list[Piece](), 0, 0
    for n, entry in enumerate(entries):
        chars += len(entry.text)
        if n > begun and (n - begun >= MESSAGES or chars > CHARS):
            found.append(Piece(entries[begun:n]))
            begun, chars = n, len(entry.text)
    if begun < len(entries):
        found.append(Piece(entries[begun:]))
    return found


def blocks_of(
    messages: Iterable[tuple[int, int, int, int, str, bool]], *, first_id: int = 1
) -> Iterator[tuple[tuple[object, ...], tuple[int, str]]]:
    """The rows of search_blocks and search_grams for messages in order of (at, thread_id, seq): for COPY.

    A message is at (microseconds, see micros), thread_id, seq, author_id, text (as written), and whether its thread is
    a contact's; without the deleted ones. The columns are BLOCK_COLUMNS and GRAM_COLUMNS.
    """
    waiting, chars = list[tuple[int, int, int, int, str, bool]](), 0
    for message in messages:
        size = len(message[4])
        if waiting and (len(waiting) >= MESSAGES or chars + size > CHARS):
            yield _rows(first_id, waiting)
            first_id, waiting, chars = first_id + 1, [], 0
        waiting.append(message)
        chars += size
    if waiting:
        yield _rows(first_id, waiting)


BLOCK_COLUMNS = ("id", "at", "thread_id", "seq", "ats", "thread_ids", "seqs", "author_ids", "text")
GRAM_COLUMNS = ("block_id", "grams")


def _rows(
    block_id: int, said: list[tuple[int, int, int, int, str, bool]]
) -> tuple[tuple[object, ...], tuple[int, str]]:
    """As of a Piece, but folded all at once, which takes a third of the time."""
    ats, thread_ids, seqs, author_ids, texts, inboxes = zip(*said, strict=True)
    text = MARK.join(texts)
    apart = text.count(MARK) == len(said) - 1
    text = _folded(text) if apart else MARK.join([fold(one) for one in texts])
    found = _lexemes(ats, thread_ids, author_ids, text.split(MARK), inboxes)
    columns = (list(ats), list(thread_ids), list(seqs), list(author_ids))
    return (block_id, ats[0], thread_ids[0], seqs[0], *columns, text), (block_id, "\n".join(found))


# ---- needles -----------------------------------------------------------------------------------


def parts_of(q: str) -> tuple[str, ...]:
    """What must all occur in one message, folded, the longest first: words, and phrases that stand in "…".

    None of them when no part has two characters, or there are too many.
    """
    found = dict.fromkeys(fold(match[1] or match[2]) for match in WORD.finditer(q))
    parts = sorted((part for part in found if part.strip()), key=len, reverse=True)
    if len(parts) > PARTS or not any(len(part.strip()) >= LEAST for part in parts):
        return ()
    return tuple(parts)


def lexemes_of(parts: Iterable[str]) -> list[str]:
    """What a block has that has these, as parts of a tsquery."""
    found = dict[str, None]()
    for part in parts:
        words = part.split()
        for n, word in enumerate(words):
            before = " " if n or part[0].isspace() else ""
            after = " " if n < len(words) - 1 or part[-1].isspace() else ""
            found.update(dict.fromkeys(_lexemes_of(before + word + after)))
    return list(found)[:GRAMS]


def _lexemes_of(said: str) -> list[str]:
    """Of a word of a needle. An end without a blank may be in the middle of a word."""
    whole, begun = list[str](), list[str]()
    for i, char in enumerate(said):
        if char == " " and i:
            continue  # a blank ends grams; it begins those of its word
        size = 2 if wide(char) else RUN
        if i + size <= len(said):
            whole.append(quoted(said[i : i + size]))
        elif i + 2 <= len(said) and said[i + 1] != " ":
            begun.append(quoted(said[i:]) + ":*")
    return whole or begun[:1]


def quoted(lexeme: str) -> str:
    """As a tsquery has it."""
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"


def has(text: str, parts: Iterable[str]) -> bool:
    """Whether a text as written has all of these."""
    folded = fold(text)
    return all(part in folded for part in parts)


def snippet(text: str, parts: Sequence[str]) -> str:
    """The text around its first hit as HTML, what was found in <mark>."""
    folded = fold(text)
    hits = [(match.start(), match.end()) for part in parts for match in re.finditer(re.escape(part), folded)]
    hits.sort()
    begun = max(0, hits[0][0] - AROUND) if hits else 0
    end = min(len(text), begun + SNIPPET)
    begun = max(0, end - SNIPPET) if begun else 0
    told, at = ["…" if begun else ""], begun
    for low, high in hits:
        low, high = max(low, at), min(high, end)
        if low < high:
            told.append(f"{html.escape(text[at:low])}<mark>{html.escape(text[low:high])}</mark>")
            at = high
    told.append(html.escape(text[at:end]) + ("…" if end < len(text) else ""))
    return "".join(told).replace("</mark><mark>", "")
