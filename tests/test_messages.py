"""The log of a thread over HTTP."""

from tests.client import Api
from tests.conftest import Cast


async def test_pages_walk_to_the_last_message_and_back_without_gap_or_repeat(api: Api, cast: Cast) -> None:
    for number in range(1, 8):
        await api.say(cast.team, cast.ada, f"message {number}")
    for order in ("asc", "desc"):
        url = f"/api/threads/{cast.team}/messages?order={order}&limit=3"
        first = (await api.get(url, as_=cast.ben)).json
        assert first["prevCursor"] is None
        seen, page, last = [m["seq"] for m in first["items"]], first, first
        while page["nextCursor"]:
            page = (await api.get(f"{url}&cursor={page['nextCursor']}", as_=cast.ben)).json
            seen += [m["seq"] for m in page["items"]]
            last = page
        assert seen == (list(range(1, 8)) if order == "asc" else list(range(7, 0, -1)))
        back = (await api.get(f"{url}&cursor={last['prevCursor']}", as_=cast.ben)).json
        assert [m["seq"] for m in back["items"]] == ([4, 5, 6] if order == "asc" else [4, 3, 2])


async def test_a_thread_is_found_by_members_and_not_found_by_outsiders(api: Api, cast: Cast) -> None:
    await api.say(cast.team, cast.ada, "hello")
    url = f"/api/threads/{cast.team}/messages"
    member, outsider = await api.get(url, as_=cast.ben), await api.get(url, as_=cast.mallory)
    assert (member.status, outsider.status) == (200, 404)
    assert outsider.json["code"] == "not_found"
