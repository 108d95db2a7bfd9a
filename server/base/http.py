"""What comes in and goes out over HTTP: bodies, query values, cursors, JSON bytes.

Shape is checked here, at the door, all faults at once. Whether something exists, and whose it is,
is decided by the statement that acts.
"""

import asyncio
import base64
import hashlib
import hmac
import re
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache, partial
from keyword import iskeyword
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from sanic import Request

from server.base.answer import Answer
from server.base.errors import BadRequest, Invalid, TooLarge, UnsupportedType

JSON = "application/json; charset=utf-8"
DRAINED_BYTES, DRAINING_SECONDS = 32 * 1024 * 1024, 5.0  # at most, of a body that is not wanted
TOP = 2**63 - 1  # the largest bigint: beyond every id and seq
B = TypeVar("B", bound="Body")
Q = TypeVar("Q", bound="Query")
H = TypeVar("H", bound=Callable[..., Any])


# ---- what is taken ------------------------------------------------------------------------------------


class Body(msgspec.Struct, forbid_unknown_fields=False, kw_only=True):
    """A request body. Its fields are typed; their bounds are `length` and `whole` annotations.

    The type is checked by msgspec (400), the bounds by `read` (422), so that a client learns of all
    faults at once, in details, by field.
    """

    optional: ClassVar[bool] = False  # true: no body at all is {}


class Query(msgspec.Struct, kw_only=True):
    """A query string. A field that is an int, a bool, a datetime or a Literal is read as such (400);
    bounds are `length` and `whole` annotations (422). Other names than the fields are refused."""

    lenient: ClassVar[bool] = False  # a stream: what its client adds besides is let be


def length(low: int, high: int, *, pattern: str | None = None, trim: bool = True) -> msgspec.Meta:
    """low to high characters after trimming; of the pattern, if any; never NUL, which Postgres can't store."""
    schema: dict[str, Any] = {"minLength": low, "maxLength": high} | ({"pattern": pattern} if pattern else {})
    return msgspec.Meta(extra_json_schema=schema, extra={"text": (low, high, pattern, trim)})


def whole(low: int = 1, high: int = TOP) -> msgspec.Meta:
    """A whole number from low to high; the default is what an id or a seq can be."""
    return msgspec.Meta(extra_json_schema={"minimum": low, "maximum": high}, extra={"whole": (low, high)})


def many(low: int, high: int) -> msgspec.Meta:
    """A list of low to high items, each an id."""
    return msgspec.Meta(extra_json_schema={"minItems": low, "maxItems": high}, extra={"many": (low, high)})


def read(request: Request, kind: type[B]) -> B:
    """The body of a request as `kind`. Raises BadRequest, UnsupportedType or Invalid (all faults at once)."""
    if kind.optional and not request.body:
        return kind()
    declared = (request.headers.get("content-type") or "application/json").partition(";")[0].strip().lower()
    if declared != "application/json":
        raise UnsupportedType()
    return parsed(request.body, kind)


def parsed(given: bytes, kind: type[B]) -> B:
    """JSON as `kind`. Raises BadRequest or Invalid (all faults at once)."""
    try:
        body: B = _decoder(kind).decode(given)
    except msgspec.ValidationError as error:
        raise _refused(str(error)) from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise BadRequest("This is not valid JSON.", code="not_json") from None
    faults = faults_of(body)
    if faults:
        raise Invalid(faults)
    return body


def faults_of(found: Body | Query) -> dict[str, str]:
    """What is out of bounds, by field. Text is trimmed on the way."""
    faults = {}
    for name, rule, bounds in _rules(type(found)):
        value = getattr(found, name)
        if value is None or value is msgspec.UNSET:
            continue
        if rule == "text":
            if bounds[3]:
                value = value.strip()
                setattr(found, name, value)
            fault = _text_fault(value, *bounds[:3])
        elif rule == "whole":
            fault = None if bounds[0] <= value <= bounds[1] else f"must be from {bounds[0]} to {bounds[1]}"
        else:
            fault = _many_fault(value, *bounds)
        if fault:
            faults[name] = fault
    return faults


def _text_fault(value: str, low: int, high: int, pattern: str | None) -> str | None:
    if "\x00" in value:
        return "must not contain NUL characters"
    if len(value) < low:
        return "must not be empty" if low == 1 else f"must have at least {low} characters"
    if len(value) > high:
        return f"must have at most {high} characters"
    if pattern and not re.fullmatch(pattern, value):
        return f"must match {pattern}"
    return None


def _many_fault(value: list[int], low: int, high: int) -> str | None:
    if not low <= len(value) <= high:
        return f"must have {low} to {high} items"
    if not all(1 <= item <= TOP for item in value):
        return f"each must be from 1 to {TOP}"
    return None


@cache
def _decoder(kind: type[B]) -> msgspec.json.Decoder[B]:
    return msgspec.json.Decoder(kind)


@cache
def _rules(kind: type[Body | Query]) -> tuple[tuple[str, str, tuple[Any, ...]], ...]:
    """(field, rule, bounds) of every annotation made by `length`, `whole` and `many`."""
    hints = msgspec.structs.fields(kind)
    return tuple((field.name, rule, bounds) for field in hints for rule, bounds in _extras(field.type))


def _extras(hint: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    if get_origin(hint) is Annotated:
        for meta in get_args(hint)[1:]:
            if isinstance(meta, msgspec.Meta) and meta.extra:
                yield from meta.extra.items()
    elif get_origin(hint) is not Literal:
        for part in get_args(hint):
            yield from _extras(part)


def _refused(said: str) -> BadRequest | Invalid:
    """msgspec's words, as 400 for a wrong type and 422 for what is missing or not one of the words."""
    missing = re.search(r"missing required field `(\w+)`", said)
    if missing:
        return Invalid({missing[1]: "is required"})
    at = re.search(r"at `\$\.(\w+)", said)
    if said.startswith("Invalid enum value") and at:
        return Invalid({at[1]: "is not one of the known words"})
    expected = said.partition(" - at ")[0].replace("`", "")
    return BadRequest(f"{at[1]}: {expected}." if at else f"{expected}.", code="wrong_type")


def takes(media: str) -> Callable[[H], H]:
    """Declare that the body of a handler is no JSON, and that it reads it itself, by `received`."""

    def mark(handler: H) -> H:
        handler.takes = media  # type: ignore[attr-defined]
        return handler

    return mark


async def received(request: Request, media: str, *, most_bytes: int) -> bytes:
    """The body of a request as it comes in. Raises UnsupportedType or TooLarge."""
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != media:
        raise UnsupportedType(f"Send Content-Type: {media}.")
    found = bytearray()
    stream: Any = request.stream
    async for piece in stream:
        found += piece
        if len(found) > most_bytes:
            raise TooLarge()
    return bytes(found)


def drain(request: Request) -> None:
    """Have Sanic read the rest of a body that is not wanted, within bounds, before it closes.

    Closed at once, the client would see its connection reset while it is still sending, and no answer.
    """
    http: Any = request.stream
    if http is not None and (http.request_bytes_left or http.request_body == "chunked"):
        http.keep_alive = False
        http.request_max_size = http.protocol.request_max_size = DRAINED_BYTES
        asyncio.get_running_loop().call_later(DRAINING_SECONDS, http.protocol.close)


# ---- query strings -----------------------------------------------------------------------------


def read_query(request: Request, kind: type[Q]) -> Q:
    """The query string of a request as `kind`. Raises BadRequest or Invalid (all faults at once)."""
    fields = _fields(kind)
    given: dict[str, Any] = {}
    try:
        pairs = request.get_query_args(keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("The query string is not UTF-8.", code="bad_parameter") from None
    for name, value in pairs:
        if name not in fields:
            if kind.lenient:
                continue
            raise BadRequest(f"There is no query parameter {name[:40]!r} here.", code="unknown_parameter")
        if name in given:
            raise BadRequest(f"{name} is given twice.", code="bad_parameter")
        if "\x00" in value:
            raise BadRequest(f"{name} must not contain NUL characters.", code="bad_parameter")
        given[name] = fields[name](value, name)
    if missing := required(kind) - given.keys():
        raise Invalid(dict.fromkeys(sorted(missing), "is required"))
    # A field of a name that Python keeps to itself, as from, is written from_ and named from.
    found = kind(**{f"{name}_" if iskeyword(name) else name: value for name, value in given.items()})
    faults = faults_of(found)
    if faults:
        raise Invalid(faults)
    return found


@cache
def required(kind: type[Query]) -> frozenset[str]:
    """The fields that a query string must have."""
    return frozenset(field.name for field in msgspec.structs.fields(kind) if field.required)


@cache
def _fields(kind: type[Query]) -> dict[str, Callable[[str, str], Any]]:
    """How each field of a query string is read."""
    found: dict[str, Callable[[str, str], Any]] = {}
    for field in msgspec.structs.fields(kind):
        types = set(_plain(field.type))
        words = tuple(word for part in types if get_origin(part) is Literal for word in get_args(part))
        if words:
            found[field.encode_name] = partial(_word, words=words)
        else:
            found[field.encode_name] = (
                _switch
                if bool in types
                else _number
                if int in types
                else (moment if datetime in types else _text)
            )
    return found


def _plain(hint: Any) -> Iterator[Any]:
    """The types of a union, without their annotations."""
    if get_origin(hint) is Annotated:
        yield from _plain(get_args(hint)[0])
    elif get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _plain(part)
    else:
        yield hint


def _text(value: str, _: str) -> str:
    return value


def _number(value: str, name: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,40}", value):
        raise BadRequest(f"{name} must be a whole number.", code="bad_parameter")
    return int(value)


def _word(value: str, name: str, *, words: tuple[str, ...]) -> str:
    if value not in words:
        raise BadRequest(f"{name} must be one of {', '.join(words)}.", code="bad_parameter")
    return value


def _switch(value: str, name: str) -> bool:
    return _word(value, name, words=("true", "false")) == "true"


def moment(value: str, name: str) -> datetime:
    """An RFC 3339 time; without an offset it would mean something else on each host, so 400."""
    try:
        found = datetime.fromisoformat(value.replace(" ", "+"))  # an unescaped + arrives as a blank
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise BadRequest(f"{name} must be a time such as 2026-11-20T12:00:00Z.", code="bad_parameter")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise BadRequest(f"{name} is out of range.", code="bad_parameter") from None


# ---- cursors -----------------------------------------------------------------------------------


class Cursors:
    """Page cursors: a few numbers, sealed and hidden.

    So a forged or foreign one is told apart, and none tells where a page has ended in what its reader may not see: a
    search looks through everybody's messages. purpose binds a cursor to what it pages through, as "messages:asc:7".
    The seal is a MAC of the numbers, and what hides them is made of the seal (a synthetic IV): one position has one
    cursor.
    """

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(b"bobbin page cursors\n" + secret.encode()).digest()

    def seal(self, purpose: str, *numbers: int) -> str:
        """URL-safe text that `open` turns into the numbers again; at most four."""
        packed = struct.pack(f">{len(numbers)}q", *numbers)
        seal = self._seal(purpose, packed)
        return base64.urlsafe_b64encode(seal + self._hidden(seal, packed)).rstrip(b"=").decode()

    def open(self, purpose: str, cursor: str, *, count: int) -> tuple[int, ...]:
        """The numbers. Raises BadRequest for whatever this server has not sealed for this purpose."""
        try:
            raw = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            numbers: tuple[int, ...] = struct.unpack(f">{count}q", self._hidden(raw[:10], raw[10:]))
        except (ValueError, struct.error):
            numbers = ()
        # Compared as text: base64 is read leniently, and one position has one cursor.
        if not numbers or not hmac.compare_digest(cursor.encode(), self.seal(purpose, *numbers).encode()):
            raise BadRequest("This cursor is not one of ours for this list.", code="bad_cursor")
        return numbers

    def _seal(self, purpose: str, packed: bytes) -> bytes:
        return hmac.digest(self._key, purpose.encode() + b"\n" + packed, "sha256")[:10]

    def _hidden(self, seal: bytes, packed: bytes) -> bytes:
        """The numbers hidden, or found again."""
        stream = hmac.digest(self._key, b"hidden\n" + seal, "sha256")
        return bytes(a ^ b for a, b in zip(packed, stream, strict=False))


# ---- answers -----------------------------------------------------------------------------------


def answers(shapes: dict[int, Any], problems: dict[int, str] | None = None) -> Callable[[H], H]:
    """Declare what a handler answers: the type of each success (None: no body), and the codes of those
    problems that its route does not have anyway. For the OpenAPI document; the tests hold every answer to it."""

    def mark(handler: H) -> H:
        handler.answers = shapes  # type: ignore[attr-defined]
        handler.problems = {status: tuple(codes.split()) for status, codes in (problems or {}).items()}  # type: ignore[attr-defined]
        return handler

    return mark


def json_bytes(body: bytes | str, *, status: int = 200) -> Answer:
    """JSON that is made already, most of it by Postgres."""
    return Answer(body, status=status, content_type=JSON)


def empty() -> Answer:
    """204."""
    return Answer(status=204)
