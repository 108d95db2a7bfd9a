"""The log: one JSON line per request, and events with a dotted name and facts.

Never a body, a token or a query string: what is logged are names and numbers we chose.
"""

import asyncio
import atexit
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

Level = Literal["debug", "info", "warning", "error"]
_RANK: dict[str, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_threshold = _RANK["info"]
# A write for each line costs a busy worker a tenth of its requests, so lines of a moment go together.
GATHER_SECONDS, GATHER_LINES = 0.05, 100
_pending: list[bytes] = []


def set_level(level: str) -> None:
    """Below this level nothing is written."""
    global _threshold
    _threshold = _RANK[level]


def event(name: str, *, level: Level = "info", **facts: Any) -> None:
    """One line on standard output, as event("hub.doubt", reason="silence")."""
    if _RANK[level] < _threshold:
        return
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    _pending.append(orjson.dumps({"time": now, "level": level, "event": name, **facts}, default=str))
    if level == "info" and len(_pending) < GATHER_LINES:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            flush()
        else:
            if len(_pending) == 1:
                loop.call_later(GATHER_SECONDS, flush)
    else:
        flush()


def flush() -> None:
    """Write what is pending."""
    lines, _pending[:] = b"\n".join([*_pending, b""]), []
    try:
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()
    except (OSError, ValueError):
        pass  # whoever read the log is gone; serving goes on


atexit.register(flush)


def _without_query(said: str) -> str:
    """Sanic quotes the URL of what it can't read, and a query string may hold a token, or a path an invite."""
    return re.sub(r"Bad URL: .*", "Bad URL", re.sub(r"\?\S*", "?...", said), flags=re.S)[:2000]


class _Lines(logging.Handler):
    """What libraries log, as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {"logger": record.name, "said": _without_query(record.getMessage())}
        if record.exc_info and record.exc_info[1] is not None:
            facts["error"] = _without_query(repr(record.exc_info[1]))
        level: Level = "error" if record.levelno >= 40 else "warning" if record.levelno >= 30 else "info"
        event("library", level=level, **facts)


def capture_libraries() -> None:
    """Send warnings and errors of Sanic, asyncpg, redis and asyncio through here."""
    root = logging.getLogger()
    root.handlers[:] = [_Lines()]
    root.setLevel(logging.WARNING)
    for name in ("sanic.root", "sanic.error", "sanic.server", "sanic.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    # While Postgres is away the pool's keeper writes a traceback at each try; readiness tells it once.
    logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)


def traceback_of(error: BaseException) -> str:
    """Where it happened, for the log alone: the innermost frames."""
    return "".join(traceback.format_exception(error))[-4000:]
