"""A whole server as a process of its own, and what to ask about processes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson

from server.ops.stage import alive, family

__all__ = ["Bobbin", "alive", "environment", "family", "until"]

ROOT = Path(__file__).parents[2]


def until(true: Callable[[], Any], what: str, limit_s: float = 30) -> Any:
    """Wait for something to be so, and return it."""
    end = time.monotonic() + limit_s
    while not (value := true()):
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.01)
    return value


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    """Of a server under test: nothing of the surroundings decides."""
    keep = {"PATH", "HOME", "LANG", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}
    mine = {name: value for name, value in os.environ.items() if name in keep}
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    mine |= {"PYTHONPATH": os.pathsep.join(path), "BOBBIN_DATA_DIR": str(data_dir), "PORT": "0"}
    return mine | {"BOBBIN_WORKERS": "2"} | more


class Bobbin:
    """`python -m server`, its output in a file beside the data folder."""

    def __init__(self, data_dir: Path, *words: str, **environ: str) -> None:
        handle, name = tempfile.mkstemp(prefix="bobbin-out-")
        self.output = Path(name)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", *words],
            env=environment(data_dir, **environ),
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            cwd="/",
            start_new_session=True,
        )
        os.close(handle)
        self.pid = self.process.pid

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        found = [orjson.loads(line) for line in self.said().splitlines() if line.startswith("{")]
        return [event for event in found if event["event"] == name]

    def wait_for(self, words: str, limit_s: float = 30) -> "Bobbin":
        def seen() -> bool:
            if words in self.said():
                return True
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.said()}"
            return False

        until(seen, f"{words!r} in\n{self.said()}", limit_s)
        return self

    def count(self, event: str, number: int) -> None:
        """Wait until an event has happened so many times."""
        until(lambda: len(self.events(event)) >= number, f"{number} times {event} in\n{self.said()}")

    def ready(self) -> "Bobbin":
        self.wait_for("Bobbin is at")
        self.count("worker.ready", 2)
        return self

    @property
    def url(self) -> str:
        return self.said().split("Bobbin is at ")[1].split()[0]

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/livez", timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def pids(self, words: str) -> list[int]:
        """Of the direct and further children whose command line has these words."""
        return sorted(pid for pid, line in family(self.pid).items() if words in line)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, limit_s: float = 20) -> int:
        """Wait for its end, see that nothing of it is left, and return its exit code."""
        everyone = family(self.pid)
        code = self.process.wait(limit_s)
        until(lambda: not any(map(alive, everyone)), f"all of {everyone} ended", 10)
        return code

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.end()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.output.unlink()
