"""Work that nobody waits for steps back, on Linux: whoever only wants an answer goes first.

Hashing passwords does by the niceness of its thread, the index of the search by that of its database connection.
"""

import contextlib
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

NICENESS = 15  # of threads
# Of a connection's process in Postgres. It still gets a fourth of what others get: on a machine without any rest
# the index of the search must not fall behind for ever.
BACKEND_NICENESS = 6


def step_back() -> None:
    """The thread that calls this."""
    if sys.platform == "linux":  # elsewhere all threads of a process have one niceness
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def step_back_backend(conn: asyncpg.Connection, dsn: str) -> bool:
    """The process of Postgres behind a connection, if it runs on this machine and we may; whether it did.

    It is known by its parent: the process at the other end of the Unix socket, of which the kernel tells. Of a server
    on another machine, or in another container, it finds none.
    """
    if sys.platform != "linux" or (path := socket_path(dsn)) is None:
        return False
    try:
        pid, postmaster = conn.get_server_pid(), _listener(path)
        # After the name in brackets, which may have anything in it: state, parent.
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if postmaster <= 1 or parent != postmaster:
            return False
        os.setpriority(os.PRIO_PROCESS, pid, BACKEND_NICENESS)
    except (OSError, ValueError):
        return False
    return True


def socket_path(dsn: str) -> str | None:
    """The Unix socket that a URL of Postgres leads to; None for a host."""
    url = urlsplit(dsn)
    asked = parse_qs(url.query)
    host, port = asked.get("host", [unquote(url.hostname or "")])[0], asked.get("port", ["5432"])[0]
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else None


def _listener(path: str) -> int:
    """Who listens at a Unix socket. Says nothing there: Postgres takes no notice of such a visit."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visit:
        visit.settimeout(1)
        visit.connect(path)
        told = visit.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", told)[0]
    return pid
