"""What stands between the internet and a handler: the caller's address and origin, and the headers of every answer."""

from urllib.parse import urlsplit

from sanic import Request


def address_of(request: Request) -> str | None:
    """The caller's IP address: the peer's, or what a trusted proxy says it is. None on a Unix socket."""
    return request.ip or None


def by_tls(request: Request) -> bool:
    """Whether the caller came by https."""
    return False


def same_site(request: Request) -> bool:
    """Whether a write by cookie comes from a page of ours, as far as the browser tells."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
