"""API keys of bots and host applications, the guests of a host, and how all of them end."""

import asyncio
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from server import sessions
from server.base.access import Caller, digest
from tests.client import NUMBERS, Api, Person
from tests.conftest import Cast, key_of
from tests.ops.process import Bobbin
from tests.rules import ok, refused, until
from tests.test_admin import out, set_out, shut_out


async def mint(api: Api, host: Person, external_id: str = "1", name: str = "Guest", **more: Any) -> Person:
    """A guest of a host, signed in."""
    body = {"externalId": external_id, "name": name, **more}
    made = ok(await api.post("/api/host/tokens", body, as_=host))
    assert made["expiresIn"] == 900
    return Person(made["user"]["id"], made["user"]["name"], made["accessToken"])


async def listed(api: Api, root: Person) -> dict[int, Any]:
    return {key["id"]: key for key in ok(await api.get("/api/admin/keys?limit=100", as_=root))["keys"]}


# ---- keys of bots


async def test_a_key_lets_a_bot_in_and_its_secret_is_told_once(
    api: Api, cast: Cast, root: Person, db: asyncpg.Pool
) -> None:
    made = ok(await api.post("/api/admin/keys", {"kind": "bot", "name": "Weather"}, as_=root), 201)
    key, secret = made["key"], made["secret"]
    assert key == {
        "id": key["id"], "kind": "bot", "name": "Weather", "userId": key["userId"],
        "createdAt": key["createdAt"], "lastUsedAt": None, "createdBy": root.id,
    }  # fmt: skip
    assert secret.startswith("bbk_") and len(secret) > 40
    bot = Person(key["userId"], "Weather", secret, key["id"])
    team = await api.thread(cast.ada, bot)
    assert (await api.say(team, bot, "Rain."))["author"] == {"id": bot.id, "name": "Weather", "kind": "bot"}
    me = ok(await api.get("/api/me", as_=bot))["user"]
    assert me["username"].startswith("weather") and me["role"] == "member" and me["email"] is None
    assert (await listed(api, root))[key["id"]] == key | {
        "lastUsedAt": (await listed(api, root))[key["id"]]["lastUsedAt"]
    }
    refused(await api.get("/api/auth/sessions", as_=bot), 403, "wrong_key")
    stored = await db.fetchval("SELECT string_agg(k::text, ' ') FROM api_keys k")
    assert secret not in stored and digest(secret).hex() in stored
    everything = str(
        [(await api.get(f"/api/admin/{what}?limit=100", as_=root)).body for what in ("keys", "audit")]
    )
    assert "Weather" in everything and secret not in everything and digest(secret).hex() not in everything


async def test_a_bot_may_have_several_keys_and_each_ends_alone(api: Api, root: Person) -> None:
    one = await key_of(api, root, "bot")
    two = await key_of(api, root, "bot", userId=one.id)
    assert one.id == two.id and one.token != two.token
    ok(await api.delete(f"/api/admin/keys/{one.session_id}", as_=root), 204)
    await out(api, one)
    ok(await api.get("/api/me", as_=two))
    refused(await api.delete(f"/api/admin/keys/{one.session_id}", as_=root), 404)
    await set_out(api, root, two)
    body = {"kind": "bot", "name": "x", "userId": two.id}
    refused(await api.post("/api/admin/keys", body, as_=root), 422)
    await set_out(api, root, two, active=True)
    refused(await api.get("/api/me", as_=two), 401)
    ok(await api.post("/api/admin/keys", body, as_=root), 201)


async def test_a_key_is_refused_for_whom_there_is_no_bot(api: Api, cast: Cast, root: Person) -> None:
    bot = {"kind": "bot", "name": "Robot"}
    for user_id in (cast.ben.id, 10**12):
        assert (
            "userId"
            in refused(await api.post("/api/admin/keys", bot | {"userId": user_id}, as_=root), 422)["details"]
        )
    made = await key_of(api, root, "bot")
    both = bot | {"userId": made.id, "username": "robot"}
    refused(await api.post("/api/admin/keys", both, as_=root), 422)
    handle = f"robot{next(NUMBERS)}"
    ok(await api.post("/api/admin/keys", bot | {"username": handle}, as_=root), 201)
    refused(
        await api.post("/api/admin/keys", bot | {"username": handle.upper()}, as_=root), 409, "username_taken"
    )
    refused(await api.post("/api/admin/keys", {"kind": "spy", "name": "x"}, as_=root), 422)
    made_at_once = await asyncio.gather(*(key_of(api, root, "bot", name="Same Name") for _ in range(5)))
    assert len({one.id for one in made_at_once}) == 5


async def test_a_revoked_key_is_refused_everywhere_and_its_stream_is_cut(
    api: Api, cast: Cast, root: Person
) -> None:
    bot = await key_of(api, root, "bot")
    team = await api.thread(cast.ada, bot)
    ticket = ok(await api.post("/api/auth/stream-token", as_=bot))["token"]
    async with api.stream(team, bot) as stream:
        await api.say(team, cast.ada, "before")
        await stream.until(1)
        async with shut_out(api, bot):
            ok(await api.delete(f"/api/admin/keys/{bot.session_id}", as_=root), 204)
        async with asyncio.timeout(1):
            await stream.end()
    refused(await api.get(f"/api/threads/{team}/stream?token={ticket}"), 401)
    assert bot.session_id not in await listed(api, root)
    acts = ok(await api.get(f"/api/admin/audit?userId={bot.id}&act=key.", as_=root))["entries"]
    assert [(entry["act"], entry["actorId"], entry["details"]["keyId"]) for entry in acts] == [
        ("key.revoked", root.id, bot.session_id), ("key.made", root.id, bot.session_id),
    ]  # fmt: skip


async def test_a_key_opens_by_its_header_only(api: Api, cast: Cast, root: Person) -> None:
    bot = await key_of(api, root, "bot")
    team = await api.thread(cast.ada, bot)
    refused(await api.get(f"/api/threads/{team}/stream?token={bot.token}"), 401)
    refused(await api.get("/api/me", headers={"Cookie": f"bobbin_session={bot.token}"}), 401)
    for wrong in ("bbk_", bot.token[:-1], bot.token + "x", bot.token.replace("bbk_", "BBK_")):
        refused(await api.get("/api/me", headers={"Authorization": f"Bearer {wrong}"}), 401, "unauthorized")
    ok(await api.get("/api/me", as_=bot))


async def test_keys_are_paged_newest_first(api: Api, root: Person) -> None:
    made = [(await key_of(api, root, "bot")).session_id for _ in range(5)]
    seen: list[int] = []
    cursor = ""
    while len(seen) < 5:
        page = ok(await api.get(f"/api/admin/keys?limit=2{cursor}", as_=root))
        seen += [key["id"] for key in page["keys"]]
        cursor = f"&cursor={page['nextCursor']}"
    assert seen[:5] == made[::-1]
    refused(await api.get("/api/admin/keys?cursor=x", as_=root), 400, "bad_cursor")


async def test_the_use_of_a_key_is_noted_once_an_hour(api: Api, root: Person, db: asyncpg.Pool) -> None:
    bot = await key_of(api, root, "bot")

    async def stale() -> bool:
        row = await sessions.by_key(db, hash=digest(bot.token))
        assert row is not None and row["session_id"] == bot.session_id
        return bool(row["stale"])

    assert await stale()
    ok(await api.get("/api/me", as_=bot))
    used = (await listed(api, root))[bot.session_id]["lastUsedAt"]
    assert used is not None and not await stale()
    await db.execute(
        "UPDATE sessions SET last_used_at = last_used_at - interval '61 minutes' WHERE id = $1",
        bot.session_id,
    )
    assert await stale()


def test_a_worker_remembers_the_newest_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CACHED_TOKENS", 3)
    found: dict[int, tuple[Caller, float]] = {}
    for number in range(10):
        sessions._remember(found, number, Caller(1, number))
    assert list(found) == [7, 8, 9]


# ---- hosts and their guests


async def test_of_ten_at_once_who_bring_the_same_guest_one_makes_them(
    api: Api, root: Person, db: asyncpg.Pool
) -> None:
    host = await key_of(api, root, "host")
    handle = f"guest{next(NUMBERS)}"
    guests = await asyncio.gather(*(mint(api, host, "u-1", "Grace", username=handle) for _ in range(10)))
    assert len({guest.id for guest in guests}) == 1
    rows = await db.fetch(
        "SELECT id, username, email FROM users WHERE external_id = $1", f"host:{host.id}:u-1"
    )
    assert [tuple(row) for row in rows] == [(guests[0].id, handle, None)]
    assert await db.fetchval("SELECT count(*) FROM sessions WHERE user_id = $1", guests[0].id) == 1
    assert [ok(await api.get("/api/me", as_=guest))["user"]["id"] for guest in guests] == [guests[0].id] * 10
    acts = ok(await api.get(f"/api/admin/audit?userId={guests[0].id}", as_=root))["entries"]
    assert [entry["act"] for entry in acts] == ["session.opened", "host.user.made"]


async def test_a_guest_is_known_by_the_name_that_their_host_says_last(
    api: Api, cast: Cast, root: Person
) -> None:
    host = await key_of(api, root, "host")
    handle = f"taken{next(NUMBERS)}"
    first = await mint(api, host, "1", "Grace", username=handle)
    other = await mint(api, host, "2", "Heidi", username=handle)
    again = await mint(api, host, "1", "  Grace H. ", username="ignored")
    assert (again.id, again.name) == (first.id, "Grace H.") and other.id != first.id
    assert ok(await api.get("/api/me", as_=again))["user"]["username"] == handle
    assert ok(await api.get("/api/me", as_=other))["user"]["username"].startswith(handle)
    team = await api.thread(cast.ada, first)
    assert (await api.say(team, first, "hello"))["author"] == {
        "id": first.id,
        "name": "Grace H.",
        "kind": "user",
    }
    refused(await api.post("/api/auth/login", {"username": handle, "password": "password"}), 401)


async def test_two_hosts_never_reach_each_others_guests(api: Api, root: Person) -> None:
    one, two = await key_of(api, root, "host"), await key_of(api, root, "host")
    mine, theirs = await mint(api, one, "7"), await mint(api, two, "7")
    assert mine.id != theirs.id
    tricky = await mint(api, one, f"{two.id}:7")
    assert tricky.id not in (mine.id, theirs.id)
    await mint(api, two, "only theirs")
    refused(await api.delete("/api/host/users/only%20theirs/sessions", as_=one), 404, "not_found")
    ok(await api.delete("/api/host/users/7/sessions", as_=one), 204)
    await out(api, mine)
    ok(await api.get("/api/me", as_=theirs))


async def test_a_session_of_a_guest_goes_on_as_long_as_the_host_asks(
    api: Api, cast: Cast, root: Person, db: asyncpg.Pool
) -> None:
    host = await key_of(api, root, "host")
    guest = await mint(api, host, device="phone")
    living = """SELECT id, expires_at FROM sessions WHERE user_id = $1 AND ended_at IS NULL AND expires_at > now()
                ORDER BY id"""
    (before,) = await db.fetch(living, guest.id)
    again = await mint(api, host, device="phone")
    (after,) = await db.fetch(living, guest.id)
    assert after["id"] == before["id"] and after["expires_at"] > before["expires_at"]
    tablet = await mint(api, host, device="tablet")
    assert len(await db.fetch(living, guest.id)) == 2
    assert {one["userAgent"] for one in ok(await api.get("/api/auth/sessions", as_=guest))["sessions"]} == {
        "phone", "tablet",
    }  # fmt: skip
    # Ended, by the guest's own logout, or expired: another one is opened.
    ok(await api.post("/api/auth/logout", as_=again), 204)
    refused(await api.get("/api/me", as_=guest), 401, "session_ended")
    ok(await api.get("/api/me", as_=tablet))
    await mint(api, host, device="phone")
    ids = [row["id"] for row in await db.fetch(living, guest.id)]
    assert len(ids) == 2 and before["id"] not in ids
    await db.execute(
        "UPDATE sessions SET expires_at = now() + interval '1 second' WHERE user_id = $1", guest.id
    )
    ok(await api.get("/api/me", as_=await mint(api, host, device="phone")))
    assert max(row["id"] for row in await db.fetch(living, guest.id)) > max(ids)


async def test_sessions_of_guests_that_are_long_over_are_cleared_up(
    api: Api, root: Person, db: asyncpg.Pool
) -> None:
    host = await key_of(api, root, "host")
    gone = [await mint(api, host, str(n)) for n in range(5)]
    await db.execute(
        "UPDATE sessions SET expires_at = now() - interval '25 hours' WHERE user_id = ANY($1)",
        [g.id for g in gone],
    )
    await mint(api, host, "new")
    left = await db.fetchval("SELECT count(*) FROM sessions WHERE user_id = ANY($1)", [g.id for g in gone])
    assert left == 0


async def test_a_host_ends_the_sessions_of_a_guest(api: Api, cast: Cast, root: Person) -> None:
    host = await key_of(api, root, "host")
    for external_id in ("a/b", "ü 1", "%2F", "a.b", "x" * 128):
        guest = await mint(api, host, external_id)
        tablet = await mint(api, host, external_id, device="tablet")
        team = await api.thread(cast.ada, guest)
        url = f"/api/host/users/{quote(external_id, safe='')}/sessions"
        async with api.stream(team, guest) as stream:
            ok(await api.delete(url, as_=host), 204)
            async with asyncio.timeout(1):
                await stream.end()
        for one in (guest, tablet):
            await out(api, one)
        ok(await api.delete(url, as_=host), 204)
        ok(await api.get("/api/me", as_=await mint(api, host, external_id)))
    for nobody in ("nobody", "%00", "%ff", "%ED%A0%80"):
        refused(await api.delete(f"/api/host/users/{nobody}/sessions", as_=host), 404, "not_found")


async def test_a_deactivated_guest_is_out_and_gets_no_token(api: Api, root: Person) -> None:
    host = await key_of(api, root, "host")
    guest = await mint(api, host)
    async with shut_out(api, guest):
        await set_out(api, root, guest)
    body = {"externalId": "1", "name": "Another name"}
    refused(await api.post("/api/host/tokens", body, as_=host), 403, "deactivated")
    assert ok(await api.get(f"/api/admin/users/{guest.id}", as_=root))["user"]["name"] == "Guest"
    await set_out(api, root, guest, active=True)
    ok(await api.get("/api/me", as_=await mint(api, host)))


@pytest.mark.parametrize("how", ["revoked", "deactivated"])
async def test_with_the_key_of_a_host_go_all_its_guests(api: Api, cast: Cast, root: Person, how: str) -> None:
    host = await key_of(api, root, "host")
    sister = await key_of(api, root, "host", userId=host.id)
    guests = [await mint(api, host, str(n)) for n in range(3)]
    hers = await mint(api, sister, "0")
    assert hers.id == guests[0].id
    team = await api.thread(cast.ada, guests[0])
    async with api.stream(team, guests[0]) as stream:
        async with shut_out(api, *guests):
            if how == "revoked":
                ok(await api.delete(f"/api/admin/keys/{host.session_id}", as_=root), 204)
            else:
                await set_out(api, root, host)
        async with asyncio.timeout(1):
            await stream.end()
    await until(lambda: refuses(api, host), "the key itself")
    if how == "revoked":
        ok(await api.get("/api/me", as_=hers))
        ok(await api.get("/api/me", as_=await mint(api, sister, "0")))
    else:
        await out(api, hers)
        assert await refuses(api, sister)


async def refuses(api: Api, host: Person) -> bool:
    return (await api.post("/api/host/tokens", {"externalId": "0", "name": "x"}, as_=host)).status == 401


async def test_a_token_that_is_minted_while_its_key_is_revoked_does_not_outlive_it(
    api: Api, root: Person
) -> None:
    for _ in range(3):
        host = await key_of(api, root, "host")
        await mint(api, host)
        *minted, gone = await asyncio.gather(
            *(
                api.post("/api/host/tokens", {"externalId": str(n), "name": "Guest"}, as_=host)
                for n in range(8)
            ),
            api.delete(f"/api/admin/keys/{host.session_id}", as_=root),
        )
        assert gone.status == 204 and {reply.status for reply in minted} <= {200, 401}
        for reply in minted:
            if reply.status == 200:
                guest = Person(0, "", reply.json["accessToken"])
                await out(api, guest)


async def test_a_host_calls_nothing_else_and_nobody_else_calls_it(api: Api, cast: Cast, root: Person) -> None:
    host, bot = await key_of(api, root, "host"), await key_of(api, root, "bot")
    guest = await mint(api, host)
    for path in ("/api/me", "/api/threads", "/api/auth/sessions", "/api/admin/users"):
        refused(await api.get(path, as_=host), 403, "wrong_key")
    refused(await api.post("/api/auth/stream-token", as_=host), 403, "wrong_key")
    refused(await api.get(f"/api/threads/{cast.team}/stream", as_=host), 403, "wrong_key")
    body = {"externalId": "1", "name": "x"}
    for who in (bot, guest, cast.ada, root):
        refused(await api.post("/api/host/tokens", body, as_=who), 403, "wrong_key")
        refused(await api.delete("/api/host/users/1/sessions", as_=who), 403, "wrong_key")
    for wrong in (
        {"name": "x"},
        body | {"externalId": ""},
        body | {"externalId": "x" * 129},
        body | {"device": "x" * 65},
    ):
        refused(await api.post("/api/host/tokens", wrong, as_=host), 422)


async def test_no_key_and_no_token_of_a_guest_reaches_the_log(
    api: Api, cast: Cast, root: Person, server: Bobbin
) -> None:
    bot, host = await key_of(api, root, "bot"), await key_of(api, root, "host")
    guest = await mint(api, host, "an id for no log", "A name for no log")
    for secret in (bot.token, host.token):
        headers = {"Authorization": f"Bearer {secret}x"}
        refused(await api.get(f"/api/threads/{cast.team}/messages?cursor={secret}", headers=headers), 401)
        await api.get(f"/api/threads/{secret}/messages", as_=bot)
        await api.delete(f"/api/host/users/{secret}/sessions", as_=host)
    ok(await api.delete("/api/host/users/an%20id%20for%20no%20log/sessions", as_=host), 204)
    new = "a password for no log"
    ok(await api.post(f"/api/admin/users/{cast.ben.id}/password", {"new": new}, as_=root), 204)
    ok(await api.get("/api/me", as_=bot, headers={"X-Request-Id": "the-last-of-the-keys"}))
    server.wait_for("the-last-of-the-keys")
    said = server.said()
    assert "/api/host/tokens" in said, "this test looks at no log"
    for secret in (bot.token, host.token, guest.token, new, "an id for no log", "A name for no log"):
        assert secret not in said
