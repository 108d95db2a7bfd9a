"""Settings: one table of names, read from the environment into one frozen dataclass.

The README's table and .env.example are printed from the table (`python -m server settings`), and a
.env file is read by nobody: what the process was given is what counts.
"""

import contextlib
import difflib
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from server.base.front import Network, as_network, as_origin

SECRET_MIN_BYTES = 32  # of HMAC-SHA256: a shorter key is weaker than the signature it makes
SECRET_FILE = "jwt-secret"


class SettingsError(Exception):
    """All faults of the environment, one sentence a line. Shown to the operator as it is."""


@dataclass(frozen=True)
class Settings:
    """What the server was told. `database_url` and `redis_url` are "" for the embedded servers."""

    host: str
    port: int
    database_url: str = field(repr=False)  # these four carry passwords
    database_read_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    jwt_secret: str = field(repr=False)  # "" until `with_secret` where one may be made
    data_dir: Path
    workers: int
    demo: bool
    rate_limits: bool
    presence: bool
    typing: bool
    trusted_proxies: tuple[Network, ...]
    public_url: str
    cors_origins: tuple[str, ...]
    db_pool_size: int
    db_statement_cache: int
    max_body_bytes: int
    phone_country_code: str
    retention_days: int
    archive_dir: str  # "": in the data folder
    log_level: str


@dataclass(frozen=True)
class Setting:
    """One row of the table. `read` turns the text into the value or raises ValueError with the end
    of a sentence that begins with the name: "must be ..."."""

    name: str
    attribute: str
    type: str
    default: str  # as one would write it; "" is shown as what `absent` says
    unit: str
    help: str
    read: Callable[[str], object]
    absent: str = ""


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text[:20]) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return read


def _switch(text: str) -> bool:
    word = text.lower()
    if word in ("1", "on", "true", "yes"):
        return True
    if word in ("0", "off", "false", "no"):
        return False
    raise ValueError("must be on or off")


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text.lower()

    return read


def _url(*schemes: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        # never the value itself or a part of it: it holds a password
        try:
            url = urlsplit(text)
            if text and url.scheme not in schemes:
                raise ValueError
        except ValueError:
            wanted = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"must be a URL that begins with {wanted}") from None
        astray = url.netloc and "@" not in url.netloc and "@" in url.path + url.query
        if astray or url.fragment or url.netloc.count("@") > 1:
            raise ValueError("must have / ? # and @ in its password written as %2F %3F %23 and %40")
        return text

    return read


def _redis_url(text: str) -> str:
    if not _url("redis", "rediss", "unix")(text):
        return text
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    try:
        pool = Redis.from_url(text).connection_pool
        pool.connection_class(**pool.connection_kwargs)  # which connects to nothing yet
    except (RedisError, TypeError, ValueError) as error:
        raise ValueError(f"cannot be used: {error}") from error
    return text


def _host(text: str) -> str:
    if not text or any(c.isspace() or c in "/@" for c in text):
        raise ValueError("must be a host name or an address to listen on, such as 127.0.0.1 or 0.0.0.0")
    return text.strip("[]")


def _origin(text: str) -> str:
    try:
        return as_origin(text) if text else ""
    except ValueError:
        raise ValueError(
            "must be http:// or https:// and a name, without a path, such as https://chat.example.com"
        ) from None


def _origins(text: str) -> tuple[str, ...]:
    return tuple(_origin(part) for part in text.split(",") if part.strip())


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(as_network(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            "must be addresses or networks with commas between, such as 10.0.0.0/8,::1"
        ) from None


def _secret(text: str) -> str:
    if text and len(text.encode()) < SECRET_MIN_BYTES:
        raise ValueError(
            f"must have at least {SECRET_MIN_BYTES} bytes; `openssl rand -base64 48` makes a good one"
        )
    return text


def _country_code(text: str) -> str:
    if text and not re.fullmatch(r"\+?[1-9][0-9]{0,2}", text):
        raise ValueError("must be the one to three digits of a country, such as 49")
    return text.removeprefix("+")


def _folder(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("must be a folder")
    return Path(text).expanduser().absolute()


def _place(text: str) -> str:
    return str(_folder(text)) if text else ""


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))  # what this process may use, not what the machine has
    except AttributeError:
        return os.cpu_count() or 1


SETTINGS = (
    Setting(
        "HOST",
        "host",
        "address",
        "127.0.0.1",
        "",
        "Where to listen; 0.0.0.0 for all interfaces.",
        _host,
    ),
    Setting(
        "PORT",
        "port",
        "number",
        "8000",
        "",
        "Port to listen on; 0 takes any free one.",
        _whole(0, 65535),
    ),
    Setting(
        "DATABASE_URL",
        "database_url",
        "URL",
        "",
        "",
        "Postgres 15 or later, as postgres://user:password@host/database.",
        _url("postgres", "postgresql"),
        "an own Postgres in the data folder",
    ),
    Setting(
        "DATABASE_READ_URL",
        "database_read_url",
        "URL",
        "",
        "",
        "A streaming replica of that Postgres, itself and no pool before it: pages, lists and search are read there"
        " whenever it has all that anybody can have seen, else from the primary.",
        _url("postgres", "postgresql"),
        "none",
    ),
    Setting(
        "REDIS_URL",
        "redis_url",
        "URL",
        "",
        "",
        "Redis 6.2 or later, or Valkey, as redis://, rediss:// or unix://.",
        _redis_url,
        "an own Valkey",
    ),
    Setting(
        "JWT_SECRET",
        "jwt_secret",
        "text",
        "",
        "",
        f"Signs the access tokens; at least {SECRET_MIN_BYTES} bytes, the same on all servers of a database."
        " Required with DATABASE_URL unless BOBBIN_DEMO is on.",
        _secret,
        "made once and kept in the data folder",
    ),
    Setting(
        "BOBBIN_DATA_DIR",
        "data_dir",
        "folder",
        ".data",
        "",
        "Everything the server keeps on this machine.",
        _folder,
    ),
    Setting(
        "BOBBIN_WORKERS",
        "workers",
        "number",
        "",
        "processes",
        "Web workers.",
        _whole(1, 256),
        "one per core",
    ),
    Setting(
        "BOBBIN_DEMO",
        "demo",
        "on/off",
        "off",
        "",
        "Fills an empty database with a demo town whose users have a known password. Not for the internet.",
        _switch,
    ),
    Setting(
        "BOBBIN_RATE_LIMITS",
        "rate_limits",
        "on/off",
        "on",
        "",
        "Off turns every brake off, for tests and load.",
        _switch,
    ),
    Setting(
        "BOBBIN_PRESENCE",
        "presence",
        "on/off",
        "on",
        "",
        "Off: nobody is told who is there.",
        _switch,
    ),
    Setting(
        "BOBBIN_TYPING",
        "typing",
        "on/off",
        "on",
        "",
        "Off: nobody is told who types.",
        _switch,
    ),
    Setting(
        "BOBBIN_TRUSTED_PROXIES",
        "trusted_proxies",
        "list",
        "",
        "",
        "Addresses or networks of the proxies in front, with commas between: their X-Forwarded-For and"
        " X-Forwarded-Proto are believed, nobody else's.",
        _networks,
        "none",
    ),
    Setting(
        "BOBBIN_PUBLIC_URL",
        "public_url",
        "URL",
        "",
        "",
        "Where browsers reach the server, as https://chat.example.com: for links, cookies and the check of"
        " a write's origin. With https it is said that plain http is never to be used.",
        _origin,
        "what each request says",
    ),
    Setting(
        "BOBBIN_CORS_ORIGINS",
        "cors_origins",
        "list",
        "",
        "",
        "Other origins whose pages may call the API with tokens, with commas between.",
        _origins,
        "none",
    ),
    Setting(
        "BOBBIN_DB_POOL",
        "db_pool_size",
        "number",
        "8",
        "connections",
        "To Postgres, per worker.",
        _whole(1, 1000),
    ),
    Setting(
        "BOBBIN_DB_STATEMENT_CACHE",
        "db_statement_cache",
        "number",
        "200",
        "statements",
        "Prepared statements kept per connection; 0 behind PgBouncer before 1.21.",
        _whole(0, 100_000),
    ),
    Setting(
        "BOBBIN_MAX_BODY_BYTES",
        "max_body_bytes",
        "number",
        "1048576",
        "bytes",
        "Largest request body; a larger one is refused with 413.",
        _whole(1024, 2**30),
    ),
    Setting(
        "BOBBIN_PHONE_COUNTRY_CODE",
        "phone_country_code",
        "digits",
        "",
        "",
        "Country of phone numbers that begin with a single 0, as 49: they are taken without that 0.",
        _country_code,
        "such numbers are refused",
    ),
    Setting(
        "BOBBIN_RETENTION_DAYS",
        "retention_days",
        "number",
        "0",
        "days",
        "Messages older than that are moved to files, as `bobbin archive` does; 0 keeps all.",
        _whole(0, 36_500),
    ),
    Setting(
        "BOBBIN_ARCHIVE_DIR",
        "archive_dir",
        "folder",
        "",
        "",
        "Where archived messages are kept; with several servers one that all of them reach.",
        _place,
        "archive in the data folder",
    ),
    Setting(
        "BOBBIN_LOG_LEVEL",
        "log_level",
        "word",
        "info",
        "",
        "debug, info, warning or error: the least that is logged.",
        _one_of("debug", "info", "warning", "error"),
    ),
)


def load(environ: Mapping[str, str], *, serves: bool = True) -> Settings:
    """The settings of an environment; an empty value counts as absent. Reads and makes no file.

    Raises SettingsError that lists every fault. `jwt_secret` is "" where the server may make one, and may be
    for a command that doesn't serve.
    """
    values: dict[str, object] = {}
    faults = []
    for row in SETTINGS:
        text = environ.get(row.name, "").strip() or row.default
        try:
            if row.attribute == "workers" and not text:
                values[row.attribute] = _cores()
            else:
                values[row.attribute] = row.read(text)
        except ValueError as fault:
            faults.append(f"{row.name} {fault}.")
    own = values.get("database_url") and not values.get("demo", False)
    if serves and own and values.get("jwt_secret") == "":
        faults.append(
            "JWT_SECRET is missing: with a DATABASE_URL of your own set it to a secret of at least "
            f"{SECRET_MIN_BYTES} bytes, the same on every server; `openssl rand -base64 48` makes one."
        )
    if faults:
        raise SettingsError("\n".join(faults))
    return Settings(**cast(dict[str, Any], values))


def unknown(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each BOBBIN_* name that no setting has: most often a slip of the pen."""
    names = [row.name for row in SETTINGS]
    strangers = sorted(name for name in environ if name.startswith("BOBBIN_") and name not in names)
    found = []
    for name in strangers:
        near = difflib.get_close_matches(name, names, n=1)
        found.append(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else "."))
    return found


def with_secret(settings: Settings) -> Settings:
    """The settings with a JWT secret: the given one, or the one kept in the data folder, made now if
    there is none yet. Raises SettingsError when the kept one cannot be used."""
    if settings.jwt_secret:
        return settings
    path = settings.data_dir / SECRET_FILE
    try:
        if not path.exists():
            _keep(path, secrets.token_urlsafe(48))
        secret = path.read_text().strip()
    except PermissionError as error:
        raise SettingsError(
            f"{settings.data_dir} belongs to another user: choose a BOBBIN_DATA_DIR."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The JWT secret in {path} cannot be used: {error}.") from error
    if len(secret.encode()) < SECRET_MIN_BYTES:
        raise SettingsError(f"{path} is too short for a secret; remove it and a new one will be made.")
    return replace(settings, jwt_secret=secret)


def _keep(path: Path, secret: str) -> None:
    # Written aside and linked: two servers that start at once agree on the first one's secret, and
    # nobody ever reads half of it.
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink()


def environment(settings: Settings) -> dict[str, str]:
    """The variables from which `load` makes equal settings again: what a worker is given."""

    def text(value: object) -> str:
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return ("off", "on")[value] if isinstance(value, bool) else str(value)

    return {row.name: text(getattr(settings, row.attribute)) for row in SETTINGS}


def _default(row: Setting) -> str:
    return row.default or row.absent


def markdown() -> str:
    """The README's table."""
    lines = ["| Name | Type | Default | What it does |", "|---|---|---|---|"]
    for row in SETTINGS:
        kind = f"{row.type} ({row.unit})" if row.unit else row.type
        default = f"`{row.default}`" if row.default else row.absent
        lines.append(f"| `{row.name}` | {kind} | {default} | {row.help} |")
    return "\n".join(lines) + "\n"


def env_example() -> str:
    """.env.example: every setting, commented out, with its default."""
    lines = [
        "# Every setting of Bobbin with its default; made by `python -m server settings --env`.",
        "# The server reads its environment and no file: `set -a; . ./.env; set +a` loads one into a shell,",
        "# docker compose and systemd (EnvironmentFile=) read it themselves.",
    ]
    for row in SETTINGS:
        kind = f"{row.type} in {row.unit}" if row.unit else row.type
        lines += ["", f"# {row.help} ({kind}; default: {_default(row)})", f"#{row.name}={row.default}"]
    return "\n".join(lines) + "\n"
