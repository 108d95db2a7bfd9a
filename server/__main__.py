"""The command line: `python -m server` or `bobbin`."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from server.base import settings as table
from server.base.settings import Settings, SettingsError
from server.ops.embedded import EmbeddedError, database
from server.ops.migrate import MIGRATIONS, SCHEMA, MigrationError, dump, migrate, rollback

# Commands in modules of their own, loaded when called: add_arguments(parser), run(args, settings) -> int.
MODULES = {
    "createuser": ("server.ops.createuser", "make an account, as the first admin, or change one"),
    "seed": ("server.ops.seed", "fill the database with the demo town; again adds nothing"),
    "import": ("server.ops.imports", "bring in messages from elsewhere"),
    "verify": ("server.ops.verify", "prove that a server loses nothing, with faults"),
    "archive": ("server.ops.archive", "move old messages into files, and bring them back"),
    "search": ("server.ops.reindex", "the index of messages: how far it is, or make it anew"),
    "explain": ("server.ops.explain", "print the plan of each query block"),
}


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bobbin",
        description="A self-hosted messaging server. Without a command it serves. "
        "Settings come from the environment; `bobbin settings` lists them.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    serve = commands.add_parser("serve", help="run the server until Ctrl-C or SIGTERM (the default)")
    serve.add_argument("--reload", action="store_true", help="replace the workers when a source file changes")
    up = commands.add_parser("migrate", help="bring the database to the newest schema")
    what = up.add_mutually_exclusive_group()
    what.add_argument("--down", action="store_true", help="undo the newest migration, with its data")
    what.add_argument(
        "--dump",
        nargs="?",
        const=str(SCHEMA),
        metavar="FILE",
        help="then write the schema as SQL to FILE (- for standard output; db/schema.sql if not given)",
    )
    for name, (module, text) in MODULES.items():
        sub = commands.add_parser(name, help=text)
        if name == command:
            import_module(module).add_arguments(sub)
    show = commands.add_parser("settings", help="list the settings with their values")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="as the table of the README")
    form.add_argument("--env", action="store_true", help="as .env.example")
    commands.add_parser("routes", help="list the HTTP API")
    return parser


def _settings(*, serves: bool = False) -> Settings:
    return table.load(os.environ, serves=serves)


def _serve(args: argparse.Namespace) -> int:
    from server.ops.supervisor import serve

    return serve(
        _settings(serves=True), reload=getattr(args, "reload", False), notes=table.unknown(os.environ)
    )


def _migrate(args: argparse.Namespace) -> int:
    with database(_settings(), migrated=False) as url:
        if args.down:
            asyncio.run(rollback(url))
            return 0
        asyncio.run(migrate(url))
        if args.dump == "-":
            print(dump(url), end="")
        elif args.dump:
            Path(args.dump).write_text(dump(url))
        else:
            count = len(list(MIGRATIONS.glob("*.sql")))
            print(f"The database has all {count} migration{'s' * (count != 1)}.")
    return 0


def _show(args: argparse.Namespace) -> int:
    if args.markdown:
        print(table.markdown(), end="")
    elif args.env:
        print(table.env_example(), end="")
    else:
        settings = _settings()
        for row in table.SETTINGS:
            value = getattr(settings, row.attribute)
            if row.attribute in ("database_url", "redis_url", "jwt_secret"):
                value = "(set, not shown)" if value else row.absent
            elif isinstance(value, bool):
                value = "on" if value else "off"
            print(f"{row.name:<26} {value}")
        notes = table.unknown(os.environ)
        try:
            _settings(serves=True)
        except SettingsError as error:
            notes.append(str(error))
        for note in notes:
            print(note, file=sys.stderr)
    return 0


def _module(args: argparse.Namespace) -> int:
    return int(import_module(MODULES[args.command][0]).run(args, _settings()))


def _routes(_: argparse.Namespace) -> int:
    import_module("server.routes").main()
    return 0


ENDED = SystemExit(128 + signal.SIGTERM)
AGAIN_S = 0.01


def _ended(*_: object) -> None:
    raise ENDED  # so that what a command started is stopped


def _end_on_sigterm() -> None:
    """Have SIGTERM end the command from the inside. Python drops what is raised where nobody could catch
    it, as beside a fork (logging does something there): then it is raised again a little later."""
    dropped = sys.unraisablehook

    def again(what: "sys.UnraisableHookArgs") -> None:
        if what.exc_value is ENDED:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            dropped(what)

    sys.unraisablehook = again
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGALRM, _ended)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. What goes wrong is told in sentences, without a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["worker"]:  # internal: the supervisor's child
        from server.worker import run

        return run(int(words[1]), int(words[2]))
    args = _parser(words[0] if words else None).parse_args(words)
    own = {"serve": _serve, None: _serve, "migrate": _migrate, "settings": _show, "routes": _routes}
    if args.command not in ("serve", None):
        _end_on_sigterm()
    try:
        return own.get(args.command, _module)(args)
    except (SettingsError, EmbeddedError, MigrationError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `bobbin settings | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
