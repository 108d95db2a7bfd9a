"""What stands between the internet and a handler: the caller's address and origin, and the headers of every answer.

It imports no Sanic: server/ops/starting.py, which has to be quick, sends the same headers.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from sanic import Request

Ip: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Pairs: TypeAlias = tuple[tuple[bytes, bytes], ...]  # headers, as they are written

# On whatever is served. None of it is a page, a frame or somebody else's; what is, says so itself.
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}
HSTS = {"Strict-Transport-Security": "max-age=31536000"}
TAKEN = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id, X-CSRF-Token"
TOLD = "X-Request-Id, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, ETag, Content-Disposition"
PREFLIGHT_SECONDS = 7200  # the longest that browsers keep one
HOPS = 20  # proxies in a row, at most; a longer X-Forwarded-For is somebody's joke


def ready(headers: dict[str, str]) -> Pairs:
    """Headers as they are written."""
    return tuple((name.encode(), value.encode()) for name, value in headers.items())


ALWAYS = ready(SECURITY)


class Front:
    """What the settings say of proxies, our own address and other origins.

    public_url and origins are origins as a browser sends them; public_url is "" where nobody has said it.
    """

    def __init__(self, *, trusted: Iterable[Network], public_url: str, origins: Iterable[str]) -> None:
        self.public_url = public_url
        self._trusted = tuple(trusted)
        self._origins = frozenset(origins)
        self._tls = public_url.startswith("https:")
        self._ready = {
            (tls, origin): ready(SECURITY | (HSTS if tls else {}) | self._cors(origin))
            for tls, origin in product((False, True), (None, *self._origins))
        }

    def _cors(self, origin: str | None) -> dict[str, str]:
        """Never with credentials: other origins show tokens, and cookies are for our own pages alone."""
        if not self._origins:
            return {}
        if origin is None:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": TOLD,
        }

    def trusts(self, ip: Ip) -> bool:
        """Whether this is a proxy of ours: what it says of its clients is believed."""
        return any(ip in network for network in self._trusted)

    def address(self, peer: str, forwarded: Iterable[str]) -> str | None:
        """The client's address, by the peer's and the X-Forwarded-For headers.

        Each proxy adds at the right whom it heard. So from the right the first that is not ours is the
        client: what stands left of it, they have written themselves. Garbage ends the search too.
        """
        found = parse(peer)
        if found is None:
            return None
        if self._trusted and self.trusts(found):
            for entry in reversed(",".join(forwarded).split(",")[-HOPS:]):
                further = parse(entry)
                if further is None:
                    break
                found = further
                if not self.trusts(found):
                    break
        return str(found)

    def by_tls(self, request: "Request") -> bool:
        """Whether the client came by https: always, if our public address says so, or as a trusted proxy says."""
        if self._tls or not self._trusted:
            return self._tls
        said = request.headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        peer = parse(request.ip)
        return said == "https" and peer is not None and self.trusts(peer)

    def origin(self, request: "Request") -> str:
        """Where clients reach us, as https://chat.example.com."""
        host = request.headers.get("host", "")
        return self.public_url or f"{'https' if self.by_tls(request) else 'http'}://{host}"

    def owns(self, origin: str, request: "Request") -> bool:
        """Whether this Origin is ours: the public one, or one of the very host that was asked.

        A proxy that ends TLS may be one that nobody told us of: https is always as good as http.
        """
        if origin and origin == self.public_url:
            return True
        scheme, _, host = origin.partition("://")
        if not host or host != request.headers.get("host"):
            return False
        return scheme == "https" or (scheme == "http" and not self.by_tls(request))

    def knows(self, origin: str, request: "Request") -> bool:
        """Whether this Origin is ours, or one of those listed, whose pages may show tokens."""
        return origin in self._origins or self.owns(origin, request)

    def headers(self, request: "Request") -> Pairs:
        """What every answer to this request carries."""
        origin = request.headers.get("origin") if self._origins else None
        return self._ready[self.by_tls(request), origin if origin in self._origins else None]

    def preflight(self, request: "Request", methods: str) -> dict[str, str]:
        """What a browser asks before it lets a page of another origin send a request: nothing but for those listed."""
        if request.headers.get("origin") not in self._origins:
            return {}
        return {
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": TAKEN,
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }


# ---- of a request ------------------------------------------------------------------------------


def garbled(request: "Request") -> bool:
    """Whether a header's name ends in a blank, which Sanic lets pass: a proxy in front may read another name in it,
    and take what is a body there for the next request here. Nothing more is read from such a connection."""
    if not any(name[-1:] in " \t" for name in request.headers):
        return False
    stream: Any = request.stream
    if stream is not None:
        stream.keep_alive = False
    return True


def address_of(request: "Request") -> str | None:
    """The caller's IP address: the peer's, or what a trusted proxy says it is. None on a Unix socket."""
    ctx = request.ctx
    if not hasattr(ctx, "address"):
        forwarded = request.headers.getall("x-forwarded-for", ())
        ctx.address = request.app.ctx.front.address(request.ip, forwarded)
    found: str | None = ctx.address
    return found


def by_tls(request: "Request") -> bool:
    """Whether the caller came by https."""
    found: bool = request.app.ctx.front.by_tls(request)
    return found


def origin_of(request: "Request") -> str:
    """Where clients reach us, for links: the public URL, or what the caller has used."""
    found: str = request.app.ctx.front.origin(request)
    return found


def same_site(request: "Request") -> bool:
    """Whether a write by cookie comes from a page of ours, as far as the browser tells.

    A page of a sister domain (same-site) is foreign, and so is one without an origin (null).
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or request.app.ctx.front.owns(origin, request)


def outer(request: "Request", request_id: str) -> Pairs:
    """The headers of every answer to a request that has come as far as its route."""
    front: Front = request.app.ctx.front
    pairs: Pairs = (*front.headers(request), (b"X-Request-Id", request_id.encode()), *request.ctx.rate)
    return pairs


def plain(pairs: Pairs) -> dict[str, str]:
    """The same for Sanic, which writes the headers of a stream itself."""
    return {name.decode(): value.decode() for name, value in pairs}


# ---- addresses and origins ---------------------------------------------------------------------


@lru_cache(maxsize=4096)
def parse(text: str) -> Ip | None:
    """An address as a peer or a proxy writes it, with a port or brackets perhaps. None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    if "%" in text:  # of an interface of some machine
        return None
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found


@lru_cache(maxsize=4096)
def line_of(address: str | None) -> str:
    """Who is braked together: an IPv4 address, or the /64 that a customer gets of IPv6."""
    found = parse(address or "")
    if isinstance(found, IPv6Address):
        return str(IPv6Network((found, 64), strict=False))
    return str(found or "-")


def as_network(text: str) -> Network:
    """An address or a CIDR. Raises ValueError."""
    return ip_network(text.strip())


def as_origin(text: str) -> str:
    """An http or https origin in the spelling of browsers. Raises ValueError for any other URL."""
    url = urlsplit(text.strip().rstrip("/").lower())
    port = "" if url.port in (None, {"http": 80, "https": 443}.get(url.scheme)) else f":{url.port}"
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    said = url.netloc + url.path + url.query + url.fragment
    if url.scheme not in ("http", "https") or not host or said != url.netloc or "@" in said:
        raise ValueError(text)
    if any(not (c.isalnum() or c in "-.:[]_") or not c.isascii() for c in host):
        raise ValueError(text)  # a browser sends a name in other letters as xn--...
    return f"{url.scheme}://{host}{port}"
