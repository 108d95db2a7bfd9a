"""A replica of a Postgres, by streaming, as a server of its own."""

import secrets
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from server.ops.embedded import Check, EmbeddedError, Postgres


class Standby(Postgres):
    """A hot standby, in a data folder of its own, of a Postgres that runs. It is copied when it first starts."""

    def __init__(
        self, data_dir: Path | str, primary: Postgres, *, settings: Mapping[str, object] | None = None
    ) -> None:
        conninfo = f"host={primary.sockets} port=5432 user=postgres application_name=standby"
        super().__init__(
            data_dir, settings={"primary_conninfo": conninfo, "fsync": "off", **(settings or {})}
        )
        self.primary = primary

    def _initdb(self, check: Check) -> None:
        aside = self.folder.with_name(f"postgres.new-{secrets.token_hex(4)}")
        aside.mkdir(mode=0o700)
        if self.account is not None:
            shutil.chown(aside, self.account.uid, self.account.gid)
        command = [str(self.bin / "pg_basebackup"), "-D", str(aside), "-h", str(self.primary.sockets)]
        command += ["-U", "postgres", "-X", "stream", "-c", "fast", "--no-sync", "--write-recovery-conf"]
        process = self._run(command, signal.SIGTERM)
        while process.poll() is None:
            check()
            time.sleep(0.01)
        if process.returncode != 0:
            raise EmbeddedError(f"The standby could not be made: {self.last_words()}")
        aside.rename(self.folder)

    def ready(self) -> bool:
        """A standby says so in a word of its own."""
        lines = self._pid_lines()
        return self.process is not None and (
            len(lines) >= 8
            and lines[7].strip() in ("ready", "standby")
            and lines[0].strip() == str(self.process.pid)
        )
