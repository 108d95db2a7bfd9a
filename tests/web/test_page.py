"""The web client in a browser, Debian's chromium: two people, each in a page of their own."""

import asyncio
import contextlib
import gzip
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from server import pages
from server.base.access import Tokens
from tests.client import NUMBERS, Api, Person
from tests.conftest import SECRET, Cast
from tests.rules import dense, ok

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
browsers = pytest.mark.skipif(not os.path.exists(CHROMIUM), reason=f"there is no {CHROMIUM}")
HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script> javascript:alert(3) &amp; \u202edesrever "
    "Z\u0351\u036b\u0343a\u0369\u0366lgo https://example.org/?q=<b>"
)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        )
        yield browser
        await browser.close()


Opener = Callable[..., Awaitable[Page]]


@pytest.fixture
async def opened(browser: Browser, address: str) -> AsyncIterator[Opener]:
    """A page of somebody's own browser: await opened(ada, "/threads/7"). At the end no page may have had an error."""
    tokens, errors = Tokens(SECRET), list[str]()
    async with contextlib.AsyncExitStack() as stack:

        async def open_(person: Person | None, path: str = "/") -> Page:
            context = await browser.new_context()
            stack.push_async_callback(context.close)
            if person is not None:
                values = (
                    ("bobbin_session", tokens.cookie(session_id=person.session_id)),
                    ("bobbin_csrf", tokens.csrf(person.session_id)),
                )
                await context.add_cookies([{"name": k, "value": v, "url": address} for k, v in values])
            page = await context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("dialog", lambda dialog: errors.append(f"a dialog: {dialog.message}"))
            await page.goto(address + path)
            return page

        yield open_
    assert errors == []


async def write(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")


async def texts(page: Page) -> list[str]:
    return await page.locator(".messages .message p").all_inner_texts()


@browsers
async def test_one_registers_signs_out_and_in_again(opened: Opener) -> None:
    page, name = await opened(None), f"web{next(NUMBERS)}x{os.getpid()}"
    await page.get_by_role("button", name="Register instead").click()
    await page.get_by_label("Name").fill("Wanda")
    await page.get_by_label("Email").fill(f"{name}@example.com")
    await page.get_by_label("Password").fill("long enough")
    await page.get_by_role("button", name="Register", exact=True).click()
    await expect(page.get_by_text("No conversation yet.")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_label("Email or username").fill(f"{name}@example.com")
    await page.get_by_label("Password").fill("a wrong one")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).not_to_be_empty()
    await page.get_by_label("Password").fill("long enough")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_text("Wanda")).to_be_visible()


@browsers
async def test_two_people_talk_and_see_each_other_at_once(api: Api, cast: Cast, opened: Opener) -> None:
    await api.say(cast.team, cast.ada, "Before")
    ada, ben = await opened(cast.ada, f"/threads/{cast.team}"), await opened(cast.ben)
    badge = ben.locator(".badge")
    await expect(badge).to_have_text("1")
    await write(ada, "Hello ben")
    await expect(ada.locator(".messages.waiting .message")).to_have_count(0)
    await expect(badge).to_have_text("2")
    await expect(ben.locator(".threads .last")).to_have_text("ada: Hello ben")
    await ben.locator(".threads a").click()
    await expect(ben.locator(".message p").last).to_have_text("Hello ben")
    await expect(badge).to_have_count(0)  # what is in sight is read
    await ben.get_by_label("Message", exact=True).press_sequentially("Hi")
    await expect(ada.locator(".typing")).to_contain_text("ben")
    await ben.keyboard.press("Enter")
    await expect(ada.locator(".message p").last).to_have_text("Hi")
    await expect(ada.locator(".typing")).to_be_empty()
    await ben.reload()
    await expect(ben.locator(".message p").last).to_have_text("Hi")
    assert await texts(ada) == await texts(ben) == ["Before", "Hello ben", "Hi"]
    await ada.locator(".message", has_text="Hi").hover()
    await ada.get_by_role("button", name="Reply to ben").last.click()
    await write(ada, "How are you?")
    await expect(ben.locator(".quote")).to_have_text("ben: Hi")
    ok(await api.patch(f"/api/threads/{cast.team}/messages/1", {"text": "Before all"}, as_=cast.ada))
    await expect(ben.locator(".message p").first).to_have_text("Before all")
    ok(await api.delete(f"/api/threads/{cast.team}/messages/2", as_=cast.ada), 204)
    await expect(ben.locator(".message p").nth(1)).to_have_text("Deleted")


@browsers
async def test_what_is_written_while_the_server_is_away_arrives_once_and_in_order(
    api: Api, cast: Cast, db: asyncpg.Pool, opened: Opener
) -> None:
    page = await opened(cast.ada, f"/threads/{cast.team}")
    sends, is_lost = f"**/api/threads/{cast.team}/messages", asyncio.Event()

    async def lost(route: Any) -> None:
        """It arrives, and its answer does not."""
        if route.request.method == "POST":
            await route.fetch()
            await route.abort()
            is_lost.set()
        else:
            await route.continue_()

    async def refused(route: Any) -> None:
        await (route.abort() if route.request.method == "POST" else route.continue_())

    await expect(page.get_by_label("Message", exact=True)).to_be_visible()
    await page.route(sends, lost)
    await write(page, "one")
    await expect(page.locator(".message p")).to_have_text(["one"])  # as its event has come
    await asyncio.wait_for(is_lost.wait(), 10)
    await page.unroute(sends)
    await page.route(sends, refused)
    for text in ("two", "three"):
        await write(page, text)
    await expect(page.locator(".messages.waiting .message.sending p")).to_have_text(["two", "three"])
    await page.reload()
    await expect(page.locator(".messages.waiting .message.sending p")).to_have_text(["two", "three"])
    assert await dense(db, cast.team) == 1
    await page.unroute(sends)
    await page.evaluate("dispatchEvent(new Event('online'))")
    await expect(page.locator(".messages.waiting .message")).to_have_count(0)
    await expect(page.locator(".message p")).to_have_text(["one", "two", "three"])
    assert await dense(db, cast.team) == 3


@browsers
async def test_what_is_refused_says_so_and_can_be_taken_away(api: Api, cast: Cast, opened: Opener) -> None:
    page = await opened(cast.ada, f"/threads/{cast.team}")
    await expect(page.get_by_label("Message", exact=True)).to_be_visible()
    await write(page, "x" * 10_001)
    failed = page.locator(".message.failed")
    await expect(failed.locator(".status")).to_contain_text("text")
    await failed.get_by_role("button", name="Delete").click()
    await expect(failed).to_have_count(0)


@browsers
async def test_a_text_is_never_more_than_text(api: Api, cast: Cast, opened: Opener) -> None:
    await api.say(cast.team, cast.ada, HOSTILE)
    page = await opened(cast.ben, f"/threads/{cast.team}")
    said = page.locator(".message p")
    await expect(said).to_have_text(HOSTILE)
    assert await said.locator("*").evaluate_all("found => found.map(one => one.tagName)") == ["A"]
    link = said.locator("a")
    assert await link.get_attribute("href") == "https://example.org/?q="
    assert "noopener" in str(await link.get_attribute("rel"))


@browsers
async def test_a_long_thread_is_walked_with_few_nodes_and_opened_anywhere(
    cast: Cast, db: asyncpg.Pool, opened: Opener
) -> None:
    await db.execute(
        """WITH head AS (
               UPDATE thread_heads
               SET last_seq = 2000, last_rev = last_rev + 2000, message_count = 2000, last_message_at = now()
               WHERE thread_id = $1 RETURNING last_rev - 2000 AS rev
           ), message AS (
               INSERT INTO messages (thread_id, seq, rev, author_id, text, created_at)
               SELECT $1, n, head.rev + n, $2, 'message ' || n, now() - (2001 - n) * interval '1 minute'
               FROM head, generate_series(1, 2000) n
           )
           INSERT INTO changes (thread_id, rev, kind, seq)
           SELECT $1, head.rev + n, 'message', n FROM head, generate_series(1, 2000) n""",
        cast.team,
        cast.ada.id,
    )
    page = await opened(cast.ada, f"/threads/{cast.team}?at=1000")
    await expect(page.locator("#m1000.found")).to_be_in_viewport()
    scroller = page.locator(".timeline")
    seen = set[int]()
    async with asyncio.timeout(40):
        while 1 not in seen:
            await scroller.evaluate("one => { one.scrollTop -= 4000 }")
            await page.evaluate("() => new Promise(requestAnimationFrame)")
            rows = await page.locator(".message").evaluate_all(
                "all => all.map(one => Number(one.dataset.seq))"
            )
            assert rows == list(range(rows[0], rows[-1] + 1)) and len(rows) <= 600
            seen.update(rows)
    assert set(range(1, 1001)) <= seen
    await page.locator(".newest").click()
    await expect(page.locator("#m2000")).to_be_in_viewport()


@browsers
async def test_a_conversation_begins_and_an_address_leads_back_to_it(
    api: Api, cast: Cast, opened: Opener, db: asyncpg.Pool
) -> None:
    page = await opened(cast.ada)
    handle = await db.fetchval("SELECT username FROM users WHERE id = $1", cast.mallory.id)
    await page.get_by_role("button", name="New conversation").click()
    await page.get_by_label("Find people or channels").fill(handle)
    await page.get_by_role("button", name=f"@{handle}").click()
    await write(page, "Hello")
    await expect(page.locator(".message p")).to_have_text(["Hello"])
    thread = int(page.url.rpartition("/")[2])
    assert ok(await api.get(f"/api/threads/{thread}", as_=cast.mallory))["thread"]["kind"] == "direct"
    await page.locator(f'.threads a[href="/threads/{cast.team}"]').click()
    await expect(page.get_by_role("main").get_by_role("heading")).not_to_have_text("mallory")
    assert page.url.endswith(f"/threads/{cast.team}")
    await page.go_back()
    await expect(page.locator(".message p")).to_have_text(["Hello"])
    stranger = await opened(cast.ben, f"/threads/{thread}")
    await expect(stranger.get_by_role("alert")).to_have_text("There is no such conversation.")


@browsers
async def test_whose_session_ends_is_asked_to_sign_in(api: Api, cast: Cast, opened: Opener) -> None:
    page = await opened(cast.ada, f"/threads/{cast.team}")
    await expect(page.get_by_label("Message", exact=True)).to_be_visible()
    ok(await api.delete(f"/api/auth/sessions/{cast.ada.session_id}", as_=cast.ada), 204)
    await expect(page.get_by_role("button", name="Sign in")).to_be_visible()


async def test_its_files_are_small_known_again_and_our_own(address: str) -> None:
    async with httpx.AsyncClient(base_url=address) as client:
        for path in ("/", "/threads/7"):
            page = await client.get(path)
            assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
            assert page.headers["content-security-policy"] == pages.POLICY
            assert "unsafe" not in pages.POLICY and "<script type" in page.text
        total = 0
        for name, file in pages.files().items():
            first = await client.get(f"/web/{name}")
            assert first.content == file.plain == gzip.decompress(file.packed)
            assert first.headers["x-content-type-options"] == "nosniff"
            total += len(file.packed)
            again = await client.get(f"/web/{name}", headers={"If-None-Match": first.headers["etag"]})
            assert again.status_code == 304 and not again.content
            head = await client.head(f"/web/{name}")
            assert head.status_code == 200 and not head.content
        assert total < 150_000
        for lost in ("/web/..%2fapp.py", "/web/nothing.js", "/web/", "/threads/none", "/nothing"):
            assert (await client.get(lost)).status_code == 404, lost
        refused = await client.post("/")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
