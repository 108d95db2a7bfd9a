"""Folders for servers, and servers that are stopped when the test ends."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.ops.embedded import remove
from tests.ops.process import Bobbin


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder with a short path that every account can pass through."""
    path = Path(tempfile.mkdtemp(prefix="bobbin-test-"))
    path.chmod(0o711)
    yield path
    for data_dir in path.iterdir():
        remove(data_dir)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def kept_folder() -> Iterator[Path]:
    """A data folder that the tests of a module use one after the other: started warm it is faster."""
    path = Path(tempfile.mkdtemp(prefix="bobbin-test-"))
    path.chmod(0o711)
    yield path / "data"
    remove(path / "data")
    shutil.rmtree(path)


@pytest.fixture
def bobbin() -> Iterator[Callable[..., Bobbin]]:
    """Start servers that are stopped when the test ends."""
    started: list[Bobbin] = []

    def start(data_dir: Path, *words: str, **environ: str) -> Bobbin:
        started.append(Bobbin(data_dir, *words, **environ))
        return started[-1]

    yield start
    for server in started:
        server.close()
