"""The WebSocket: many threads over one connection, and what is done in them, by frames.

A frame does what the HTTP call of its kind does, by the same code and out of the same bucket. Frames are
answered one after the other, in the order of coming.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import orjson
from sanic import Request

from server import messages, receipts
from server.base import log
from server.base.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    TooMany,
    Unauthorized,
    Unavailable,
    noted,
)
from server.base.front import outer
from server.base.http import Body, Query, answers, parsed, whole
from server.live.link import Gone, Link, accepted
from server.live.merged import UserReader, friends
from server.live.stream import Entered, current, enter, resync
from server.live.wire import WS

PATH = "/api/ws"
JOINED = 200  # threads that one connection follows, at most
BAD_FRAMES = 20  # that can't be read, more than good ones: then it is closed

USER = 0  # no thread's id
UNREADABLE, FAILED, AGAIN_LATER = 1008, 1011, 1013  # codes with which a connection is closed

ThreadId = Annotated[int, whole()]
Ref = Annotated[int, msgspec.Meta(ge=0, lt=2**53)] | Annotated[str, msgspec.Meta(max_length=128)]


class Frame(msgspec.Struct):
    """What a client sends: text, JSON. A ref comes back in the answer."""

    event: str
    data: msgspec.Raw = msgspec.Raw(b"{}")
    ref: Ref | None = None


class Join(Body):
    threadId: ThreadId
    since: str | None = None  # of any length: what is no cursor of ours gets a resync


class Leave(Body):
    threadId: ThreadId


class Send(messages.NewMessage, kw_only=True):
    threadId: ThreadId


class Typing(Body):
    threadId: ThreadId
    isTyping: bool


class Mark(receipts.Place, kw_only=True):
    threadId: ThreadId


class Ping(Body):
    pass


class Options(Query):
    lenient = True
    lastEventId: str | None = None
    feed: Literal["on", "off"] = "on"
    token: str | None = None


@answers({101: None}, {403: "foreign_origin", 400: "bad_handshake", 426: "upgrade_required", 503: "stopping"})
async def open_socket(request: Request, query: Options) -> None:
    """Follow many threads, and write in them, over one WebSocket.

    Frames are text, JSON: {"event", "data", "ref"?}. One with a ref (text or a whole number) is answered by an `ack`
    or an `error` {"code", "message"} with that ref; an error comes without one too. `join` with `since` (the id of an
    event) first gets everything since then. Then come the events of the thread, those of its stream over SSE, each
    durable one with its `id`. They end with `left`: after a `leave`, or when the caller is no longer a member.
    Without feed=off those of the user stream come too, `ready` first, from lastEventId on or from now.
    A frame takes as much of the limits as the HTTP call of its kind. A page of another origin is let in with a token,
    if its origin is listed; with the cookie never. Closed with 1012 when the server restarts, 4401 when the session
    has ended, 1009 for a frame of more than 256 KiB, 1008 for many that can't be read or one not finished within 30 s,
    1007 for text that is not UTF-8.
    """
    ctx = request.app.ctx
    parser, headers = accepted(list(request.headers.items()), request.version)
    _let_in(request)
    if ctx.links.closing:
        raise Unavailable("The server is stopping; come back in a moment.", code="stopping")
    link = Link(request.stream.protocol, parser, braked=ctx.settings.rate_limits)  # type: ignore[union-attr]
    session_id = request.ctx.session_id
    if not ctx.endings.watch(session_id, link):
        raise Unauthorized("This session has ended.", code="session_ended")
    talk = Talk(ctx, link, user_id=request.ctx.user_id, request_id=request.ctx.request_id)
    try:
        with ctx.links.hold(link), ctx.presence.of(request.ctx.user_id):
            link.open(headers, outer(request, request.ctx.request_id))
            if query.feed == "on":
                talk.feed(query.lastEventId)
            await talk.run()
    except Exception as error:  # there is no HTTP answer to it any more
        noted(error, request.ctx.request_id)
        link.abort()
    finally:
        ctx.endings.unwatch(session_id, link)


def _let_in(request: Request) -> None:
    """Raises Forbidden for pages of other origins, BadRequest for a request with a body.

    A browser lets any page open a WebSocket, and tells where the page is from. One that can show a token has been
    given it, and still: what may not call us by HTTP (CORS) may not do so here. Programs send no Origin. The cookie
    is for our own pages alone: sessions.py sees to that.
    """
    origin = request.headers.get("origin")
    if origin is not None and not request.app.ctx.front.knows(origin, request):
        raise Forbidden("Pages of this origin may not connect.", code="foreign_origin")
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        raise BadRequest("A WebSocket handshake has no body.", code="bad_handshake")


class Talk:
    """What one client says and is told."""

    def __init__(self, ctx: Any, link: Link, *, user_id: int, request_id: str) -> None:
        self._ctx, self._link, self._user_id, self._request_id = ctx, link, user_id, request_id
        self._following: dict[int, asyncio.Task[None]] = {}  # by thread; USER: the user stream
        self._bad = 0

    async def run(self) -> None:
        """Until the connection is closed."""
        try:
            with contextlib.suppress(Gone):
                while (given := await self._link.receive()) is not None:
                    await self._answer(given)
        finally:
            await self._stop(*self._following)
        await self._link.finish()

    # -- frames

    async def _answer(self, given: bytes) -> None:
        started, frame, code = time.perf_counter(), Frame(""), "ok"
        try:
            frame = _frame(given)
            act = ACTS.get(frame.event)
            if act is None:
                raise BadRequest("There is no such event.", code="unknown_event")
            body = parsed(bytes(frame.data), act.body)
            self._bad = max(0, self._bad - 1)
            if act.cost is not None:
                await self._ctx.limits.take(act.cost, self._user_id)
            await act.run(self, body, frame.ref)
        except Gone:
            raise
        except Exception as error:
            problem = noted(error, self._request_id)
            code = problem.code
            said: dict[str, Any] = {"code": code, "message": problem.sentence}
            if problem.details:
                said["details"] = problem.details
            if "Retry-After" in problem.headers:
                said["retryAfter"] = int(problem.headers["Retry-After"])
            await self._link.send(WS.answer("error", orjson.dumps(said), frame.ref))
            if problem.status == 400:
                self._bad += 1
                if self._bad > BAD_FRAMES:
                    self._link.leave(UNREADABLE, "too many frames that can't be read")
        finally:
            log.event(
                "frame",
                request_id=self._request_id,
                user_id=self._user_id,
                frame=frame.event if frame.event in ACTS else None,
                code=code,
                ms=round((time.perf_counter() - started) * 1000, 1),
            )

    async def _ack(self, ref: Ref | None, data: bytes = b"{}", *events: bytes) -> None:
        """Answer, and tell what follows from it."""
        frames = (WS.answer("ack", data, ref),) if ref is not None else ()
        if frames or events:
            await self._link.send(b"".join((*frames, *events)))

    # -- what is followed

    def feed(self, since: str | None) -> None:
        """Tell the user stream's events too, from a cursor on or from now."""
        following = self._following[USER] = asyncio.ensure_future(self._feed(since))
        following.add_done_callback(self._ended)

    async def _feed(self, since: str | None) -> None:
        merged = self._ctx.merged
        reader = UserReader(merged, self._user_id, self._link)
        try:
            cursor, missed = await merged.follow(reader, since)
            here = b'{"cursor":"%b"}' % cursor.encode()
            opening = WS.event("ready", cursor, here) + (WS.event("resync", cursor, here) if missed else b"")
            await self._link.send(opening + await friends(self._ctx, self._user_id, WS))
            await reader.run()
        finally:
            merged.leave(reader)

    async def join(self, body: Join, ref: Ref | None) -> None:
        """Joining again begins anew."""
        await self._stop(body.threadId)
        if len(self._following) - (USER in self._following) >= JOINED:
            raise TooMany(
                f"This connection follows {JOINED} threads; leave one.",
                code="too_many_joined",
                retry_after=10,
            )
        entered = await enter(self._ctx, self._user_id, body.threadId, since=body.since, outlet=self._link)
        said = {"threadId": body.threadId, "cursor": entered.cursor, "lastSeq": entered.last_seq}
        joined = WS.event("joined", entered.cursor, orjson.dumps(said))
        missed = resync(WS, body.threadId, entered.cursor) if entered.missed else b""
        try:
            await self._ack(ref, b"{}", joined, missed)
        except BaseException:
            self._ctx.hub.leave(entered.reader, entered.feed)
            raise
        following = asyncio.ensure_future(self._follow(body.threadId, entered))
        self._following[body.threadId] = following
        following.add_done_callback(partial(self._followed, body.threadId, entered))

    async def _follow(self, thread_id: int, entered: Entered) -> None:
        reader = entered.reader
        if now := await current(self._ctx, self._user_id, thread_id, WS):
            await self._link.send(now)
        await reader.run(entered.feed)
        if reader.reason is not None:
            await self._link.send(_left(thread_id, reader.reason))

    def _followed(self, thread_id: int, entered: Entered, done: "asyncio.Task[None]") -> None:
        """Whatever has ended it."""
        self._ctx.hub.leave(entered.reader, entered.feed)
        self._ctx.typists.left(self._user_id, thread_id)
        if self._following.get(thread_id) is done:
            del self._following[thread_id]
        self._ended(done)

    def _ended(self, done: "asyncio.Task[None]") -> None:
        """Nobody waits for it: when it has failed, the client is to come back."""
        error = None if done.cancelled() else done.exception()
        if error is not None and not isinstance(error, Gone):
            problem = noted(error, self._request_id)
            self._link.leave(AGAIN_LATER if problem.status == 503 else FAILED, problem.code)

    async def _stop(self, *thread_ids: int) -> None:
        tasks = [self._following.pop(one) for one in thread_ids if one in self._following]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def leave(self, body: Leave, ref: Ref | None) -> None:
        """No longer follow a thread; one stays a member."""
        await self._stop(body.threadId)
        await self._ack(ref, b"{}", _left(body.threadId, "asked"))

    async def send(self, body: Send, ref: Ref | None) -> None:
        message, _ = await messages.deliver(
            self._ctx, self._user_id, body.threadId, body, client_id=body.clientId
        )
        await self._ack(ref, f'{{"message":{message}}}'.encode())

    async def typing(self, body: Typing, ref: Ref | None) -> None:
        if not await self._ctx.typists.type(self._user_id, body.threadId, typing=body.isTyping):
            raise NotFound()
        await self._ack(ref)

    async def read(self, body: Mark, ref: Ref | None) -> None:
        state = await receipts.move(self._ctx, self._user_id, body.threadId, body.seq, "read")
        await self._ack(ref, state.encode())

    async def delivered(self, body: Mark, ref: Ref | None) -> None:
        state = await receipts.move(self._ctx, self._user_id, body.threadId, body.seq, "delivered")
        await self._ack(ref, state.encode())

    async def ping(self, body: Ping, ref: Ref | None) -> None:
        await self._ack(ref, b"{}", WS.event("pong", None, b"{}"))


@dataclass(frozen=True)
class Act:
    """What a frame says, what it takes of the limits, and what it does."""

    body: type[Body]
    cost: str | None  # as beside the call of its kind in ROUTES
    run: Callable[[Talk, Any, Ref | None], Awaitable[None]]


ACTS = {
    "join": Act(Join, "stream", Talk.join),
    "leave": Act(Leave, None, Talk.leave),
    "send": Act(Send, "send", Talk.send),
    "typing": Act(Typing, "write", Talk.typing),
    "read": Act(Mark, "write", Talk.read),
    "delivered": Act(Mark, "write", Talk.delivered),
    "ping": Act(Ping, None, Talk.ping),
}
open_socket.frames = {name: act.body for name, act in ACTS.items()}  # type: ignore[attr-defined]  # see openapi.py
_FRAMES = msgspec.json.Decoder(Frame)


def _frame(given: bytes) -> Frame:
    """Raises BadRequest."""
    try:
        return _FRAMES.decode(given)
    except msgspec.ValidationError:
        raise BadRequest('A frame is {"event", "data"?, "ref"?}.', code="bad_frame") from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise BadRequest("This is not valid JSON.", code="not_json") from None


def _left(thread_id: int, reason: str) -> bytes:
    return WS.event("left", None, orjson.dumps({"threadId": thread_id, "reason": reason}))
