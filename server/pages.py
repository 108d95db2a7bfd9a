"""The web client: its files, as they are in server/web. Everything it knows it asks the API for.

They are read once and kept compressed; a browser asks each time whether its copy is still the one (304).
"""

import gzip
import hashlib
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sanic import Request, Sanic
from sanic.response import HTTPResponse

from server.base import log
from server.base.answer import Answer, dress
from server.base.errors import BadRequest, NotFound, noted, render
from server.base.front import garbled, outer

FOLDER = Path(__file__).parent / "web"
METHODS = ("GET", "HEAD")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Scripts, styles and pictures of our own, and calls of this server: nothing inline, nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " manifest-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


@dataclass(frozen=True)
class File:
    """One file, as it is sent."""

    content_type: str
    plain: bytes
    packed: bytes
    etag: str


@cache
def files() -> dict[str, File]:
    """All of them, by name."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        plain = path.read_bytes()
        etag = f'"{hashlib.sha256(plain).hexdigest()[:20]}"'
        found[path.name] = File(TYPES[path.suffix], plain, gzip.compress(plain, 9, mtime=0), etag)
    return found


Handler = Callable[..., Coroutine[Any, Any, HTTPResponse]]


def add_pages(app: Sanic[Any, Any]) -> None:
    """Give the page and its files their places. They are no part of the API, and open to everybody."""
    for number, (path, handler) in enumerate(PAGES):
        app.add_route(_endpoint(path, handler), path, methods=METHODS, name=f"page_{number}")


def leads_to(address: str) -> bool:
    """Whether there is a page, or one of its files, at this address."""
    return re.fullmatch(r"/|/threads/[1-9][0-9]*/?|/web/[^/]+/?", address) is not None


def _endpoint(path: str, handler: Handler) -> Handler:
    """What surrounds them: request id, the brake of the address, the error table and the log line."""

    async def run(request: Request, **given: Any) -> HTTPResponse:
        started, ctx = time.perf_counter(), request.ctx
        ctx.request_id = request.app.ctx.request_ids.of(request.headers.get("x-request-id"))
        ctx.user_id, ctx.rate = None, ()
        try:
            if garbled(request):
                raise BadRequest()
            ctx.rate = await request.app.ctx.limits.pass_(request, "read")
            response = await handler(request, **given)
        except Exception as error:
            response = render(noted(error, ctx.request_id), ctx.request_id)
        log.event(
            "request",
            request_id=ctx.request_id,
            method=request.method,
            route=path,
            status=response.status,
            ms=round((time.perf_counter() - started) * 1000, 1),
        )
        dress(response, outer(request, ctx.request_id))
        return response

    return run


async def get_page(request: Request, thread_id: int | None = None) -> HTTPResponse:
    """The page, at whatever place in it: what is there, its script finds out."""
    return _send(request, files()["index.html"])


async def get_file(request: Request, name: str) -> HTTPResponse:
    """A script, a style or a picture of the page."""
    file = files().get(name)
    if file is None:
        raise NotFound()
    return _send(request, file)


def _send(request: Request, file: File) -> HTTPResponse:
    headers = {
        "ETag": file.etag,
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
        "Content-Security-Policy": POLICY,
    }
    if file.etag in request.headers.get("if-none-match", ""):
        return Answer(status=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Answer(
            file.packed, content_type=file.content_type, headers=headers | {"Content-Encoding": "gzip"}
        )
    return Answer(file.plain, content_type=file.content_type, headers=headers)


PAGES: tuple[tuple[str, Handler], ...] = (
    ("/", get_page),
    ("/threads/<thread_id:id>", get_page),
    ("/web/<name:str>", get_file),
)
