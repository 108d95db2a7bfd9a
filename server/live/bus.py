"""The doorbell: Redis pub/sub between the workers. Losing it makes delivery late, never lost.

One connection listens, on one channel for each thread that this worker's readers follow; another
publishes. Both are made without retries: a retried subscription loses messages without a word (FACTS 3),
and here a word is all that is needed, for the log has everything. Channels name the life of the log, for
several logs may share a Redis: its database numbers don't separate pub/sub.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable

import redis.asyncio as redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from server.base import log

CHANGED_SECONDS = 0.01  # between two times that it is said
# Topics, besides a channel for each thread: always subscribed, where somebody listens (`Bus.on`).
CHANGED = "changed"  # something, of whatever thread
ENDED = "ended"  # the ids of sessions that are over
PRESENCE = "presence"  # who came and who went
STAFF = "staff"  # the ids of those who came to the staff, or left it
TYPING = "typing"
PING_SECONDS = 2.0
SILENCE_SECONDS = 6.0  # no pong for so long: the server hangs or the line is dead
RECONNECT_SECONDS = (0.05, 1.0)
# Of doorbells not yet published; more are dropped, and found by the readers' poll.
PENDING_BYTES = 8 * 1024 * 1024
AWAY = (RedisError, OSError, asyncio.TimeoutError)


def channel_of(epoch: str, topic: int | str) -> str:
    """Where the doorbell of a thread rings, or that of a topic, as ENDED."""
    return f"bobbin:{epoch}:{topic}"


class Bus:
    """Rings doorbells, and hears those that others ring.

    heard(thread_id, payload): a doorbell. told(thread_id, name, key, data, but): something that is so at the moment.
    joined(thread_id): a subscription stands from now on. doubt(reason): something may have been missed.
    ended(payload): sessions are over.
    """

    def __init__(
        self,
        url: str,
        *,
        heard: Callable[[int, bytes], None],
        told: Callable[[int, str, str, bytes, int], None],
        joined: Callable[[int], None],
        doubt: Callable[[str], None],
        ended: Callable[[bytes], None],
    ) -> None:
        self.up = False  # whether the listening connection stands
        self._url, self._heard, self._told, self._joined, self._doubt = url, heard, told, joined, doubt
        self._topics: dict[str, Callable[[bytes], None]] = {ENDED: ended}
        self._stands: dict[str, Callable[[], None]] = {}
        self._me = secrets.token_hex(4)  # so that what was told here is not told again when it comes back
        self._epoch = ""
        self._threads: set[int] = set()
        self._saying = False  # CHANGED, in a moment
        self._outbox: deque[tuple[str, str | bytes]] = deque()
        self._pending_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._flushing = self._closing = False
        self._settled = asyncio.Event()  # not just connecting
        self._settled.set()
        self._unrung = ""  # why nothing could be published, if so
        self._publisher = self._client()
        self._pubsub: PubSub | None = None

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(
            self._url,
            protocol=3,
            socket_timeout=5,
            socket_connect_timeout=2,
            retry=None,
            health_check_interval=0,
        )

    def on(
        self, topic: str, heard: Callable[[bytes], None], *, stands: Callable[[], None] | None = None
    ) -> None:
        """Hear what is posted to a topic, by this worker too. To be said before `start`.

        stands(): the subscription stands from now on; what was posted before may have been missed.
        """
        self._topics[topic] = heard
        if stands is not None:
            self._stands[topic] = stands

    def start(self, *, epoch: str) -> None:
        """Begin to listen, in the background, for as long as the worker lives."""
        self._epoch = epoch
        self._spawn(self._listen())

    async def close(self) -> None:
        """Publish what is pending, then stop."""
        if self._saying:
            self._say_changed()
        # What is posted from now on would open the connection again, for nobody to close.
        self._closing = True
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(1):
                while self._flushing:  # noqa: ASYNC110  # seldom, and not for long
                    await asyncio.sleep(0.01)
                await self._flush()
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(1):
                await (
                    self._settled.wait()
                )  # cancelled now, a connection that is just being made would stay open
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(*AWAY):
            await self._publisher.aclose()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def answers(self) -> bool:
        """Whether Redis is there, within a second."""
        try:
            async with asyncio.timeout(1):
                return bool(await self._publisher.ping())
        except AWAY:
            return False

    # -- ringing

    def ring(self, thread_id: int, rev: int) -> None:
        """There is something up to rev: read the log."""
        self._ring(thread_id, str(rev))

    def ring_message(
        self, thread_id: int, rev: int, seq: int, quoted: int | None, message: str, bare: str | None
    ) -> None:
        """A new message, with the bytes that every reader gets: nobody need ask the database."""
        self._ring(thread_id, f"{rev} {seq} {quoted or 0}\n{message}\n{bare or ''}")

    def ring_ended(self, session_ids: Iterable[int]) -> None:
        """These sessions are over."""
        if ids := " ".join(str(one) for one in session_ids):
            self.post(ENDED, ids)

    def tell(self, thread_id: int, name: str, key: str, data: bytes, but: int = 0) -> None:
        """Tell the readers of a thread, all but one user, what is so at the moment: an event that is in no log.

        It takes the place of what has the same name and key (words without blanks); whoever is busy may miss it.
        """
        self._told(thread_id, name, key, data, but)
        self.post(thread_id, f"~{name} {key} {but} {self._me}\n".encode() + data)

    def changed(self) -> None:
        """Something has changed that user streams tell of: what is rung for, and what concerns one person alone.

        This worker's own readers need not wait; the others are told a little later, once for all that comes meanwhile.
        """
        if (heard := self._topics.get(CHANGED)) is not None:
            heard(b"")
        if not self._saying:
            self._saying = True
            asyncio.get_running_loop().call_later(CHANGED_SECONDS, self._say_changed)

    def _say_changed(self) -> None:
        self._saying = False
        self.post(CHANGED, self._me)

    def _ring(self, thread_id: int, payload: str) -> None:
        self._heard(thread_id, payload.encode())  # this worker's own readers need not wait for Redis
        self.post(thread_id, payload)
        self.changed()

    def post(self, topic: int | str, payload: str | bytes) -> None:
        """Publish; dropped when too much waits to be published, or nobody is left to do it."""
        if self._closing or self._pending_bytes > PENDING_BYTES:
            return
        self._outbox.append((channel_of(self._epoch, topic), payload))
        self._pending_bytes += len(payload)
        if not self._flushing:
            self._flushing = True
            self._spawn(self._flush())

    def _next(self) -> tuple[str, str | bytes]:
        channel, payload = self._outbox.popleft()
        self._pending_bytes -= len(payload)
        return channel, payload

    async def _flush(self) -> None:
        try:
            while self._outbox:
                if len(self._outbox) == 1:  # as mostly: a pipeline costs twice as much
                    await self._publisher.publish(*self._next())
                else:
                    pipe = self._publisher.pipeline(transaction=False)
                    for _ in range(min(len(self._outbox), 200)):
                        pipe.publish(*self._next())
                    await pipe.execute()
                self._unrung = ""
        except Exception as error:  # nothing here may stop the next doorbell
            self._outbox.clear()
            self._pending_bytes = 0
            reason = type(error).__name__  # not its text, which may be a message's
            if reason != self._unrung:  # each message says it again
                log.event("bus.unrung", level="warning", reason=reason)
            self._unrung = reason
        finally:
            self._flushing = False

    # -- listening

    async def follow(self, thread_id: int) -> None:
        """Listen for a thread from now on, also after a reconnect."""
        self._threads.add(thread_id)
        if self.up and self._pubsub is not None:
            with contextlib.suppress(*AWAY):  # the listener meets the same error and reconnects
                await self._pubsub.subscribe(channel_of(self._epoch, thread_id))

    async def unfollow(self, thread_id: int) -> None:
        """No longer."""
        self._threads.discard(thread_id)
        if self.up and self._pubsub is not None:
            with contextlib.suppress(*AWAY):
                await self._pubsub.unsubscribe(channel_of(self._epoch, thread_id))

    async def _listen(self) -> None:
        pause, told = RECONNECT_SECONDS[0], ""
        while (
            not self._closing
        ):  # being cancelled in a call to Redis may look like its failing, or like nothing
            client = self._client()
            self._settled.clear()
            try:
                async with client.pubsub() as pubsub:
                    # One at least: before that a pub/sub connection cannot listen.
                    topics: list[int | str] = [*self._topics, *self._threads]
                    await pubsub.subscribe(*(channel_of(self._epoch, topic) for topic in topics))
                    self._pubsub, self.up = pubsub, True
                    self._settled.set()
                    pause = RECONNECT_SECONDS[0]
                    self._doubt("connected")  # whatever was rung before is not known here
                    await self._hear(pubsub)
            except Exception as error:  # whatever it is: the listener must not die
                reason = f"{type(error).__name__}: {error}"[:200]
            finally:
                was_up, self.up, self._pubsub = self.up, False, None
                self._settled.set()
                with contextlib.suppress(*AWAY):
                    await client.aclose()
            if self._closing:
                return
            if was_up:
                log.event("bus.lost", level="warning", reason=reason)
                self._doubt("lost")
            elif reason != told:  # each try says it again
                log.event("bus.away", level="warning", reason=reason)
            told = reason
            await asyncio.sleep(pause)
            pause = min(pause * 2, RECONNECT_SECONDS[1])

    async def _hear(self, pubsub: PubSub) -> None:
        """Until the connection fails. A hanging server never fails by itself: hence the pings."""
        heard_at = pinged_at = time.monotonic()
        while not self._closing:
            message = await pubsub.get_message(timeout=1.0)
            now = time.monotonic()
            if message is not None:
                heard_at = now
                _, _, topic = (message["channel"] or b"").rpartition(b":")
                if message["type"] == "message":
                    self._arrived(topic, message["data"])
                elif message["type"] == "subscribe" and topic.isdigit():
                    self._joined(int(topic))
                elif message["type"] == "subscribe" and (stands := self._stands.get(topic.decode())):
                    stands()
            if now - heard_at > SILENCE_SECONDS:
                raise TimeoutError("silence")
            if now - pinged_at > PING_SECONDS:
                pinged_at = now
                await pubsub.ping()

    def _arrived(self, topic: bytes, payload: bytes) -> None:
        if not topic.isdigit():
            if topic != CHANGED.encode() or payload != self._me.encode():
                self._topics[topic.decode()](payload)
        elif payload.startswith(b"~"):
            head, _, data = payload[1:].partition(b"\n")
            name, key, but, whose = head.decode().split(" ")
            if whose != self._me:
                self._told(int(topic), name, key, data, int(but))
        else:
            self._heard(int(topic), payload)
