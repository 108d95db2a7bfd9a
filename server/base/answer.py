"""An answer, with the headers that stand on everything served."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from sanic.response import HTTPResponse

from server.base.front import ALWAYS, Pairs, plain

POLICY = "Content-Security-Policy"


class Answer(HTTPResponse):
    """An answer of ours: whichever way it takes to the client, it carries `outer`.

    Those headers are bytes already: to have Sanic look through and encode them again costs some 20 us.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.outer = ALWAYS

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        ready = self.outer
        if POLICY in self.headers:  # a page, which has one of its own
            ready = tuple(pair for pair in ready if pair[0] != POLICY.encode())
        return chain(super().processed_headers, ready)


def dress(response: HTTPResponse, pairs: Pairs) -> None:
    """Put these headers on an answer, its own staying as they are."""
    if isinstance(response, Answer):
        response.outer = pairs
    else:
        for name, value in plain(pairs).items():
            response.headers.setdefault(name, value)
