"""Probes: is the process there, can it serve. SQL: db/queries/health.sql."""

import asyncio

import orjson
from sanic import Request
from sanic.response import HTTPResponse

from server import shapes
from server.base.db import Db, query
from server.base.errors import AWAY
from server.base.http import answers, json_bytes

PROBE_SECONDS = 1.0  # the patience of most who probe


@query
async def alive(db: Db) -> int: ...


@answers({200: shapes.Alive})
async def livez(_: Request) -> HTTPResponse:
    """The process is there."""
    return json_bytes(b'{"status":"ok"}')


@answers({200: shapes.Ready, 503: shapes.Ready})
async def readyz(request: Request) -> HTTPResponse:
    """Whether this server can serve, and the state of what it needs.

    Without Redis all works, later: that is degraded, and 200. So is a replica that is not read from. 503 without the
    database, while starting and draining.
    """
    ctx = request.app.ctx
    database, redis = await asyncio.gather(_database(ctx.db), ctx.bus.answers())
    app = "draining" if ctx.hub.closing else "ok"
    up = database and app == "ok" and bool(ctx.epoch)
    replica = ctx.replica.state if ctx.replica is not None else None
    body = {
        "status": "unavailable" if not up else "ok" if redis and replica in (None, "ok") else "degraded",
        "app": app,
        "database": "ok" if database else "away",
        "redis": "ok" if redis else "away",
    }
    if replica is not None:
        body["replica"] = replica
    return json_bytes(orjson.dumps(body), status=200 if up else 503)


async def _database(db: Db) -> bool:
    # Not cancelled when it takes too long: with a database that hangs, cancelling takes longer still.
    asked = asyncio.ensure_future(alive(db))
    done, _ = await asyncio.wait({asked}, timeout=PROBE_SECONDS)
    if not done:
        asked.add_done_callback(lambda late: late.cancelled() or late.exception())
        return False
    try:
        return asked.result() == 1
    except AWAY:
        return False
