"""Who answers while the server starts, if that takes long: the process is there, and cannot serve yet.

    python -m server.ops.starting LISTENER_FD STATUS_FD

A process of its own on the listening socket, until the first worker is ready: the database may be away,
recovering or migrating. It begins after some seconds: an ordinary start is shorter, and who asks during
it is better served a little later than sent away. It ends with SIGTERM, or with its supervisor.
"""

import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from server.base.front import SECURITY

PATIENCE_S = 5
STATE = b'{"status":"unavailable","app":"starting","database":"unknown","redis":"unknown"}'
REFUSAL = (
    b'{"error":"The server is starting; try again in a moment.","code":"starting","requestId":"starting"}'
)
UNREAD = b'{"error":"The request could not be read.","code":"bad_request","requestId":"starting"}'


class Answer(BaseHTTPRequestHandler):
    """200 for /livez, 503 for everything else."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # else what it can not read is answered without headers
    timeout = 1  # seconds for a request to arrive: nobody may hold up the end

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        alive, probe = path == "/livez", path in ("/readyz", "/healthz")
        body = b'{"status":"ok"}' if alive else STATE if probe else REFUSAL
        self._send(200 if alive else 503, body)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response_only(status)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
            "X-Request-Id": "starting",
        }
        for name, value in (headers | ({"Retry-After": "1"} if status == 503 else {}) | SECURITY).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server says of a request that it can't read would be a page of its own."""
        self.close_connection = True
        self._send(400, UNREAD)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what is asked now is asked again."""


class Server(ThreadingHTTPServer):
    """On a socket that is bound already."""

    daemon_threads = False

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(("", 0), Answer, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.setblocking(False)  # a worker may take the connection first


def main(listener_fd: int, status_fd: int) -> None:
    """Answer until told to end."""
    server, ended = Server(socket.socket(fileno=listener_fd)), threading.Event()

    answering = False

    def orphaned() -> None:
        os.read(status_fd, 1)  # returns when the supervisor's end is closed
        os._exit(0)

    def end(*_: object) -> None:
        if ended.is_set():
            return
        ended.set()
        if answering:
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=orphaned, daemon=True).start()
    if not ended.wait(PATIENCE_S):
        answering = True
        server.serve_forever(poll_interval=0.05)
        server.server_close()  # waits for the answers under way


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
