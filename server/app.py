"""The composition root: what there is, in the order in which it starts, and stops in reverse."""

import asyncio
import gc
from typing import Any

import asyncpg
import orjson
from sanic import Request, Sanic
from sanic.response import HTTPResponse

from server import openapi, receipts
from server.base import log
from server.base.access import RequestIds, Tokens
from server.base.answer import Answer, dress
from server.base.db import Connections, open_pool
from server.base.errors import AWAY, BadRequest
from server.base.front import ALWAYS, Front, garbled
from server.base.http import Cursors, drain
from server.base.limits import Limits
from server.base.niceness import step_back_backend
from server.base.passwords import Passwords
from server.base.replica import Replica
from server.base.settings import Settings
from server.base.tasks import Tasks, Turns
from server.inbox import Alarm
from server.live import changes, presence, typists
from server.live.bus import CHANGED, PRESENCE, STAFF, TYPING, Bus
from server.live.endings import Endings
from server.live.hub import Hub
from server.live.indexer import Indexer
from server.live.link import Links
from server.live.merged import Merged
from server.live.outlet import STALLED_SECONDS
from server.live.presence import Presence
from server.live.typists import Typists
from server.ops.archive import Retention
from server.pages import add_pages
from server.receipts import Receipts
from server.routes import ROUTES, add_routes, allowed, answer_to
from server.sessions import SignIns

DATABASE_SECONDS = 0.5  # between two looks for a database that is away when a worker begins
STREAMS_END_SECONDS = 3.0  # of the ten that a worker has to drain
TASKS_END_SECONDS = 4.0
REQUESTS_END_SECONDS = 8.0


def create_app(settings: Settings) -> Sanic[Any, Any]:
    """An app that serves these settings. Nothing connects before it starts."""
    log.set_level(settings.log_level)
    app: Sanic[Any, Any] = Sanic("bobbin", configure_logging=False, dumps=orjson.dumps, loads=orjson.loads)
    app.config.ACCESS_LOG = False
    app.config.AUTO_EXTEND = False
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.GRACEFUL_SHUTDOWN_TIMEOUT = REQUESTS_END_SECONDS
    app.config.REQUEST_MAX_SIZE = settings.max_body_bytes
    app.config.RESPONSE_TIMEOUT = STALLED_SECONDS
    app.config.KEEP_ALIVE_TIMEOUT = 75  # longer than the 60 s of most proxies, so that they close first
    app.ctx.settings = settings
    app.ctx.tokens = Tokens(settings.jwt_secret)
    app.ctx.cursors = Cursors(settings.jwt_secret)
    app.ctx.request_ids = RequestIds()
    front = app.ctx.front = Front(
        trusted=settings.trusted_proxies, public_url=settings.public_url, origins=settings.cors_origins
    )
    app.ctx.tasks = Tasks()
    app.ctx.turns = Turns()
    described = openapi.document(ROUTES)
    app.ctx.openapi, app.ctx.docs = orjson.dumps(described), openapi.page(described)
    add_routes(app)
    add_pages(app)

    async def start(app: Sanic[Any, Any]) -> None:
        log.capture_libraries()
        ctx = app.ctx
        ctx.passwords = Passwords(braked=settings.rate_limits)
        pool = await open_pool(
            settings.database_url, size=settings.db_pool_size, statement_cache=settings.db_statement_cache
        )
        ctx.db = Connections(pool)
        ctx.reads, ctx.replica = ctx.db, None
        if settings.database_read_url:
            ctx.reads = ctx.replica = Replica(
                ctx.db,
                primary_url=settings.database_url,
                url=settings.database_read_url,
                size=settings.db_pool_size,
                statement_cache=settings.db_statement_cache,
            )
            ctx.replica.start()
        ctx.hub = Hub(ctx.db)
        # What is told to whoever joins a thread: see live/stream.current
        ctx.joining = [receipts.joining, typists.joining, presence.joining]
        ctx.links = Links()
        # The tail's statement takes long to plan, and each of many connections would plan it again.
        ctx.tailing = Connections(
            await open_pool(
                settings.database_url, size=1, statement_cache=settings.db_statement_cache, generic=True
            )
        )
        ctx.merged = Merged(ctx.db, ctx.tailing)
        ctx.endings = Endings(ctx.db)
        ctx.sign_ins = SignIns(ctx)
        ctx.limits = Limits(
            settings.redis_url,
            on=settings.rate_limits,
            workers=settings.workers,
            namespace=lambda: str(ctx.epoch),
        )
        ctx.bus = Bus(
            settings.redis_url,
            heard=ctx.hub.heard,
            told=ctx.hub.told,
            joined=ctx.hub.joined,
            doubt=ctx.hub.doubt,
            ended=ctx.endings.heard,
        )
        ctx.receipts = Receipts(ctx.bus)
        ctx.presence = Presence(
            settings.redis_url, ctx.db, on=settings.presence, hub=ctx.hub, post=ctx.bus.post
        )

        async def humble(conn: asyncpg.Connection) -> None:
            step_back_backend(conn, settings.database_url)

        ctx.indexing = Connections(
            await open_pool(
                settings.database_url, size=1, statement_cache=settings.db_statement_cache, begin=humble
            )
        )
        ctx.indexer = Indexer(ctx.indexing)

        def changed(payload: bytes = b"") -> None:
            ctx.merged.hint(payload)
            ctx.indexer.hint()

        ctx.bus.on(CHANGED, changed, stands=changed)
        ctx.presence.for_user = ctx.merged.presence
        ctx.bus.on(PRESENCE, ctx.presence.heard, stands=ctx.presence.connected)
        ctx.typists = Typists(ctx.db, on=settings.typing, hub=ctx.hub, post=ctx.bus.post)
        ctx.bus.on(TYPING, ctx.typists.heard)
        ctx.bus.on(STAFF, ctx.hub.turned)
        ctx.alarm = Alarm(ctx.db, ctx.bus.ring)
        ctx.retention = Retention(settings)

        def moved(thread_id: int, user_id: int, act: str) -> None:
            ctx.presence.moved(thread_id, user_id, act)
            if act in ("left", "removed"):
                ctx.typists.stop(user_id, thread_id)

        ctx.hub.moved = moved
        ctx.epoch = ""
        ctx.following = asyncio.ensure_future(_follow(app))
        await asyncio.wait({ctx.following}, timeout=DATABASE_SECONDS)  # mostly it is there at once
        # What is loaded by now stays: looking through it again would stop the worker for some 10 ms.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)

    async def stop(app: Sanic[Any, Any]) -> None:
        """Twice does no harm: Sanic calls it again when a second signal comes."""
        ctx = app.ctx
        if ctx.hub.closing:
            return
        ctx.following.cancel()
        await ctx.alarm.close()
        await ctx.retention.close()
        ctx.presence.freeze()
        closing = (one.close(STREAMS_END_SECONDS) for one in (ctx.hub, ctx.merged, ctx.links))
        await asyncio.gather(*closing)
        await ctx.tasks.drain(TASKS_END_SECONDS)

    async def end(app: Sanic[Any, Any]) -> None:
        ctx = app.ctx
        await ctx.tasks.drain(1)
        await ctx.indexer.close()
        await ctx.endings.close()
        await ctx.presence.close()
        await ctx.bus.close()
        await ctx.limits.close()
        ctx.passwords.close()
        if ctx.replica is not None:
            await ctx.replica.close()
        try:
            async with asyncio.timeout(2):
                await asyncio.gather(ctx.indexing.close(), ctx.tailing.close(), ctx.db.close())
        except AWAY:  # it takes too long; or the database is gone already, as when the supervisor was killed
            for pool in (ctx.indexing, ctx.tailing, ctx.db):
                pool.terminate()

    app.before_server_start(start)
    app.before_server_stop(stop)
    app.after_server_stop(end)

    @app.exception(Exception)
    async def unrouted(request: Request | None, error: Exception) -> HTTPResponse:
        """What is raised outside a handler: no such address or method, a broken or too large request."""
        given = request.headers.get("x-request-id") if request is not None else None
        request_id = app.ctx.request_ids.of(given)
        response = answer_to(BadRequest() if request is not None and garbled(request) else error, request_id)
        if response.status == 405 and request is not None:
            methods = allowed(request.path)
            if request.method == "OPTIONS":
                response = Answer(status=204, headers=front.preflight(request, methods))
            response.headers["Allow"] = methods
        headers = front.headers(request) if request is not None else ALWAYS
        dress(response, (*headers, (b"X-Request-Id", request_id.encode())))
        if response.status == 413 and request is not None and "expect" not in request.headers:
            drain(request)
        method = request.method if request is not None else None
        log.event("request", request_id=request_id, method=method, route=None, status=response.status)
        return response

    return app


async def _follow(app: Sanic[Any, Any]) -> None:
    """Begin to follow the log, as soon as the database is there: until then requests get 503."""
    ctx = app.ctx
    while not ctx.epoch:
        try:
            await ctx.endings.begin()
            ctx.epoch = await changes.epoch(ctx.db)
        except AWAY as error:
            log.event("database.away", level="warning", reason=type(error).__name__)
            await asyncio.sleep(DATABASE_SECONDS)
    ctx.hub.start(ctx.bus, epoch=ctx.epoch)
    ctx.merged.start(epoch=ctx.epoch)
    ctx.indexer.start()
    ctx.presence.start(epoch=ctx.epoch)
    ctx.bus.start(epoch=ctx.epoch)
    ctx.alarm.start()
    ctx.retention.start()
