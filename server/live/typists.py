"""Who types. SQL: db/queries/presence.sql.

Every worker knows all of it, and forgets it after some seconds: it is told on the bus and stored nowhere. So each ends
it by itself for its own readers, also when the worker is dead that somebody typed at.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import orjson
from sanic import Request
from sanic.response import HTTPResponse

from server import members
from server.base.db import Db
from server.base.errors import NotFound
from server.base.http import Body, answers, empty
from server.live import presence
from server.live.bus import TYPING
from server.live.presence import SHOWN, Rounds

# Of one thread: so many are told of at once, in the order of beginning. More say nothing to a reader, and would make a
# large thread dear.
TOLD = 20
SAID_AT_ONCE = 1000
LOOK_SECONDS = 0.05  # between two looks for what is over


@dataclass(frozen=True)
class Spells:
    """Seconds."""

    typing: float = 5.0  # after which it is over unless it is said again
    pause: float = 2.0  # in which it is not said again of one person and thread
    batch: float = 0.05  # in which what is said to the other workers is gathered


@dataclass(slots=True)
class Room:
    """A thread in which somebody types."""

    typing: dict[int, None] = field(default_factory=dict)  # in the order of beginning
    told: set[int] = field(default_factory=set)  # those of them of whom the readers know


class Typists:
    """Who types where. post(topic, payload): publish on the bus."""

    def __init__(
        self,
        db: Db,
        *,
        on: bool,
        hub: Rounds,
        post: Callable[[str, str], None],
        spells: Spells = Spells(),
    ) -> None:
        self._db, self._on, self._hub, self._post, self._spells = db, on, hub, post, spells
        self._worker = secrets.token_hex(6)
        # thread and person: until when; the first to end first
        self._until: dict[tuple[int, int], float] = {}
        self._here: set[tuple[int, int]] = set()  # of them those who said it last at this worker
        self._said_at: dict[tuple[int, int], float] = {}  # in the order of saying
        self._rooms: dict[int, Room] = {}
        self._unsaid: list[tuple[int, int, bool]] = []
        self._timer: asyncio.TimerHandle | None = None

    # -- people

    async def type(self, user_id: int, thread_id: int, *, typing: bool) -> bool:
        """Somebody types, or no longer. False for somebody who is not a member. Raises what the database raises.

        Said again within the pause it changes nothing, and nobody is asked about it.
        """
        place = (thread_id, user_id)
        if not self._on:
            return True
        if typing and time.monotonic() < self._said_at.get(place, 0.0) + self._spells.pause:
            return True
        if not typing and place in self._until:
            self.stop(user_id, thread_id)
            return True
        door = partial(presence.door, self._db, user_id=user_id, thread_id=thread_id)
        found = await members.inside(self._db, user_id, thread_id, door)
        if found is None:
            return False
        if typing and not found["apart"]:
            self._begin(place)
            self._here.add(place)
            self._say(place, typing=True)
        return True

    def stop(self, user_id: int, thread_id: int) -> None:
        """Somebody no longer types: they have sent it, or are gone."""
        if (place := (thread_id, user_id)) in self._until:
            self._end(place)
            self._say(place, typing=False)

    def left(self, user_id: int, thread_id: int) -> None:
        """A stream of somebody has ended (and is no longer among the hub's): so has their typing, if it was the one.

        What they type on another device goes on, which may be at another worker, and ends by itself.
        """
        if (thread_id, user_id) in self._here and not self._hub.follows(user_id, thread_id):
            self.stop(user_id, thread_id)

    async def of(self, thread_id: int, *, reader_id: int) -> list[int]:
        """Who types in a thread, at most SHOWN, as one of its members may know it."""
        room = self._rooms.get(thread_id)
        return await self._shown(thread_id, list(islice(room.typing, SHOWN)), reader_id) if room else []

    async def events(self, thread_id: int, *, reader_id: int) -> list[bytes]:
        """For somebody who joins: those of whom the others have been told."""
        room = self._rooms.get(thread_id)
        told = await self._shown(thread_id, list(room.told - {reader_id}), reader_id) if room else []
        return [event(thread_id, one, typing=True) for one in told]

    async def _shown(self, thread_id: int, user_ids: list[int], reader_id: int) -> list[int]:
        """Without those whom this worker has not heard of leaving."""
        if not user_ids:
            return []
        rows = await presence.typing(self._db, user_id=reader_id, thread_id=thread_id, user_ids=user_ids)
        shown = {row["user_id"] for row in rows}
        return [one for one in user_ids if one in shown]

    # -- between the workers

    def heard(self, payload: bytes) -> None:
        """A worker says who began and ended."""
        with contextlib.suppress(ValueError, TypeError):
            worker, said = orjson.loads(payload)
            if worker == self._worker or not self._on:
                return
            for thread_id, user_id, typing in said:
                place = (int(thread_id), int(user_id))
                self._here.discard(place)
                if typing:
                    self._begin(place)
                else:
                    self._end(place)

    def _say(self, place: tuple[int, int], *, typing: bool) -> None:
        if not self._unsaid:
            asyncio.get_running_loop().call_later(self._spells.batch, self._say_all)
        self._unsaid.append((*place, typing))

    def _say_all(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        for start in range(0, len(unsaid), SAID_AT_ONCE):
            some = unsaid[start : start + SAID_AT_ONCE]
            self._post(TYPING, orjson.dumps([self._worker, some]).decode())

    # -- to the readers here

    def _begin(self, place: tuple[int, int]) -> None:
        thread_id, user_id = place
        now = time.monotonic()
        self._until.pop(place, None)
        self._until[place] = now + self._spells.typing
        room = self._rooms.setdefault(thread_id, Room())
        room.typing[user_id] = None
        # Half of it, for what two workers were told at the same time: what one lets through after the pause may be
        # heard a little sooner after the last.
        paused = now < self._said_at.pop(place, 0.0) + self._spells.pause / 2
        self._said_at[place] = now
        if not paused and (user_id in room.told or len(room.told) < TOLD):
            room.told.add(user_id)
            self._tell(place, typing=True)
        self._arm()

    def _end(self, place: tuple[int, int]) -> None:
        thread_id, user_id = place
        if self._until.pop(place, None) is None:
            return
        self._here.discard(place)
        self._said_at.pop(place, None)  # said again it is news
        room = self._rooms[thread_id]
        del room.typing[user_id]
        if user_id in room.told:
            room.told.discard(user_id)
            self._tell(place, typing=False)
        if not room.typing:
            del self._rooms[thread_id]

    def _tell(self, place: tuple[int, int], *, typing: bool) -> None:
        thread_id, user_id = place
        self._hub.told(thread_id, "typing", str(user_id), event(thread_id, user_id, typing=typing), user_id)

    def _arm(self) -> None:
        """Look again when the first is over."""
        if self._timer is None and (self._until or self._said_at):
            ends = [*islice(self._until.values(), 1)]
            ends += [at + self._spells.pause for at in islice(self._said_at.values(), 1)]
            wait = max(LOOK_SECONDS, min(ends) - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._look)

    def _look(self) -> None:
        now, self._timer = time.monotonic(), None
        for place, until in list(self._until.items()):
            if until > now:
                break  # those behind end later
            self._end(place)
        for place, at in list(self._said_at.items()):
            if at + self._spells.pause > now:
                break
            del self._said_at[place]
        self._arm()


def event(thread_id: int, user_id: int, *, typing: bool) -> bytes:
    return orjson.dumps({"threadId": thread_id, "userId": user_id, "isTyping": typing})


async def joining(ctx: Any, user_id: int, thread_id: int) -> list[tuple[str, bytes]]:
    """What is told to whoever begins to follow a thread (stream.current)."""
    return [("typing", data) for data in await ctx.typists.events(thread_id, reader_id=user_id)]


class Typing(Body):
    isTyping: bool


@answers({204: None})
async def post_typing(request: Request, thread_id: int, body: Typing) -> HTTPResponse:
    """Say that I type, each two seconds or so, or that I no longer do; it ends by itself after five.

    Said again within two seconds it changes nothing. It also ends when I send a message there, and mostly when the last
    stream of it ends that I follow. In a direct thread of two of whom one has blocked the other, it is told to nobody.
    """
    typists: Typists = request.app.ctx.typists
    if not await typists.type(request.ctx.user_id, thread_id, typing=body.isTyping):
        raise NotFound()
    return empty()
