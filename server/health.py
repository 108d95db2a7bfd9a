"""Probes: is the process there, can it serve. SQL: db/queries/health.sql."""

import asyncio

import orjson
from sanic import Request
from sanic.response import HTTPResponse

from server.base.db import Db, query
from server.base.errors import AWAY
from server.base.http import json_bytes

PROBE_SECONDS = 1.0  # the patience of most who probe


@query
async def answers(db: Db) -> int: ...


async def livez(_: Request) -> HTTPResponse:
    """The process is there. 200 {"status": "ok"}."""
    return json_bytes(b'{"status":"ok"}')


async def readyz(request: Request) -> HTTPResponse:
    """Whether this server can serve, and the state of what it needs.

    200 {"status": "ok" or "degraded", "app", "database", "redis"}: without Redis all works, later;
    503 with "status": "unavailable" without the database, while starting and while draining.
    """
    ctx = request.app.ctx
    database, redis = await asyncio.gather(_database(ctx.db), ctx.bus.answers())
    app = "draining" if ctx.hub.closing else "ok"
    up = database and app == "ok" and bool(ctx.epoch)
    body = {
        "status": "unavailable" if not up else "ok" if redis else "degraded",
        "app": app,
        "database": "ok" if database else "away",
        "redis": "ok" if redis else "away",
    }
    return json_bytes(orjson.dumps(body), status=200 if up else 503)


async def _database(db: Db) -> bool:
    # Not cancelled when it takes too long: with a database that hangs, cancelling takes longer still.
    asked = asyncio.ensure_future(answers(db))
    done, _ = await asyncio.wait({asked}, timeout=PROBE_SECONDS)
    if not done:
        asked.add_done_callback(lambda late: late.cancelled() or late.exception())
        return False
    try:
        return asked.result() == 1
    except AWAY:
        return False
