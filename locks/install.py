"""Make .venv hold what a lock file says; do nothing when it does already.

    python3 locks/install.py requirements-dev.lock

Every target of the Makefile begins here, so it needs nothing but Python's own library. Several may
run at once in one checkout: they take turns. What is installed is written down in .venv/.pins
together with the place and the Python it was made for, so that a copied or moved folder, another
Python or a half-made environment is made anew, and a longer lock installs only what is missing.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE.parent / ".venv"
PINS = VENV / ".pins"
PYTHON = VENV / "bin" / "python"
ENTRY = re.compile(r"^(\S+==\S+.*?) \\\n((?: +--hash=.*\n?)+)", re.M)  # a pin with its marker, its hashes
PIP = ["-m", "pip", "install", "-qq", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
PIP += ["--only-binary", ":all:"]
PIP += ["--no-compile"]  # the first start compiles what it imports: half of it never is
# Most of pip's time goes into reading indexes, on one core. Two side by side took 5.3 s where one took
# 9.1 s; each has whole packages, and the lock leaves nothing to resolve.
SIDE_BY_SIDE = 2


def pip_wheel() -> Path:
    """The pip that comes with Python. Unpacked it is installed: 0.3 s, where ensurepip takes 4 s."""
    try:
        import ensurepip
    except ImportError:
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise SystemExit(f"This Python has no ensurepip; on Debian and Ubuntu: apt install {name}") from None
    folders = (Path(ensurepip.__file__).parent / "_bundled", sysconfig.get_config_var("WHEEL_PKG_DIR"))
    found = [wheel for folder in folders if folder for wheel in Path(folder).glob("pip-*.whl")]
    if not found:
        raise SystemExit(
            f"{sys.executable} comes without pip: take another Python, as PYTHON=/path/to/python3"
        )
    return max(found)


def made_for() -> str:
    """The first line of .pins: where, and by which Python."""
    return f"{VENV} {os.path.realpath(sys.executable)} {sys.version.split()[0]}"


def installed() -> set[str]:
    """The pins that .venv holds; empty when it has to be made anew."""
    try:
        first, *pins = PINS.read_text().splitlines()
        return set(pins) if first == made_for() and PYTHON.exists() else set()
    except (OSError, ValueError):
        return set()


def install(entries: dict[str, str]) -> None:
    """Install pins with their hashes, several pips at once. SystemExit when one of them fails."""
    texts = [f"{pin} \\\n{hashes}" for pin, hashes in entries.items()]
    texts.sort(key=len)  # by number of hashes, so that each has as many candidates to look through
    pips = []
    for part in range(SIDE_BY_SIDE):
        wanted = VENV / f".part-{part}"
        wanted.write_text("".join(texts[part::SIDE_BY_SIDE]))
        pips.append(subprocess.Popen([PYTHON, *PIP, "-r", wanted], stdin=subprocess.DEVNULL))
    if max(pip.wait() for pip in pips):  # not any(): each is waited for
        raise SystemExit("pip could not install what the lock names; its own words stand above")


@contextmanager
def turn() -> Iterator[None]:
    """Wait for other installs of this checkout. Ends with this process at the latest, however it ends."""
    held = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def fill(wanted: dict[str, str]) -> None:
    """Bring .venv to hold these pins."""
    have = installed()
    if have >= wanted.keys():
        return
    if not have:
        print("Setting up .venv (once) ...", file=sys.stderr, flush=True)
        wheel = pip_wheel()
        if VENV.exists():
            shutil.rmtree(VENV)
        venv.create(VENV, symlinks=True)
        packages = sysconfig.get_path("purelib", "venv", {"base": str(VENV), "platbase": str(VENV)})
        zipfile.ZipFile(wheel).extractall(packages)
    PINS.unlink(missing_ok=True)  # half-installed counts as nothing
    install({pin: wanted[pin] for pin in wanted.keys() - have})
    names = {pin.partition("==")[0] for pin in wanted}
    kept = {pin for pin in have if pin.partition("==")[0] not in names}
    PINS.write_text("\n".join([made_for(), *sorted(kept | wanted.keys())]) + "\n")


def main(lock: str) -> None:
    with turn():
        fill(dict(ENTRY.findall((HERE / lock).read_text())))


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - PYTHON may name anything
        raise SystemExit(f"Bobbin needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    main(sys.argv[1])
