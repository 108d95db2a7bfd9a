"""Settings: one table for the code, the README and .env.example."""

import dataclasses
import re
import stat
from ipaddress import ip_network
from pathlib import Path

import pytest

from server.base.settings import (
    SETTINGS,
    Settings,
    SettingsError,
    env_example,
    environment,
    load,
    markdown,
    unknown,
    with_secret,
)

ROOT = Path(__file__).parents[1]
SECRET = "s" * 32


def faults(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as told:
        load(environ)
    return str(told.value).splitlines()


def test_the_table_has_each_attribute_once() -> None:
    assert [row.attribute for row in SETTINGS] == [field.name for field in dataclasses.fields(Settings)]
    assert len({row.name for row in SETTINGS}) == len(SETTINGS)
    assert all(bool(row.default) != bool(row.absent) for row in SETTINGS)


def test_an_empty_environment_is_enough() -> None:
    settings = load({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert (settings.database_url, settings.redis_url, settings.jwt_secret) == ("", "", "")
    assert settings.data_dir == Path.cwd() / ".data"
    assert settings.workers >= 1
    assert settings.rate_limits
    assert not settings.demo
    assert load({"PORT": " ", "BOBBIN_DEMO": ""}) == settings


def test_what_is_set_is_read() -> None:
    settings = load(
        {
            "HOST": "[::1]",
            "PORT": "0",
            "DATABASE_URL": "postgresql://u:p@h/d?sslmode=require",
            "DATABASE_READ_URL": "postgres://u:p@r/d",
            "REDIS_URL": "rediss://h:6380/2",
            "JWT_SECRET": SECRET,
            "BOBBIN_DATA_DIR": "/srv/with space",
            "BOBBIN_WORKERS": "3",
            "BOBBIN_DEMO": "Yes",
            "BOBBIN_RATE_LIMITS": "off",
            "BOBBIN_PRESENCE": "off",
            "BOBBIN_TYPING": "off",
            "BOBBIN_TRUSTED_PROXIES": "10.0.0.0/8, ::1,",
            "BOBBIN_PUBLIC_URL": "HTTPS://Chat.Example.com:443/",
            "BOBBIN_CORS_ORIGINS": "https://a.example, http://[::1]:3000",
            "BOBBIN_DB_POOL": "4",
            "BOBBIN_DB_STATEMENT_CACHE": "0",
            "BOBBIN_MAX_BODY_BYTES": "2048",
            "BOBBIN_PHONE_COUNTRY_CODE": "+49",
            "BOBBIN_RETENTION_DAYS": "30",
            "BOBBIN_ARCHIVE_DIR": "/srv/files",
            "BOBBIN_LOG_LEVEL": "WARNING",
        }
    )
    assert dataclasses.astuple(settings) == (
        *("::1", 0, "postgresql://u:p@h/d?sslmode=require", "postgres://u:p@r/d", "rediss://h:6380/2"),
        SECRET,
        *(Path("/srv/with space"), 3, True, False, False, False),
        *((ip_network("10.0.0.0/8"), ip_network("::1")), "https://chat.example.com"),
        *(("https://a.example", "http://[::1]:3000"), 4, 0, 2048, "49", 30, "/srv/files", "warning"),
    )
    assert load(environment(settings)) == settings


def test_all_faults_are_told_at_once_each_in_a_sentence() -> None:
    told = faults(
        HOST="a b",
        PORT="65536",
        DATABASE_URL="mysql://u:hush@h/d",
        REDIS_URL="http://h",
        JWT_SECRET="short",
        BOBBIN_WORKERS="0",
        BOBBIN_DEMO="perhaps",
        BOBBIN_TRUSTED_PROXIES="10.0.0.1/8",
        BOBBIN_PUBLIC_URL="chat.example.com",
        BOBBIN_CORS_ORIGINS="https://a.example,*",
        BOBBIN_DB_POOL="-1",
        BOBBIN_MAX_BODY_BYTES="1e6",
        BOBBIN_PHONE_COUNTRY_CODE="049",
        BOBBIN_LOG_LEVEL="loud",
    )
    names = [line.split()[0] for line in told]
    assert names == [
        *("HOST", "PORT", "DATABASE_URL", "REDIS_URL", "JWT_SECRET", "BOBBIN_WORKERS", "BOBBIN_DEMO"),
        *("BOBBIN_TRUSTED_PROXIES", "BOBBIN_PUBLIC_URL", "BOBBIN_CORS_ORIGINS"),
        *("BOBBIN_DB_POOL", "BOBBIN_MAX_BODY_BYTES", "BOBBIN_PHONE_COUNTRY_CODE", "BOBBIN_LOG_LEVEL"),
    ]
    assert all(line.endswith(".") for line in told)
    assert "hush" not in "".join(told)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://h/path",
            "https://h?q",
            "https://h#f",
            "https://u:p@h",
            "https://",
            "ftp://h",
            "h:1",
            "null",
        ),
        *("https://h:port", "https://[::1", "https://a b", "https://é.example", "https://*.example", "//h"),
    ],
)
def test_what_is_no_origin_is_refused(url: str) -> None:
    for name in ("BOBBIN_PUBLIC_URL", "BOBBIN_CORS_ORIGINS"):
        (told,) = faults(**{name: url})
        assert told.startswith(f"{name} must be http:// or https://")


@pytest.mark.parametrize("number", ["٣", "1_0", "+1", "0x1", "9" * 5000, "1.0", "nan"])
def test_a_number_is_plain_digits(number: str) -> None:
    assert faults(BOBBIN_WORKERS=number) == ["BOBBIN_WORKERS must be a whole number from 1 to 256."]


def test_a_secret_is_required_with_a_database_of_ones_own_and_says_what_to_do() -> None:
    (told,) = faults(DATABASE_URL="postgres://h/d")
    assert told.startswith("JWT_SECRET is missing")
    assert "openssl rand" in told
    assert load({"DATABASE_URL": "postgres://h/d", "JWT_SECRET": SECRET}).jwt_secret == SECRET
    assert load({"DATABASE_URL": "postgres://h/d", "BOBBIN_DEMO": "on"}).jwt_secret == ""
    assert load({"DATABASE_URL": "postgres://h/d"}, serves=False).jwt_secret == ""


@pytest.mark.parametrize("password", ["hu/sh", "hu?sh", "hu#sh", "hu@sh", "1/hush", "1?hush"])
def test_a_password_that_takes_a_url_apart_is_told_without_it(password: str) -> None:
    told = faults(
        DATABASE_URL=f"postgres://u:{password}@h/d", REDIS_URL=f"redis://:{password}@h", JWT_SECRET=SECRET
    )
    assert [line.split()[0] for line in told] == ["DATABASE_URL", "REDIS_URL"]
    assert all("%2F" in line for line in told)
    assert "sh@" not in "".join(told)


@pytest.mark.parametrize(
    "url",
    [
        "rediss://u:p%40@h:6380/2?ssl_ca_certs=/ca.crt",
        "unix://u:p@/run/r@1.sock?db=3",
        "redis://[::1]:1",
        "unix:///a%23b",
    ],
)
def test_what_a_redis_url_may_be(url: str) -> None:
    assert load({"REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize("url", ["redis://:hush@h?frob=1", "redis://:hush@h:port", "redis://:hush@h?db=x"])
def test_what_a_redis_url_may_not_be_is_told_before_the_start(url: str) -> None:
    (told,) = faults(REDIS_URL=url)
    assert told.startswith("REDIS_URL cannot be used: ")
    assert "hush" not in told


def test_a_weak_secret_is_refused() -> None:
    (told,) = faults(JWT_SECRET="s" * 31)
    assert "at least 32 bytes" in told
    assert load({"JWT_SECRET": "é" * 16}).jwt_secret == "é" * 16  # bytes count, not letters


def test_a_secret_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    settings = load({"BOBBIN_DATA_DIR": str(tmp_path)})
    first = with_secret(settings).jwt_secret
    assert len(first) >= 32
    assert with_secret(settings).jwt_secret == first
    assert [path.name for path in tmp_path.iterdir()] == ["jwt-secret"]
    assert stat.S_IMODE((tmp_path / "jwt-secret").stat().st_mode) == 0o600
    (tmp_path / "jwt-secret").write_text("short\n")
    with pytest.raises(SettingsError, match="too short"):
        with_secret(settings)


def test_no_secret_shows_when_settings_are_printed() -> None:
    settings = load({"DATABASE_URL": "postgres://u:hush@h/d", "JWT_SECRET": "hush" * 8})
    assert "hush" not in repr(settings)


def test_a_name_that_no_setting_has_is_reported_with_the_nearest() -> None:
    assert unknown({"BOBBIN_WORKER": "2", "PATH": "", "BOBBIN_DEMO": "1", "BOBBIN_QQQQQQ": ""}) == [
        "BOBBIN_QQQQQQ is not a setting.",
        "BOBBIN_WORKER is not a setting; did you mean BOBBIN_WORKERS?",
    ]


def test_the_readme_and_the_example_are_what_the_table_makes() -> None:
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- settings -->\n(.*?)<!-- /settings -->", readme, re.S)
    assert block, "README.md has no <!-- settings --> block"
    assert block[1] == markdown(), "run `make generate`"
    assert (ROOT / ".env.example").read_text() == env_example(), "run `make generate`"
    assert all(f"`{row.name}`" in block[1] for row in SETTINGS)
