"""What every import format reads its input into: records, faults, and what it leaves out on purpose."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, tzinfo
from pathlib import Path
from typing import Literal, TypeAlias

Form = Literal["action", "notice"]
TEXT_CHARS = 10_000  # the longest text a message may have (contract)
NAME_CHARS = 100  # no network allows names of this length: a longer one is a damaged line


@dataclass(frozen=True, slots=True)
class Record:
    """One message to be, wherever it comes from."""

    when: datetime  # aware, UTC; moved up when the thread already stands later
    author: str  # the name as written there
    text: str  # trimmed, 1 to TEXT_CHARS characters, no NUL
    form: Form | None = None
    reply_to: int | None = None  # a seq of the same thread
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that cannot be read, and why."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A line that was understood and is no message, by kind ("joined", "renamed" and so on)."""

    kind: str


Item: TypeAlias = Record | Fault | LeftOut


@dataclass(slots=True)
class Source:
    """One file: looked through once for its times, read again when its turn comes."""

    name: str  # without its folder: the identity under which the progress is kept
    path: Path
    size_bytes: int
    first: datetime | None  # None: nothing in it has a time
    last: datetime | None
    items: Callable[["Source"], Iterator[Item]]
    note: str = ""  # what was assumed about it, to be told before it is read
    read_bytes: int = field(default=0)  # how far items() has come, for the progress bar


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller knows and the files do not say."""

    day: date | None  # of files whose names hold no date
    zone: tzinfo  # of the times in the files
