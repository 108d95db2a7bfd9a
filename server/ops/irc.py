r"""IRC logs: lines to records, and the clock that turns times of day into moments.

    [HH:MM] <nick> text          a message
    [HH:MM]  * nick does         an action (/me)
    [HH:MM] -nick:#channel- text a notice
    === anything                 the server's or client's own words: joins, leaves, renames; left out

Everything else is unreadable and named, among it relayed lines such as `[01:09] (nick/#channel) text`.
Formatting codes (bold, colours, reverse and so on) are taken out of the text, and so are the other
control characters except the tab: they are invisible, or move a terminal's cursor. A NUL makes the
line unreadable. A line that is not UTF-8 is read as cp1252, as IRC clients do.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from server.ops.records import NAME_CHARS, TEXT_CHARS, Fault, Form, Item, LeftOut, Options, Record, Source

HOUR, HALF_DAY, DAY = 3600, 43_200, 86_400
LINE_BYTES = (
    65_536  # 10,000 characters fit in, with their codes; a file without newlines does not fill the memory
)
STAMP = re.compile(rb"\[[0-9]{2}:[0-9]{2}(?::[0-9]{2})?\] ")
DOES = re.compile(r" ?\*\s+(\S+)(.*)", re.S)
NOTICE = re.compile(r"-([^\s:]+):[#&]\S*?-(.*)", re.S)
NAMED_DAY = re.compile(r"(?<!\d)(\d{4})([-_.]?)(\d\d)\2(\d\d)(?!\d)")
CODES = re.compile(
    r"\x03(?:[0-9]{1,2}(?:,[0-9]{1,2})?)?"
    r"|\x04(?:[0-9A-Fa-f]{6}(?:,[0-9A-Fa-f]{6})?)?"
    r"|[\x01-\x08\x0a-\x1f\x7f-\x9f]"
)
KINDS = (  # of what the server says, for the report; the first that fits
    ("renamed", re.compile(r" is now known as ")),
    ("joined", re.compile(r"\]\s+has joined |entered the room")),
    ("left", re.compile(r"\]\s+has (left|quit)|left the room")),
)


class Said(NamedTuple):  # made for each line, and a frozen dataclass costs three times as much
    """A line in which somebody says something."""

    second: int  # of the day, as written
    nick: str
    text: str
    form: Form | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    reason: str
    second: int | None = None  # the line's time where it has one: the clock goes on by it


def read(raw: bytes) -> Said | LeftOut | Unreadable:
    """One line, without its newline. Never raises."""
    if raw.startswith(b"==="):
        words = decoded(raw)
        return LeftOut(next((kind for kind, form in KINDS if form.search(words)), "other"))
    stamp = STAMP.match(raw)
    if stamp is None:
        return Unreadable("a line of no known form" if raw.strip() else "an empty line")
    second = second_of_day(stamp[0])
    if second is None:
        return Unreadable("no such time of day")
    if len(raw) > LINE_BYTES:
        return Unreadable(f"more than {LINE_BYTES:,} bytes", second)
    if b"\0" in raw:
        return Unreadable("a NUL byte", second)
    words = decoded(raw[stamp.end() :])
    form: Form | None = None
    if words.startswith("<"):
        nick, closed, text = words[1:].partition(">")
        if not closed:
            return Unreadable("a line of no known form", second)
    elif found := DOES.fullmatch(words):
        nick, text, form = found[1], found[2], "action"
    elif found := NOTICE.fullmatch(words):
        nick, text, form = found[1], found[2], "notice"
    else:
        return Unreadable("a line of no known form", second)
    nick, text = clean(nick).lstrip("@+%&~! "), clean(text)
    if not nick or len(nick) > NAME_CHARS:
        return Unreadable("no nickname" if not nick else "a nickname that is too long", second)
    if not text or len(text) > TEXT_CHARS:
        return Unreadable("no text" if not text else f"more than {TEXT_CHARS:,} characters", second)
    return Said(second, nick, text, form)


@lru_cache(maxsize=2048)  # the minutes of a day: logs repeat them
def second_of_day(stamp: bytes) -> int | None:
    hour, minute, second = (*map(int, stamp.strip(b"[] ").split(b":")), 0)[:3]
    return hour * HOUR + minute * 60 + second if hour < 24 and minute < 60 and second < 60 else None


def decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:  # five bytes mean nothing in cp1252
        return raw.decode("latin-1")


def clean(text: str) -> str:
    text = text.strip()
    return text if text.isprintable() else CODES.sub("", text).strip()


@dataclass(slots=True)
class Clock:
    """Seconds since the midnight before the first line, from times of day in the order of the lines.

    A time that falls by up to an hour is a clock that was set back (the writer of the records keeps
    their order); one that falls further has passed midnight, or noon on a twelve-hour clock.
    """

    turn: int  # what a fall adds: DAY or HALF_DAY
    turned: int = 0
    before: int = 0

    def at(self, second: int) -> int:
        if self.before - second > HOUR:
            self.turned += self.turn
        self.before = second
        return self.turned + second


@dataclass(frozen=True, slots=True)
class Times:
    """What a look through all times of a file tells."""

    turn: int
    first: int  # in seconds of the file's own clock
    last: int


def times(path: Path) -> Times | None:
    """The file's clock. None when no line has a time.

    Logs of the #ubuntu channel up to 2007 were written on a twelve-hour clock without am and pm:
    12:59 is followed by 01:00, or 11:59 by 00:00. A file is taken for such a one when it shows no
    hour after 12 and each fall of its time is, on that clock, a step of less than an hour. Which
    half of the day it begins in is not known: it is read as written.
    """
    top = falls = before = 0
    first, halved = None, True
    for _, _, raw in lines(path):
        stamp = STAMP.match(raw)
        second = second_of_day(stamp[0]) if stamp else None
        if second is None:
            continue
        if first is None:
            first = before = second
        if second != before:
            if before - second > HOUR:
                falls += 1
                halved &= 0 <= second + HALF_DAY - before < HOUR
            top, before = max(top, second), second
    if first is None:
        return None
    turn = HALF_DAY if halved and max(top, first) < 13 * HOUR else DAY
    return Times(turn, first, falls * turn + before)


def lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, length in the file and bytes of each line; of one beyond LINE_BYTES only the beginning."""
    most = LINE_BYTES + 2
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(most):
            number, size = number + 1, len(raw)
            if size == most:
                rest = raw
                while not rest.endswith(b"\n") and (rest := file.readline(most)):
                    size += len(rest)
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
            yield number, size, raw.removesuffix(b"\n").removesuffix(b"\r")


def sources(paths: Sequence[Path], options: Options) -> list[Source]:
    """The files in the order of their times. Raises OSError where one cannot be read."""
    found = [source(path, options) for path in paths]
    return sorted(found, key=lambda s: (s.first or datetime.max.replace(tzinfo=UTC), s.name))


def source(path: Path, options: Options) -> Source:
    """One file and its times: by the date in its name, by options.day, or back from its mtime."""
    stat, span, note = path.stat(), times(path), ""
    day = day_named(path.name) or options.day
    if span is not None and day is None:
        end = datetime.fromtimestamp(stat.st_mtime, options.zone)
        midnight = datetime.combine(end.date(), time(), options.zone)
        late = span.last % DAY > (end - midnight).total_seconds()
        day = end.date() - timedelta(days=span.last // DAY + late)
        note = f"no date in its name and no --date: begun on {day}, if its last line is as old as the file"
    begin = day or date(1970, 1, 1)
    name = str(path.name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Source(
        name=name,
        path=path,
        size_bytes=stat.st_size,
        first=moment(begin, span.first, options) if span else None,
        last=moment(begin, span.last, options) if span else None,
        items=partial(items, begin=begin, turn=span.turn if span else DAY, options=options),
        note=note,
    )


def day_named(name: str) -> date | None:
    for found in NAMED_DAY.finditer(name):
        try:
            return date(int(found[1]), int(found[3]), int(found[4]))
        except ValueError:
            continue
    return None


def moment(day: date, second: int, options: Options) -> datetime:
    """Wall-clock seconds since a day's first midnight, as a moment in UTC."""
    wall = datetime.combine(day, time()) + timedelta(seconds=second)
    return wall.replace(tzinfo=options.zone).astimezone(UTC)


def items(of: Source, *, begin: date, turn: int, options: Options) -> Iterator[Item]:
    """Every line of the file, exactly once."""
    clock, shown, when = Clock(turn), -1, datetime.min
    for number, size, raw in lines(of.path):
        of.read_bytes += size
        line = read(raw)
        if isinstance(line, LeftOut):
            yield line
            continue
        if line.second is not None and (second := clock.at(line.second)) != shown:
            shown, when = second, moment(begin, second, options)
        if isinstance(line, Said):
            yield Record(when, line.nick, line.text, line.form, None, of.name, number)
        else:
            yield Fault(of.name, number, line.reason)
