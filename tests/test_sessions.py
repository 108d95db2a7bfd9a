"""Signing in, staying signed in and no longer, and that no secret is written down."""

import asyncio
from typing import Any

import argon2
import asyncpg
import pytest

from server.base.access import ACCESS_SECONDS
from server.base.errors import Unavailable
from server.base.passwords import Passwords
from server.users import handles
from tests.client import NUMBERS, PASSWORD, Api, Person, somebody
from tests.conftest import Cast
from tests.ops.process import Bobbin
from tests.rules import ok, refused


async def test_who_registers_is_signed_in_at_once(api: Api, cast: Cast) -> None:
    body = somebody(username="Grace.Hopper", name="  Grace \U0001f6a2 ")
    signed_in = ok(await api.post("/api/auth/register", body), 201)
    assert set(signed_in) == {"user", "accessToken", "refreshToken", "expiresIn"}
    assert signed_in["expiresIn"] == ACCESS_SECONDS == 900
    user = signed_in["user"]
    assert user == {
        "id": user["id"], "email": body["email"], "username": "Grace.Hopper", "name": "Grace \U0001f6a2",
        "role": "member", "settings": {"readReceipts": True},
    }  # fmt: skip
    grace = Person(user["id"], "grace", signed_in["accessToken"])
    assert ok(await api.get("/api/me", as_=grace)) == {"user": user}
    team = await api.thread(cast.ada, grace)
    assert (await api.say(team, grace, "hello"))["author"]["id"] == user["id"]
    refused(await api.get("/api/me", as_=Person(user["id"], "grace", signed_in["refreshToken"])), 401)


async def test_one_signs_in_by_email_or_username_ignoring_case(api: Api) -> None:
    body = somebody(email="Zoë.Müller@Example.org", username="ZOË_M")
    user = ok(await api.post("/api/auth/register", body), 201)["user"]
    tokens = set()
    for who in (
        {"email": "Zoë.Müller@Example.org"}, {"email": "ZOË.MÜLLER@EXAMPLE.ORG"}, {"email": " zoë.müller@example.org "},
        {"username": "ZOË_M"}, {"username": "zoë_m"}, {"username": "Zoë_M"},
    ):  # fmt: skip
        signed_in = ok(await api.post("/api/auth/login", who | {"password": PASSWORD}))
        assert set(signed_in) == {"user", "accessToken", "refreshToken", "expiresIn"}
        assert signed_in["user"] == user
        tokens.add(signed_in["refreshToken"])
    assert len(tokens) == 6
    refused(await api.post("/api/auth/login", {"username": body["email"], "password": PASSWORD}), 401)


async def test_emails_and_usernames_are_taken_ignoring_case(api: Api) -> None:
    first = somebody(email="Élodie@example.org", username="Élodie")
    ok(await api.post("/api/auth/register", first), 201)
    for email in ("Élodie@example.org", "éLODIE@EXAMPLE.ORG", " élodie@example.org"):
        refused(await api.post("/api/auth/register", somebody(email=email)), 409, "email_taken")
    for username in ("Élodie", "éLODIE"):
        refused(await api.post("/api/auth/register", somebody(username=username)), 409, "username_taken")


async def test_of_ten_who_register_one_email_at_once_one_gets_it(api: Api, db: asyncpg.Pool) -> None:
    body = somebody(name="Racer")
    replies = await asyncio.gather(*(api.post("/api/auth/register", body) for _ in range(10)))
    assert sorted(reply.status for reply in replies) == [201] + [409] * 9
    assert {reply.json["code"] for reply in replies if reply.status == 409} == {"email_taken"}
    assert await db.fetchval("SELECT count(*) FROM users WHERE email = $1", body["email"]) == 1


async def test_ten_of_one_name_get_ten_usernames_at_once(api: Api) -> None:
    replies = await asyncio.gather(
        *(api.post("/api/auth/register", somebody(name="Ümit Kaya")) for _ in range(10))
    )
    names = [ok(reply, 201)["user"]["username"] for reply in replies]
    assert "ümit.kaya" in names
    assert len({name.lower() for name in names}) == 10


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"email": None}, 422, "email"),
        ({"email": "nobody"}, 422, "email"),
        ({"email": "a b@c"}, 422, "email"),
        ({"email": "@"}, 422, "email"),
        ({"email": "a@b\0"}, 422, "email"),
        ({"email": "a" * 250 + "@b.cd"}, 422, "email"),
        ({"email": 7}, 400, None),
        ({"name": None}, 422, "name"),
        ({"name": " "}, 422, "name"),
        ({"name": "x" * 101}, 422, "name"),
        ({"password": None}, 422, "password"),
        ({"password": "1234567"}, 422, "password"),
        ({"password": "x" * 257}, 422, "password"),
        ({"password": ["x"] * 8}, 400, None),
        ({"username": "x"}, 422, "username"),
        ({"username": "x" * 33}, 422, "username"),
        ({"username": "a b"}, 422, "username"),
        ({"username": "@ada"}, 422, "username"),
        ({"username": ".ada"}, 422, "username"),
    ],
)
async def test_what_makes_no_account_is_refused(
    api: Api, change: dict[str, Any], status: int, field: str | None
) -> None:
    body = somebody(username="fine" + str(next(NUMBERS)))
    refusal = refused(await api.post("/api/auth/register", somebody(**body | change)), status)
    assert set(refusal.get("details", {})) == ({field} if field else set())
    assert PASSWORD not in str(refusal)
    ok(await api.post("/api/auth/register", body), 201)


async def test_passwords_have_8_to_256_characters_and_are_taken_as_they_are(api: Api) -> None:
    for password in ("12345678", "x" * 256, "  blanks count  ", "\U0001f511" * 8, "pässwörter\n"):
        body = somebody(password=password)
        ok(await api.post("/api/auth/register", body), 201)
        ok(await api.post("/api/auth/login", {"email": body["email"], "password": password}))
        for wrong in (f"!{password[1:]}", password[:-1], f"{password[:-1]}!"):
            refused(await api.post("/api/auth/login", {"email": body["email"], "password": wrong}), 401)


async def test_an_unknown_name_and_a_wrong_password_get_the_same_answer(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    body = somebody()
    ok(await api.post("/api/auth/register", body), 201)
    without = await db.fetchval(
        "SELECT email FROM users WHERE id = $1", cast.ada.id
    )  # an account without a password
    answers = [
        await api.post("/api/auth/login", who)
        for who in (
            {"email": body["email"], "password": "wrong"},
            {"email": "nobody@example.org", "password": "wrong"},
            {"username": "nobody", "password": "wrong"},
            {"email": "nobody@example.org", "password": PASSWORD},
            {"email": without, "password": PASSWORD},
        )
    ]
    bodies = [refused(answer, 401, "wrong_credentials") | {"requestId": ""} for answer in answers]
    assert all(body == bodies[0] for body in bodies)
    assert len({tuple(sorted(set(answer.headers) - {"x-request-id"})) for answer in answers}) == 1
    for neither in (
        {"password": PASSWORD}, {"email": "a@b.c", "username": "ab", "password": PASSWORD}, {"email": "a@b.c"},
        {"email": "", "password": "x"}, {"email": "a\0@b.c", "password": "x"}, {"username": "x", "password": ""},
    ):  # fmt: skip
        refused(await api.post("/api/auth/login", neither), 422)


async def test_an_unknown_name_costs_as_much_as_a_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords, compared = Passwords(braked=False), []
    verify = argon2.PasswordHasher.verify

    def watched(self: argon2.PasswordHasher, stored: str, password: str) -> bool:
        compared.append(argon2.extract_parameters(stored))
        return verify(self, stored, password)

    stored = await passwords.hash(PASSWORD)
    monkeypatch.setattr(argon2.PasswordHasher, "verify", watched)
    assert await passwords.match(PASSWORD, stored)
    assert not await passwords.match("wrong", stored)
    assert not await passwords.match(PASSWORD, None)
    assert not await passwords.match(PASSWORD, "no hash at all")
    assert compared[0] == compared[1] == compared[2], "the same work for each"
    passwords.close()


async def test_when_too_many_sign_in_at_once_the_rest_is_told_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Passwords, "WAITING", 4)
    passwords = Passwords(braked=True)
    crowd = [passwords.match("wrong", None) for _ in range(Passwords.WAITING + 5)]
    found = await asyncio.gather(*crowd, return_exceptions=True)
    busy = [one for one in found if one is not False]
    assert [(type(one), getattr(one, "code", "")) for one in busy] == [(Unavailable, "busy")] * 5
    assert await passwords.match("wrong", None) is False  # and then it goes on
    passwords.close()


async def test_a_stored_password_is_a_hash_and_so_is_a_refresh_token(api: Api, db: asyncpg.Pool) -> None:
    one, two = [ok(await api.post("/api/auth/register", somebody()), 201) for _ in "12"]
    hashes = await db.fetch(
        "SELECT password_hash FROM users WHERE id = ANY($1::bigint[])", [one["user"]["id"], two["user"]["id"]]
    )
    assert all(row["password_hash"].startswith("$argon2id$") for row in hashes)
    assert hashes[0] != hashes[1]  # salted
    stored = await db.fetchval("SELECT string_agg(s::text, ' ') FROM sessions s")
    assert one["refreshToken"] not in stored
    assert one["refreshToken"].encode().hex() not in stored


@pytest.mark.parametrize(
    ("name", "handle"),
    [
        ("Ada Lovelace", "ada.lovelace"),
        ("  --Ada__  ", "ada"),
        ("李", "user.李"),
        ("Мария Кюри", "мария.кюри"),
        ("\uff21\uff44\uff41", "ada"),  # full width
        ("\U0001f9f5", "user"),
        ("x" * 100, "x" * 27),
        ('O\'Neill, "Bob"', "o.neill.bob"),
    ],
)
def test_a_handle_is_made_from_a_name_in_any_script(name: str, handle: str) -> None:
    made = handles(name)
    assert made[0] == handle
    assert len(set(made)) == len(made) > 3
    assert all(2 <= len(one) <= 32 for one in made)


@pytest.mark.parametrize(
    "name", ["प्रिया", "ภูมิ", "محمد", "İpek", "ß", "𝔄𝔡𝔞", "e\u0301", "١٢", "_", ".", "ﷺ" * 20, "\u200d"]
)
async def test_any_name_registers_without_a_username(api: Api, name: str) -> None:
    user = ok(await api.post("/api/auth/register", somebody(name=name)), 201)["user"]
    assert user["name"] == name
    assert 2 <= len(user["username"]) <= 32
    signed_in = ok(await api.post("/api/auth/login", {"username": user["username"], "password": PASSWORD}))
    assert signed_in["user"] == user
    # What was made is what one may choose: the same handle is well-formed, and taken.
    refused(await api.post("/api/auth/register", somebody(username=user["username"])), 409, "username_taken")


async def test_a_token_of_somebody_who_is_no_more_is_refused(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    ok(await api.get("/api/me", as_=cast.mallory))
    await db.execute("DELETE FROM sessions WHERE user_id = $1", cast.mallory.id)
    await db.execute("DELETE FROM users WHERE id = $1", cast.mallory.id)
    refused(await api.get("/api/me", as_=cast.mallory), 401, "unauthorized")


async def test_no_password_token_or_text_ever_reaches_the_log(api: Api, cast: Cast, server: Bobbin) -> None:
    password, text, title = "a password for no log", "a message for no log", "a title for no log"
    signed_in = ok(await api.post("/api/auth/register", somebody(password=password, username="nolog")), 201)
    nolog = Person(signed_in["user"]["id"], "nolog", signed_in["accessToken"])
    login = {"username": "nolog", "password": password}
    refresh_tokens = [signed_in["refreshToken"], ok(await api.post("/api/auth/login", login))["refreshToken"]]
    refused(await api.post("/api/auth/login", {"username": "nolog", "password": password + "!"}), 401)
    refused(await api.post("/api/auth/register", somebody(password=password, username="nolog")), 409)
    refused(await api.post("/api/auth/login", login | {"email": "\0"}), 422)
    refused(await api.ask("POST", "/api/auth/login", content=f'{{"password":"{password}'.encode()), 400)
    team = await api.thread(nolog, title=title)
    await api.say(team, nolog, text, clientId="an id for no log")
    for path in (
        f"/api/threads/{team}/messages?cursor={nolog.token}", f"/api/threads?search={text}", f"/{nolog.token}",
        f"/api/threads/{nolog.token}/messages", f"/api/threads/{team}/messages?token={nolog.token}",
        f"/api/threads/{10**12}/stream?token={nolog.token}", f"/api/threads/x/stream?token={nolog.token}",
    ):  # fmt: skip
        for method in ("GET", "POST", "DELETE"):
            await api.ask(method, path, as_=nolog)
    refused(await api.get(f"/api/threads/{team}/stream?token={nolog.token[:-2]}"), 401)
    refused(await api.get("/api/me", headers={"Authorization": f"Bearer {nolog.token}x"}), 401)
    refused(await api.get("/api/me", headers={"Authorization": f"Basic {nolog.token}"}), 401)
    # A stream by ?token=, held for a moment; with a Last-Event-ID that is none.
    url = f"/api/threads/{team}/stream?token={nolog.token}&lastEventId={nolog.token}"
    async with asyncio.timeout(10), api._client.stream("GET", url) as answer:
        assert answer.status_code == 200
        assert "ready" in await anext(answer.aiter_text())
    ok(await api.get("/api/me", as_=nolog, headers={"X-Request-Id": "the-last-of-this-test"}))
    server.wait_for("the-last-of-this-test")
    said = server.said()
    assert f'"user_id":{nolog.id}' in said and "/api/auth/register" in said, "this test looks at no log"
    for secret in (
        password,
        text,
        title,
        "an id for no log",
        nolog.token,
        *refresh_tokens,
        nolog.token[-40:],
    ):
        assert secret not in said
