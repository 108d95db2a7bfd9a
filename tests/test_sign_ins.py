"""Sessions after the sign-in: renewed, listed, ended; tickets, cookies, another password."""

import asyncio
from typing import Any

import asyncpg
import httpx
import pytest

from server.base.access import Tokens
from tests.client import PASSWORD, Api, Person, somebody
from tests.conftest import SECRET, Cast
from tests.rules import ok, refused


async def registered(api: Api, **more: Any) -> tuple[dict[str, Any], Any]:
    """What somebody registered with, and what they got."""
    body = somebody(**more)
    return body, ok(await api.post("/api/auth/register", body), 201)


def holder(signed_in: Any) -> Person:
    return Person(signed_in["user"]["id"], signed_in["user"]["name"], signed_in["accessToken"])


async def refresh(api: Api, token: str) -> Any:
    return await api.post("/api/auth/refresh", {"refreshToken": token})


# ---- renewed


async def test_a_refresh_token_is_good_once_and_brings_the_next(api: Api) -> None:
    _, first = await registered(api)
    second = ok(await refresh(api, first["refreshToken"]))
    assert second["user"] == first["user"]
    assert second["refreshToken"] != first["refreshToken"]
    assert ok(await api.get("/api/me", as_=holder(second)))["user"] == first["user"]
    third = ok(await refresh(api, second["refreshToken"]))
    assert len(ok(await api.get("/api/auth/sessions", as_=holder(third)))["sessions"]) == 1, (
        "one sign-in still"
    )


async def test_a_spent_refresh_token_ends_the_whole_family(api: Api, db: asyncpg.Pool) -> None:
    _, thief = await registered(api)
    owner = ok(await refresh(api, thief["refreshToken"]))
    other = ok(await api.post("/api/auth/login", {"email": owner["user"]["email"], "password": PASSWORD}))
    refused(await refresh(api, thief["refreshToken"]), 401, "refresh_refused")
    refused(await refresh(api, owner["refreshToken"]), 401, "refresh_refused")
    for token in (thief, owner):
        refused(await api.get("/api/me", as_=holder(token)), 401, "session_ended")
    ok(await api.get("/api/me", as_=holder(other)))  # another sign-in is another family
    acts = await db.fetch("SELECT act FROM audit WHERE subject_id = $1", owner["user"]["id"])
    assert [row["act"] for row in acts].count("session.reused") == 1


async def test_of_ten_who_refresh_at_once_at_most_one_wins(api: Api) -> None:
    for _ in range(5):
        _, first = await registered(api)
        replies = await asyncio.gather(*(refresh(api, first["refreshToken"]) for _ in range(10)))
        won = [reply.json for reply in replies if reply.status == 200]
        assert len(won) == 1
        assert all(reply.json["code"] == "refresh_refused" for reply in replies if reply.status != 200)
        refused(await refresh(api, won[0]["refreshToken"]), 401, "refresh_refused")  # nine were reuse


@pytest.mark.parametrize("token", ["x", "x" * 256, "ü", "a.b.c", "\U0001f9f5"])
async def test_what_is_no_refresh_token_ends_nothing(api: Api, token: str) -> None:
    _, first = await registered(api)
    refused(await refresh(api, token), 401, "refresh_refused")
    ok(await refresh(api, first["refreshToken"]))


async def test_a_refresh_token_has_its_end(api: Api, db: asyncpg.Pool) -> None:
    _, first = await registered(api)
    left = await db.fetchval(
        "SELECT expires_at - now() FROM sessions WHERE user_id = $1", first["user"]["id"]
    )
    assert 6.9 * 86400 < left.total_seconds() <= 7 * 86400
    await db.execute("UPDATE sessions SET expires_at = now() WHERE user_id = $1", first["user"]["id"])
    refused(await refresh(api, first["refreshToken"]), 401, "refresh_refused")


async def test_no_token_is_stored_as_it_is(api: Api, db: asyncpg.Pool) -> None:
    _, first = await registered(api)
    second = ok(await refresh(api, first["refreshToken"]))
    ticket = ok(await api.post("/api/auth/stream-token", as_=holder(second)))["token"]
    stored = await db.fetchval(
        """SELECT concat((SELECT string_agg(s::text, ' ') FROM sessions s),
                         (SELECT string_agg(s::text, ' ') FROM spent_tokens s),
                         (SELECT string_agg(s::text, ' ') FROM tickets s),
                         (SELECT string_agg(s::text, ' ') FROM audit s))"""
    )
    for secret in (first["refreshToken"], second["refreshToken"], ticket, second["accessToken"]):
        assert secret not in stored and secret.encode().hex() not in stored


# ---- listed and ended


async def test_sign_ins_are_listed_for_their_owner(api: Api, cast: Cast) -> None:
    body, first = await registered(api)
    login = {"email": body["email"], "password": PASSWORD}
    reply = await api.post("/api/auth/login", login, headers={"User-Agent": "Phone/1 " + "x" * 300})
    phone = ok(reply)
    listed = ok(await api.get("/api/auth/sessions", as_=holder(first)))["sessions"]
    assert [(one["current"], (one["userAgent"] or "")[:8]) for one in listed] == [
        (False, "Phone/1 "), (True, "python-h"),
    ]  # fmt: skip
    assert all(one["address"] == "127.0.0.1" and len(one["userAgent"]) <= 200 for one in listed)
    theirs = ok(await api.get("/api/auth/sessions", as_=cast.ada))["sessions"]
    assert not {one["id"] for one in listed} & {one["id"] for one in theirs}
    # Nobody ends those of another, and nobody learns whether there are any.
    for session_id in (listed[0]["id"], 10**15):
        refused(await api.delete(f"/api/auth/sessions/{session_id}", as_=cast.ada), 404)
    ok(await api.get("/api/me", as_=holder(phone)))
    ok(await api.delete(f"/api/auth/sessions/{listed[0]['id']}", as_=holder(first)), 204)
    refused(await api.get("/api/me", as_=holder(phone)), 401, "session_ended")
    refused(await refresh(api, phone["refreshToken"]), 401)
    refused(await api.delete(f"/api/auth/sessions/{listed[0]['id']}", as_=holder(first)), 404)
    assert len(ok(await api.get("/api/auth/sessions", as_=holder(first)))["sessions"]) == 1


async def test_logout_ends_the_session_of_the_token_and_no_other(api: Api) -> None:
    body, first = await registered(api)
    other = ok(await api.post("/api/auth/login", {"username": body["email"], "email": None, "password": "x"} | {
        "email": body["email"], "username": None, "password": PASSWORD}))  # fmt: skip
    renewed = ok(await refresh(api, first["refreshToken"]))
    ok(await api.post("/api/auth/logout", as_=holder(first)), 204)
    for token in (first, renewed):  # of one session
        refused(await api.get("/api/me", as_=holder(token)), 401, "session_ended")
    refused(await refresh(api, renewed["refreshToken"]), 401, "refresh_refused")
    ok(await api.get("/api/me", as_=holder(other)))
    refused(await api.post("/api/auth/logout", as_=holder(first)), 401, "session_ended")


async def test_another_password_ends_the_other_sessions(api: Api) -> None:
    body, mine = await registered(api)
    login = {"email": body["email"], "password": PASSWORD}
    others = [ok(await api.post("/api/auth/login", login)) for _ in range(3)]
    change = {"current": PASSWORD, "new": "another horse battery"}
    refused(
        await api.post("/api/me/password", change | {"current": "wrong"}, as_=holder(mine)),
        403,
        "wrong_password",
    )
    refused(await api.post("/api/me/password", change | {"new": "short"}, as_=holder(mine)), 422)
    ok(await api.get("/api/me", as_=holder(others[0])))
    ok(await api.post("/api/me/password", change, as_=holder(mine)), 204)
    for other in others:
        refused(await api.get("/api/me", as_=holder(other)), 401, "session_ended")
        refused(await refresh(api, other["refreshToken"]), 401)
    ok(await api.get("/api/me", as_=holder(mine)))
    ok(await refresh(api, mine["refreshToken"]))
    refused(await api.post("/api/auth/login", login), 401, "wrong_credentials")
    ok(await api.post("/api/auth/login", login | {"password": change["new"]}))


async def test_a_sign_in_with_the_old_password_that_races_with_the_new_one_is_refused_or_ended(
    api: Api,
) -> None:
    for _ in range(3):
        body, mine = await registered(api)
        login = {"email": body["email"], "password": PASSWORD}
        change = {"current": PASSWORD, "new": "another horse battery"}
        changed, *replies = await asyncio.gather(
            api.post("/api/me/password", change, as_=holder(mine)),
            *(api.post("/api/auth/login", login) for _ in range(6)),
        )
        ok(changed, 204)
        for reply in replies:
            if reply.status == 200:
                refused(await api.get("/api/me", as_=holder(reply.json)), 401, "session_ended")
            else:
                refused(reply, 401, "wrong_credentials")


async def test_two_new_passwords_at_once_are_one(api: Api) -> None:
    body, mine = await registered(api)
    words = [f"horse number {n}" for n in range(4)]
    replies = await asyncio.gather(
        *(api.post("/api/me/password", {"current": PASSWORD, "new": new}, as_=holder(mine)) for new in words)
    )
    assert sorted(reply.status for reply in replies)[0] == 204
    assert {reply.status for reply in replies} <= {204, 403, 409}
    logins = [
        (await api.post("/api/auth/login", {"email": body["email"], "password": new})).status for new in words
    ]
    assert sorted(logins) == [200, 401, 401, 401]


# ---- my account


async def test_one_changes_ones_own_account(api: Api, cast: Cast) -> None:
    body, mine = await registered(api)
    me = holder(mine)
    changed = {"name": "  Grace ", "username": f"grace_{me.id}", "settings": {"readReceipts": False}}
    user = ok(await api.patch("/api/me", changed, as_=me))["user"]
    assert user == mine["user"] | {
        "name": "Grace", "username": f"grace_{me.id}", "settings": {"readReceipts": False},
    }  # fmt: skip
    assert ok(await api.patch("/api/me", {}, as_=me))["user"] == user
    refused(await api.patch("/api/me", {"username": f"GRACE_{me.id}"}, as_=cast.ada), 409, "username_taken")
    refused(await api.patch("/api/me", {"name": ""}, as_=me), 422)
    refused(await api.patch("/api/me", {"settings": {"readReceipts": "no"}}, as_=me), 400)
    email = {"email": f"new{me.id}@example.org"}
    refused(await api.patch("/api/me", email, as_=me), 422)
    refused(await api.patch("/api/me", email | {"password": "wrong"}, as_=me), 403, "wrong_password")
    refused(await api.patch("/api/me", {"email": body["email"], "password": "x"}, as_=cast.ada), 403)
    assert (
        ok(await api.patch("/api/me", email | {"password": PASSWORD}, as_=me))["user"]["email"]
        == email["email"]
    )
    ok(await api.post("/api/auth/login", email | {"password": PASSWORD}))


# ---- tickets


async def test_a_ticket_opens_one_stream(api: Api, cast: Cast) -> None:
    given = ok(await api.post("/api/auth/stream-token", as_=cast.ben))
    assert given["expiresIn"] == 60
    url = f"/api/threads/{cast.team}/stream?token={given['token']}"
    async with api._client.stream("GET", url) as stream:
        assert stream.status_code == 200
        assert "ready" in await anext(stream.aiter_text())
    refused(await api.get(url), 401, "unauthorized")
    headers = {
        "Authorization": f"Bearer {ok(await api.post('/api/auth/stream-token', as_=cast.ben))['token']}"
    }
    refused(await api.get("/api/me", headers=headers), 401, "unauthorized")  # for streams only


async def test_of_ten_who_come_with_one_ticket_one_is_let_in(api: Api, cast: Cast) -> None:
    token = ok(await api.post("/api/auth/stream-token", as_=cast.mallory))["token"]
    # Not a member: what the ticket opens is a 404, and so it is seen whom it let in.
    replies = await asyncio.gather(
        *(api.get(f"/api/threads/{cast.team}/stream?token={token}") for _ in range(10))
    )
    assert sorted(reply.status for reply in replies) == [401] * 9 + [404]


async def test_a_ticket_ends_with_its_minute_and_with_its_session(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    url = f"/api/threads/{cast.team}/stream?token="
    late = ok(await api.post("/api/auth/stream-token", as_=cast.ada))["token"]
    await db.execute("UPDATE tickets SET expires_at = now() WHERE session_id = $1", cast.ada.session_id)
    refused(await api.get(url + late), 401, "unauthorized")
    orphan = ok(await api.post("/api/auth/stream-token", as_=cast.ben))["token"]
    ok(await api.post("/api/auth/logout", as_=cast.ben), 204)
    refused(await api.get(url + orphan), 401)
    # What nobody came for is cleared away by those who come later.
    await db.execute("UPDATE tickets SET expires_at = now() - interval '1 hour'")
    ok(await api.post("/api/auth/stream-token", as_=cast.ada))
    assert await db.fetchval("SELECT count(*) FROM tickets WHERE session_id = $1", cast.ada.session_id) == 1


# ---- cookies


def browser(api: Api) -> httpx.AsyncClient:
    """A client that keeps its cookies."""
    return httpx.AsyncClient(base_url=api.base, timeout=20, trust_env=False)


async def test_a_browser_is_signed_in_by_a_cookie_that_no_script_can_read(api: Api) -> None:
    body = somebody()
    async with browser(api) as page:
        answer = await page.post("/api/auth/register", json=body)
        cookies = {line.split("=")[0]: line for line in answer.headers.get_list("set-cookie")}
        assert set(cookies) == {"bobbin_session", "bobbin_csrf"}
        assert "HttpOnly" in cookies["bobbin_session"] and "HttpOnly" not in cookies["bobbin_csrf"]
        assert all(
            "SameSite=Lax" in line and "Path=/" in line and "Domain" not in line for line in cookies.values()
        )
        me = await page.get("/api/me")
        assert me.json()["user"] == answer.json()["user"]
        refused(await api.get("/api/me"), 401)  # without it nobody is
        out = await page.post("/api/auth/logout", headers={"X-CSRF-Token": page.cookies["bobbin_csrf"]})
        assert out.status_code == 204
        assert not page.cookies
        page.cookies.set("bobbin_session", cookies["bobbin_session"].split("=", 1)[1].split(";")[0])
        again = await page.get("/api/me")
        assert (again.status_code, again.json()["code"]) == (401, "session_ended")


async def test_a_write_by_cookie_must_show_that_our_page_asked(api: Api) -> None:
    async with browser(api) as page:
        answer = await page.post("/api/auth/register", json=somebody())
        token, csrf = answer.json()["accessToken"], page.cookies["bobbin_csrf"]
        ours = {"X-CSRF-Token": csrf, "Origin": api.base, "Sec-Fetch-Site": "same-origin"}
        for headers in (
            {}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": csrf[:-1]}, {"X-CSRF-Token": "ü" * 64}, {"Origin": api.base},
            ours | {"Origin": "https://evil.example"}, ours | {"Origin": "null"},
            ours | {"Sec-Fetch-Site": "cross-site"}, ours | {"X-CSRF-Token": "0" * 64},
        ):  # fmt: skip
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            for method, path in (
                ("PATCH", "/api/me"), ("POST", "/api/threads"), ("DELETE", "/api/auth/sessions/1"),
            ):  # fmt: skip
                body = {"name": "Eve"} if method != "DELETE" else None
                reply = await page.request(method, path, json=body, headers=raw)
                assert (reply.status_code, reply.json()["code"]) == (403, "csrf"), headers
        assert (await page.get("/api/me")).json()["user"] == answer.json()["user"], "nothing was changed"
        for headers in (ours, {"X-CSRF-Token": csrf}):
            assert (await page.patch("/api/me", json={"name": "Grace"}, headers=headers)).status_code == 200
        # Who shows a token needs none of it, and the token counts, not the cookie.
        bearer = {"Authorization": f"Bearer {token}", "Origin": "https://evil.example"}
        assert (await page.patch("/api/me", json={"name": "Hopper"}, headers=bearer)).status_code == 200
        wrong = {"Authorization": f"Bearer {token}x", "X-CSRF-Token": csrf}
        assert (await page.get("/api/me", headers=wrong)).status_code == 401


@pytest.mark.parametrize(
    "cookie", ["", "x", "1", "1.", "1." + "0" * 64, ".x", "01.x", "-1.x", "9" * 30 + ".x", "1.ü"]
)
async def test_a_forged_cookie_opens_nothing(api: Api, cookie: str) -> None:
    headers = [(b"cookie", f"bobbin_session={cookie}".encode())]
    refused(await api.get("/api/me", headers=headers), 401)


async def test_a_session_that_lives_by_its_cookie_is_moved_on(
    api: Api, people: Any, db: asyncpg.Pool
) -> None:
    ada = await people("ada")
    await db.execute(
        """UPDATE sessions SET last_used_at = now() - interval '2 days', expires_at = now() + interval '5 days'
           WHERE id = $1""",
        ada.session_id,
    )
    cookie = {"Cookie": f"bobbin_session={Tokens(SECRET).cookie(session_id=ada.session_id)}"}
    ok(await api.get("/api/me", headers=cookie))
    left = await db.fetchval("SELECT expires_at - now() FROM sessions WHERE id = $1", ada.session_id)
    assert left.total_seconds() > 6.9 * 86400
    ended = await people("ben")
    await db.execute("UPDATE sessions SET expires_at = now() WHERE id = $1", ended.session_id)
    cookie = {"Cookie": f"bobbin_session={Tokens(SECRET).cookie(session_id=ended.session_id)}"}
    refused(await api.get("/api/me", headers=cookie), 401, "session_ended")
