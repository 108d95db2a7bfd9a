"""Invites: links by which people come into a group or channel, so often and so long as they say."""

import asyncio
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from server import members
from server.base.access import digest
from tests.client import Api, Person, Reply
from tests.conftest import Cast, Maker
from tests.ops.process import Bobbin
from tests.rules import dense, ok, refused, waits_for_a_lock


async def invite(api: Api, thread_id: int, who: Person, **body: Any) -> Any:
    """A new invite, with its token."""
    return ok(await api.post(f"/api/threads/{thread_id}/invites", body, as_=who), 201)["invite"]


async def accept(api: Api, token: str, who: Person) -> Reply:
    return await api.post(f"/api/invites/{token}/accept", as_=who)


async def uses(api: Api, thread_id: int, who: Person) -> dict[int, int]:
    """The uses of the living invites of a thread."""
    found = ok(await api.get(f"/api/threads/{thread_id}/invites", as_=who))["invites"]
    return {one["id"]: one["uses"] for one in found}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("kind", ["group", "channel"])
async def test_a_link_leads_in(api: Api, cast: Cast, people: Maker, db: asyncpg.Pool, kind: str) -> None:
    thread_id = await api.thread(cast.ada, cast.ben, kind=kind)
    await api.say(thread_id, cast.ada, "before")
    made = await invite(api, thread_id, cast.ada)
    assert set(made) == {"id", "token", "url", "createdAt", "createdBy", "expiresAt", "maxUses", "uses"}
    assert (made["createdBy"], made["maxUses"], made["uses"]) == (cast.ada.id, None, 0)
    assert set(ok(await api.post(f"/api/threads/{thread_id}/invites", as_=cast.ada), 201)["invite"]) == set(
        made
    )
    assert (moment(made["expiresAt"]) - moment(made["createdAt"])).total_seconds() == 7 * 86400
    assert made["url"] == f"{api.base}/invite/{made['token']}"
    async with api.stream(thread_id, cast.ben) as stream:
        thread = ok(await accept(api, made["token"], cast.mallory))["thread"]
        joined = await stream.next()
        assert (joined.name, joined.data["act"], joined.data["userId"]) == (
            "member",
            "joined",
            cast.mallory.id,
        )
    assert (thread["id"], thread["role"], thread["unreadCount"]) == (thread_id, "member", 0)
    assert thread == ok(await api.get(f"/api/threads/{thread_id}", as_=cast.mallory))["thread"]
    page = ok(await api.get(f"/api/threads/{thread_id}/messages", as_=cast.mallory))
    assert len(page["items"]) == (0 if kind == "group" else 1)  # of a group one sees what is said from now on
    await dense(db, thread_id)


async def test_whoever_is_in_takes_no_use_and_may_ask_again(api: Api, cast: Cast) -> None:
    made = await invite(api, cast.team, cast.ada, maxUses=1)
    for who in (cast.ada, cast.ben):
        assert ok(await accept(api, made["token"], who))["thread"]["id"] == cast.team
    assert await uses(api, cast.team, cast.ada) == {made["id"]: 0}
    first = ok(await accept(api, made["token"], cast.mallory))["thread"]
    assert ok(await accept(api, made["token"], cast.mallory))["thread"] == first  # used up by herself
    assert await uses(api, cast.team, cast.ada) == {}


async def test_the_token_is_told_once_and_written_down_nowhere(
    api: Api, cast: Cast, db: asyncpg.Pool, server: Bobbin
) -> None:
    made = await invite(api, cast.team, cast.ada)
    listed = await api.get(f"/api/threads/{cast.team}/invites", as_=cast.ada)
    assert ok(listed)["invites"] == [{k: v for k, v in made.items() if k not in ("token", "url")}]
    ok(await accept(api, made["token"], cast.mallory))
    refused(await api.get(f"/api/invites/{made['token']}/accept", as_=cast.ben), 405)
    refused(await api.get(f"/invite/{made['token']}/nowhere", as_=cast.ben), 404)
    stored = await db.fetchrow(
        """SELECT (SELECT string_agg(i::text, ' ') FROM invites i) || (SELECT string_agg(a::text, ' ') FROM audit a)
            AS all, (SELECT token_hash FROM invites WHERE id = $1) AS hash""",
        made["id"],
    )
    assert stored is not None and stored["hash"] == digest(made["token"])
    said = server.said()
    assert "/api/invites/<token:str>/accept" in said
    assert made["token"] not in said + listed.body.decode() + stored["all"]


async def test_only_admins_and_moderators_invite_see_and_revoke(api: Api, cast: Cast) -> None:
    url = f"/api/threads/{cast.team}/invites"
    made = await invite(api, cast.team, cast.ada)
    for who, status, code in ((cast.ben, 403, "forbidden"), (cast.mallory, 404, "not_found")):
        refused(await api.post(url, {}, as_=who), status, code)
        refused(await api.get(url, as_=who), status, code)
        refused(await api.delete(f"{url}/{made['id']}", as_=who), status, code)
    ok(
        await api.patch(
            f"/api/threads/{cast.team}/members/{cast.ben.id}", {"role": "moderator"}, as_=cast.ada
        )
    )
    second = await invite(api, cast.team, cast.ben)
    assert list(await uses(api, cast.team, cast.ben)) == [second["id"], made["id"]]  # newest first
    ok(await api.delete(f"{url}/{made['id']}", as_=cast.ben), 204)
    refused(await api.delete(f"{url}/{made['id']}", as_=cast.ben), 404)
    other = await api.thread(cast.ben)
    refused(
        await api.delete(f"/api/threads/{other}/invites/{second['id']}", as_=cast.ben), 404
    )  # not of this one
    assert list(await uses(api, cast.team, cast.ada)) == [second["id"]]


async def test_a_direct_thread_has_no_invites(api: Api, cast: Cast) -> None:
    url = f"/api/threads/{await api.thread(cast.ada, cast.ben, kind='direct')}/invites"
    refused(await api.post(url, {}, as_=cast.ada), 409, "direct_thread")
    refused(await api.get(url, as_=cast.ada), 409, "direct_thread")
    refused(await api.delete(f"{url}/1", as_=cast.ada), 409, "direct_thread")
    refused(await api.get(url, as_=cast.mallory), 404)


async def test_what_an_invite_may_say(api: Api, cast: Cast) -> None:
    url = f"/api/threads/{cast.team}/invites"
    for body, field in (
        ({"expiresIn": 59}, "expiresIn"), ({"expiresIn": 30 * 86400 + 1}, "expiresIn"),
        ({"expiresIn": -1}, "expiresIn"),
        ({"maxUses": 0}, "maxUses"), ({"maxUses": 1001}, "maxUses"), ({"maxUses": 10**30}, "maxUses"),
    ):  # fmt: skip
        assert set(refused(await api.post(url, body, as_=cast.ada), 422)["details"]) == {field}
    for wrong in ({"expiresIn": "60"}, {"maxUses": 1.5}, {"maxUses": True}):
        refused(await api.post(url, wrong, as_=cast.ada), 400, "wrong_type")
    for seconds in (60, 30 * 86400):
        made = await invite(api, cast.team, cast.ada, expiresIn=seconds, maxUses=1000)
        assert (moment(made["expiresAt"]) - moment(made["createdAt"])).total_seconds() == seconds
        assert made["maxUses"] == 1000
    refused(await api.post(url, {}), 401)


async def test_a_dead_link_is_a_404(api: Api, cast: Cast, people: Maker, db: asyncpg.Pool) -> None:
    url = f"/api/threads/{cast.team}/invites"
    revoked, expired, used, living = [await invite(api, cast.team, cast.ada, maxUses=1) for _ in "1234"]
    ok(await api.delete(f"{url}/{revoked['id']}", as_=cast.ada), 204)
    await db.execute("UPDATE invites SET expires_at = now() WHERE id = $1", expired["id"])
    ok(await accept(api, used["token"], await people("eve")))
    assert list(await uses(api, cast.team, cast.ada)) == [living["id"]]
    for dead in (revoked, expired, used):
        refused(await accept(api, dead["token"], cast.mallory), 404, "not_found")
        refused(await api.delete(f"{url}/{dead['id']}", as_=cast.ada), 404)
    for unknown in (
        "x",
        living["token"][:-1],
        living["token"] + "x",
        living["token"].swapcase(),
        "%00",
        "%ff",
        "a" * 5000,
    ):
        refused(await accept(api, unknown, cast.mallory), 404, "not_found")
    refused(await api.post(f"/api/invites/{living['token']}/accept"), 401)
    ok(await api.delete(f"/api/threads/{cast.team}", as_=cast.ada), 204)
    for who in (cast.mallory, cast.ben):
        refused(await accept(api, living["token"], who), 404, "not_found")
    refused(await api.get(url, as_=cast.ada), 404)


async def test_of_fifty_at_once_on_ten_uses_ten_come_in(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    crowd = [await people(f"p{number}") for number in range(50)]
    made = await invite(api, cast.team, cast.ada, maxUses=10)
    async with db.acquire() as conn, conn.transaction():
        await members.hold_head(conn, thread_id=cast.team)
        racing = asyncio.gather(*(accept(api, made["token"], who) for who in crowd))
        await waits_for_a_lock(db, "members.hold_head", count=2)
    statuses = [reply.status for reply in await racing]
    assert sorted(statuses) == [200] * 10 + [404] * 40
    for who, status in zip(crowd, statuses, strict=True):
        assert (await api.get(f"/api/threads/{cast.team}", as_=who)).status == status
    assert await db.fetchval("SELECT uses FROM invites WHERE id = $1", made["id"]) == 10
    await dense(db, cast.team)


async def test_one_person_twenty_times_at_once_takes_one_use(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    for max_uses in (1, 5):
        thread_id = await api.thread(cast.ada)
        made = await invite(api, thread_id, cast.ada, maxUses=max_uses)
        async with db.acquire() as conn, conn.transaction():
            await members.hold_head(conn, thread_id=thread_id)
            racing = asyncio.gather(*(accept(api, made["token"], cast.mallory) for _ in range(20)))
            await waits_for_a_lock(db, "members.hold_head", count=2)
        assert {reply.status for reply in await racing} == {200}
        assert await db.fetchval("SELECT uses FROM invites WHERE id = $1", made["id"]) == 1
        await dense(db, thread_id)


async def test_who_was_removed_does_not_come_back_by_an_older_link(
    api: Api, cast: Cast, people: Maker
) -> None:
    members_url, eve = f"/api/threads/{cast.team}/members", await people("eve")
    older = await invite(api, cast.team, cast.ada)
    for who in (cast.mallory, eve):
        ok(await accept(api, older["token"], who))
    ok(await api.post(f"/api/threads/{cast.team}/leave", as_=eve), 204)
    ok(await api.delete(f"{members_url}/{cast.mallory.id}", as_=cast.ada), 204)
    ok(await accept(api, older["token"], eve))  # who left of her own will
    refused(await accept(api, older["token"], cast.mallory), 404, "not_found")
    assert await uses(api, cast.team, cast.ada) == {older["id"]: 3}
    newer = await invite(api, cast.team, cast.ada)
    ok(await accept(api, newer["token"], cast.mallory))
    ok(await api.post(f"/api/threads/{cast.team}/leave", as_=cast.mallory), 204)
    refused(await accept(api, older["token"], cast.mallory), 404)
    ok(await accept(api, newer["token"], cast.mallory))


async def test_an_accept_that_waits_while_the_invite_is_revoked_comes_too_late(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    made = await invite(api, cast.team, cast.ada)
    async with db.acquire() as conn, conn.transaction():
        await members.hold_head(conn, thread_id=cast.team)
        late = asyncio.create_task(accept(api, made["token"], cast.mallory))
        await waits_for_a_lock(db, "members.hold_head")
        await conn.execute("UPDATE invites SET ended_at = now() WHERE id = $1", made["id"])
    refused(await late, 404, "not_found")


async def test_a_thread_has_a_hundred_living_invites(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    url = f"/api/threads/{cast.team}/invites"
    first = await invite(api, cast.team, cast.ada)
    for _ in range(97):
        await invite(api, cast.team, cast.ada)
    replies = await asyncio.gather(*(api.post(url, {}, as_=cast.ada) for _ in range(10)))
    assert sorted(reply.status for reply in replies) == [201] * 2 + [409] * 8
    refused(await api.post(url, {}, as_=cast.ada), 409, "too_many_invites")
    assert len(await uses(api, cast.team, cast.ada)) == 100
    ok(await api.delete(f"{url}/{first['id']}", as_=cast.ada), 204)
    await invite(api, cast.team, cast.ada)
    await db.execute("UPDATE invites SET expires_at = now() WHERE thread_id = $1", cast.team)
    await invite(api, cast.team, cast.ada)
    assert len(await uses(api, cast.team, cast.ada)) == 1


async def test_invites_and_who_is_in_are_audited(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    url, ada, mallory = f"/api/threads/{cast.team}", cast.ada, cast.mallory
    made, gone = await invite(api, cast.team, ada), await invite(api, cast.team, ada)
    ok(await api.delete(f"{url}/invites/{gone['id']}", as_=ada), 204)
    ok(await accept(api, made["token"], mallory))
    ok(await accept(api, made["token"], mallory))  # no second note
    ok(await api.patch(f"{url}/members/{mallory.id}", {"role": "moderator"}, as_=ada))
    ok(await api.patch(f"{url}/members/{mallory.id}", {"role": "moderator"}, as_=ada))
    ok(await api.delete(f"{url}/members/{mallory.id}", as_=ada), 204)
    ok(await api.post(f"{url}/members", {"userId": mallory.id}, as_=ada), 201)
    refused(await api.post(f"{url}/members", {"userId": mallory.id}, as_=ada), 409)
    ok(await api.delete(url, as_=ada), 204)
    notes = await db.fetch(
        "SELECT act, actor_id, subject_id, details::text FROM audit WHERE thread_id = $1 ORDER BY id",
        cast.team,
    )
    assert [tuple(note) for note in notes] == [
        ("invite.made", ada.id, None, f'{{"inviteId": {made["id"]}}}'),
        ("invite.made", ada.id, None, f'{{"inviteId": {gone["id"]}}}'),
        ("invite.revoked", ada.id, None, f'{{"inviteId": {gone["id"]}}}'),
        ("invite.accepted", mallory.id, mallory.id, f'{{"inviteId": {made["id"]}}}'),
        ("member.role", ada.id, mallory.id, '{"role": "moderator"}'),
        ("member.removed", ada.id, mallory.id, "{}"),
        ("member.added", ada.id, mallory.id, '{"role": "member"}'),
        ("thread.deleted", ada.id, None, "{}"),
    ]
