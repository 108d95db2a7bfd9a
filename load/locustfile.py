"""Locust: people in the 20,000-message thread. Run by `python -m load.run`; runs alone too:

    .venv/bin/locust -f load/locustfile.py --host http://127.0.0.1:8000

Beside the requests a Listener reports "SSE event": send -> event in ms, and every gap, repeat or
event without an id as a failure. What answers wrongly (a page with a hole) is a failure as well.
"""

import http.client
import itertools
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, between, constant_throughput, tag, task
from locust.exception import StopUser

sys.path.insert(0, str(Path(__file__).parents[1]))

from load.http_client import address_of
from load.sse_client import Event, Parser

CAST = itertools.cycle(("alice", "bob", "charlie"))
PASSWORD = "password123"
LOGIN_AGAIN_S = 12 * 60  # access tokens last 15 minutes
STAMP = "load-"  # a client id is load-<CLOCK_MONOTONIC ns>-<random>: one clock for all processes here
WORDS = [
    "the",
    "a",
    "we",
    "you",
    "it",
    "will",
    "can",
    "see",
    "send",
    "ship",
    "fix",
    "try",
    "later",
    "today",
    "please",
    "thanks",
    "tomorrow",
    "build",
    "test",
]


class Person(FastHttpUser):
    """Somebody of the demo town, signed in, who knows the longest of their threads."""

    abstract = True
    network_timeout = connection_timeout = 15.0

    def on_start(self) -> None:
        self.name = next(CAST)
        self.sign_in()
        threads = self.call("GET", "/api/threads?limit=50", "GET /api/threads")["threads"]
        self.thread = max(threads, key=lambda one: one["lastSeq"])
        if self.thread["lastSeq"] < 1000:
            print("No thread of 1,000 messages: is this the demo town?", file=sys.stderr)
            raise StopUser
        self.path = f"/api/threads/{self.thread['id']}"

    def sign_in(self) -> None:
        self.signed_in_at = time.monotonic()
        body = {"username": self.name, "password": PASSWORD}
        with self.client.post("/api/auth/login", json=body, name="POST /api/auth/login") as answer:
            if answer.status_code != 200:
                print(f"{self.name} cannot sign in: {answer.status_code} {answer.text}", file=sys.stderr)
                raise StopUser
            self.token = answer.json()["accessToken"]

    @property
    def headers(self) -> dict[str, str]:
        if time.monotonic() - self.signed_in_at > LOGIN_AGAIN_S:
            self.sign_in()
        return {"Authorization": f"Bearer {self.token}"}

    def call(self, method: str, path: str, name: str, body: Any = None, expect: int = 200) -> Any:
        """The decoded answer; another status is a failure, and None."""
        with self.client.request(
            method, path, name=name, json=body, headers=self.headers, catch_response=True
        ) as answer:
            if answer.status_code != expect:
                answer.failure(f"{answer.status_code} instead of {expect}: {(answer.text or '')[:200]}")
                return None
            return answer.json()

    def fault(self, name: str, what: str) -> None:
        """A wrong answer, as a failed request of that name."""
        self.environment.events.request.fire(
            request_type="CHECK",
            name=name,
            response_time=0,
            response_length=0,
            exception=AssertionError(what),
        )


class Reader(Person):
    """Opens the thread somewhere, scrolls on a little, looks at the newest."""

    weight = 6
    wait_time = between(0.3, 1.2)

    @task(3)
    @tag("page")
    def somewhere(self) -> None:
        """Jumps to a random depth and follows the cursors forward."""
        around = random.randint(1, self.thread["lastSeq"])
        page = self.call("GET", f"{self.path}/messages?around={around}&limit=50", "GET page (around)")
        if page and not any(abs(one["seq"] - around) <= 50 for one in page["items"]):
            self.fault("page", f"around {around} came {page['items'][:1]}")
        self.scroll(page, "asc", 1)

    @task(3)
    @tag("page")
    def newest(self) -> None:
        """Opens at the newest and scrolls back."""
        self.scroll(
            self.call("GET", f"{self.path}/messages?order=desc&limit=50", "GET page (newest)"), "desc", -1
        )

    @task(1)
    @tag("page")
    def first(self) -> None:
        """Reads from the first message on."""
        self.scroll(self.call("GET", f"{self.path}/messages?limit=50", "GET page (first)"), "asc", 1)

    def scroll(self, page: Any, order: str, step: int) -> None:
        """Three pages on; seqs go on by exactly one, over the seams as well."""
        last = None
        for _ in range(4):
            if not page:
                return
            seqs = [one["seq"] for one in page["items"]]
            if last is not None:
                seqs = [last, *seqs]
            if any(after - before != step for before, after in itertools.pairwise(seqs)):
                self.fault("page", f"a hole or a repeat in {order}: {seqs}")
            if not seqs or not page["nextCursor"]:
                return
            last = seqs[-1]
            query = f"order={order}&limit=50&cursor={page['nextCursor']}"
            page = self.call("GET", f"{self.path}/messages?{query}", "GET page (cursor)")


class Lister(Person):
    """Looks at the list of threads."""

    weight = 2
    wait_time = between(0.5, 1.5)

    @task
    @tag("list")
    def threads(self) -> None:
        answer = self.call("GET", "/api/threads?limit=50", "GET /api/threads")
        if answer and not any(one["id"] == self.thread["id"] for one in answer["threads"]):
            self.fault("list", "the long thread is not in the list")


class Sender(Person):
    """Writes into the thread, now and then twice with one client id, as after a lost answer."""

    weight = 2
    wait_time = constant_throughput(1)

    @task
    @tag("send")
    def send(self) -> None:
        text = " ".join(random.choices(WORDS, k=random.randint(2, 25)))
        body = {"text": text, "clientId": f"{STAMP}{time.monotonic_ns()}-{random.randrange(10**9)}"}
        sent = self.call("POST", f"{self.path}/messages", "POST message", body, expect=201)
        if sent and random.random() < 0.1:
            again = self.call("POST", f"{self.path}/messages", "POST message (retry)", body)
            if again and again["message"]["seq"] != sent["message"]["seq"]:
                self.fault("once", f"{body['clientId']} became two messages")


class Listener(Person):
    """Follows the thread; hangs up now and then and comes back with its Last-Event-ID."""

    weight = 3
    wait_time = between(0, 0.5)

    def on_start(self) -> None:
        super().on_start()
        self.last_seq: int | None = None  # of the last message event
        self.last_id: str | None = None
        self.ids = set[str]()
        self.ready_ns = 0
        self.http: http.client.HTTPConnection | None = None

    def on_stop(self) -> None:
        if self.http:
            self.http.close()

    @task
    @tag("stream")
    def follow(self) -> None:
        """One connection of 5 to 20 s, then away for up to half a second."""
        headers = self.headers | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        begun = time.perf_counter()
        self.http = http.client.HTTPConnection(*address_of(self.host or ""), timeout=40)
        error: Exception | None = None
        try:
            self.http.request("GET", f"{self.path}/stream", headers=headers)
            answer = self.http.getresponse()
            if answer.status != 200:
                raise AssertionError(f"{answer.status}: {answer.read()[:200]!r}")
            parser, end, opened = Parser(), time.monotonic() + random.uniform(5, 20), False
            while time.monotonic() < end:
                piece = answer.read1(65_536)
                now = time.monotonic_ns()
                if not piece:
                    raise AssertionError("the server ended the stream")
                for event in parser.feed(piece):
                    if not opened:
                        opened = True
                        self.ready_ns = now
                        self.report("SSE open", (time.perf_counter() - begun) * 1000)
                    self.take(event, now)
        except (OSError, http.client.HTTPException, AssertionError) as fault:
            error = fault
        finally:
            self.http.close()
        if error is not None:
            self.report("SSE stream", 0, error)
            gevent.sleep(1)  # what a browser does by `retry:`

    def take(self, event: Event, now: int) -> None:
        """Checks one event and reports its latency when it is a fresh message of a Sender."""
        if event.kind == "ready":
            if self.last_seq is None:
                self.last_seq = int(json.loads(event.data)["lastSeq"])
                self.last_id = event.id
            return
        if event.kind == "resync":
            self.report("SSE event", 0, AssertionError("resync where nothing was lost"))
        if event.kind != "message":
            return
        message = json.loads(event.data)
        fault = None
        if self.last_seq is not None and message["seq"] != self.last_seq + 1:
            fault = AssertionError(f"seq {message['seq']} after {self.last_seq}")
        elif event.id is None or event.id in self.ids:
            fault = AssertionError(f"seq {message['seq']} has the id {event.id}, missing or used before")
        self.last_seq, self.last_id = message["seq"], event.id or self.last_id
        self.ids.add(event.id or "")
        client_id = message.get("clientId") or ""
        if client_id.startswith(STAMP):
            sent_ns = int(client_id.split("-")[1])
            # Sent while this listener was away it comes by the resume: its age is no latency.
            name = "SSE event" if sent_ns > self.ready_ns else "SSE event (resumed)"
            self.report(name, (now - sent_ns) / 1e6, fault)
        elif fault:
            self.report("SSE event", 0, fault)

    def report(self, name: str, ms: float, error: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type="SSE", name=name, response_time=ms, response_length=0, exception=error
        )
