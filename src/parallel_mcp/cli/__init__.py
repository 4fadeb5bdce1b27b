"""Commands for people. Imported only when one is used."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from parallel_mcp import __version__
from parallel_mcp.settings import Settings, env_name, flag_of

SECRET_FIELDS = frozenset({"api_key"})  # arguments of a process can be read by others on the machine
HTTP_FIELDS = ("host", "port", "allowed_hosts", "auth")


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit status. Each is imported when it is the one."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    if command == "demo":
        from parallel_mcp.cli.demo import run_demo

        return run_demo()
    if command == "simulate":
        from parallel_mcp.cli.simulate import run_simulator

        return run_simulator(**options)
    if command == "specs":
        from parallel_mcp.cli.specs import run_specs

        return run_specs(**options)
    over_http: bool = options.pop("http", False)
    if over_http:
        from parallel_mcp.http.serve import serve_http

        return serve_http(options)
    if ignored := [flag_of(name) for name in HTTP_FIELDS if options.get(name) is not None]:
        parser.error(f"{', '.join(ignored)}: only `serve --http` has a use for it")
    from parallel_mcp.stdio import serve_stdio

    return serve_stdio(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parallel-mcp",
        allow_abbrev=False,
        description="MCP server for the Parallel web research API. Without a command: MCP on stdin and stdout.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"parallel-mcp {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve MCP on stdin and stdout (default), or over HTTP",
        allow_abbrev=False,
        epilog=f"Each flag is an environment variable as well, such as {flag_of('port')} and {env_name('port')}; "
        f"`parallel-mcp --help` lists them. The key itself is taken from {env_name('api_key')} or a file only.",
    )
    serve.add_argument("--http", action="store_true", help="serve Streamable HTTP at /mcp instead, and GET /health")
    for name, field in Settings.model_fields.items():
        if name not in SECRET_FIELDS:
            serve.add_argument(flag_of(name), dest=name, metavar="VALUE", help=_described(field).replace("%", "%%"))
    commands.add_parser("demo", help="show it all on the built-in simulator: no key, no network")
    simulate = commands.add_parser("simulate", help="serve a stand-in for the Parallel API on loopback")
    simulate.add_argument("--port", type=_port, default=8099, help="port to bind (default 8099)")
    simulate.add_argument(
        "--speed", type=float, default=1.0, help="how many times faster than the real API (default 1)"
    )
    simulate.add_argument(
        "--seed", type=int, help="same seed, same ids, texts and durations (default: another each time)"
    )
    _add_specs(commands.add_parser("specs", help="check task specs, or draft one", allow_abbrev=False))
    return parser


def _add_specs(specs: argparse.ArgumentParser) -> None:
    actions = specs.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="say what is wrong with task specs")
    check.add_argument("path", type=Path, metavar="DIR", help="directory of JSON and TOML files, or one of its files")
    new = actions.add_parser("new", help="draft a task spec with the API's help; uses your key, and starts no research")
    new.add_argument("intent", help='what you want to know, such as "the CEO and headcount of a company"')
    new.add_argument("--out", type=Path, metavar="FILE", help="new .json file to write; left out: standard output")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def _settings_help() -> str:
    """Every setting with its environment variable, for the end of the help text."""
    lines = ["environment variables (flags of `serve` win over them):"]
    lines += [f"  {env_name(name)}\n      {_described(field)}" for name, field in Settings.model_fields.items()]
    return "\n".join(lines)


def _described(field: Any) -> str:
    value: Any = field.default
    listed = ",".join(map(str, cast("tuple[object, ...]", value))) if isinstance(value, tuple) else value
    default = f" Default: {listed}." if listed not in (None, "") else ""
    return f"{field.description}{default}"


def say(line: str) -> None:
    """Write a line for the person at the terminal. Not stdout: that may be somebody's pipe."""
    sys.stderr.write(line + "\n")
