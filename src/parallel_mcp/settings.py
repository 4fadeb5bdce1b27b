"""Every setting: name, environment variable, unit, default. Built once, at start, and passed in from there."""

import ipaddress
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from parallel_mcp.errors import SettingsError

ENV_PREFIX = "PARALLEL_MCP_"
# Settings of the API itself share the names that Parallel's own tools use.
_OWN_NAMES = frozenset({"api_key", "api_key_file", "base_url"})
DEFAULT_BASE_URL = "https://api.parallel.ai"

LogLevel = Literal["debug", "info", "warning", "error"]
SearchMode = Literal["turbo", "fast", "basic", "advanced"]
SafeCreate = Literal["plain", "group"]
AuthMode = Literal["caller", "local"]
Toolset = Literal["core", "findall", "monitor", "specs"]
Profile = Literal["research", "chatgpt"]


class Settings(BaseModel):
    """All settings; `load_settings` makes them from flags and the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    api_key: SecretStr | None = Field(
        default=None,
        description="Parallel API key, made at https://platform.parallel.ai. Without one the server starts, "
        "lists its tools, and each call says how to set it.",
    )
    api_key_file: Path | None = Field(
        default=None,
        description="File that holds the key, read once at start; used when PARALLEL_API_KEY is not set.",
    )
    base_url: str = Field(
        default=DEFAULT_BASE_URL,
        description="Address of the API. Another host than the default must be https, unless it is loopback.",
    )
    default_processor: str = Field(
        default="core-fast",
        description="Processor of a task that names none. Price and depth rise from `lite` to `ultra8x`.",
    )
    search_mode: SearchMode = Field(default="basic", description="Search mode: turbo, fast, basic or advanced.")
    max_wait_s: float | None = Field(
        default=None, gt=0, description="Longest wait of one call in seconds, below what the client is known to allow."
    )
    max_usd_per_call: float = Field(
        default=1.00, ge=0, description="Most one creating call may cost, in dollars; 0 = off."
    )
    max_usd_per_hour: float = Field(default=10.0, ge=0, description="Most all creates of an hour may cost; 0 = off.")
    max_usd_per_day: float = Field(default=50.0, ge=0, description="Most all creates of a day may cost; 0 = off.")
    max_active_runs: int = Field(default=50, ge=0, description="Most runs that may be active at once; 0 = off.")
    safe_create: SafeCreate = Field(
        default="plain",
        description="`group` puts each run into a task group of its own, whose id is known before, so that a lost "
        "answer can be read back. Not yet confirmed against the live API.",
    )
    ledger: str = Field(
        default="",
        repr=False,
        description="Where creates and spending are remembered: a file, `memory`, or `redis://…` for several "
        "machines. Left out: a file in the user's data directory.",
    )
    ledger_titles: bool = Field(default=True, description="Keep the first 120 characters of each task in the ledger.")
    toolsets: tuple[Toolset, ...] = Field(
        default=("core", "specs"),
        description="Which tools there are, comma-separated: core, findall, monitor, and specs, the tools of `SPECS`.",
    )
    specs: Path | None = Field(
        default=None, description="Directory of task specs; each (JSON or TOML) becomes a tool of its own."
    )
    profile: Profile = Field(
        default="research",
        description="`chatgpt` offers exactly the two tools that ChatGPT's deep research looks for, `search` and "
        "`fetch`, whatever the toolsets.",
    )
    log_level: LogLevel = Field(default="warning", description="debug, info, warning or error. Logs go to stderr.")
    host: str = Field(default="127.0.0.1", description="Address that `serve --http` binds.")
    port: int = Field(default=8090, ge=0, le=65535, description="Port that `serve --http` binds.")
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="Host names, comma-separated, under which `serve --http` may be reached. "
        "Needed for any bind other than loopback.",
    )
    auth: AuthMode = Field(
        default="caller",
        description="`caller`: each HTTP request brings its own Parallel key (x-api-key or Authorization: Bearer). "
        "`local`: a loopback server for one person uses its own key for requests without one.",
    )

    @field_validator("allowed_hosts", "toolsets", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return tuple(filter(None, (item.strip() for item in value.split(",")))) if isinstance(value, str) else value

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http(s) address")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must hold no credentials, query or fragment")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError("must be https: the API key would travel in the clear")
        return value.rstrip("/")

    @field_validator("ledger")
    @classmethod
    def _check_ledger(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if not separator:
            if value.lower() == "memory":
                return "memory"
            if os.path.isdir(os.path.expanduser(value)):  # which says no where it cannot look
                raise ValueError("must be a file; this is a directory")
            return value
        if scheme.lower() not in ("redis", "rediss", "unix"):
            raise ValueError("must be a file, `memory`, or an address that begins with redis://, rediss:// or unix://")
        if find_spec("redis") is None:
            raise ValueError("needs the package redis: install parallel-mcp[redis]")
        return f"{scheme.lower()}://{rest}"

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        return checked_key(value.get_secret_value()) if value else None


def checked_key(text: str) -> SecretStr | None:
    """An API key that can stand in a header, or None when blank. No format is documented, so none is demanded.

    Raises:
        ValueError: Inner white space, control or non-ASCII characters: a key was pasted wrongly.
    """
    key = text.strip()
    if not key:
        return None
    if len(key) > 512 or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("is not a usable API key: it holds blanks or unprintable characters, or is too long")
    return SecretStr(key)


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from `flags` (field name -> value; None means not given), which win over environment variables.

    Raises:
        SettingsError: Naming each setting that does not fit; never its value.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    environment = {name: os.environ.get(env_name(name), "").strip() for name in Settings.model_fields}
    try:
        settings = Settings.model_validate({name: value for name, value in environment.items() if value} | given)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        raise SettingsError(
            "; ".join(_explain(problem["loc"], problem["msg"], given) for problem in problems)
        ) from None
    if settings.api_key is None and settings.api_key_file is not None:
        return settings.model_copy(update={"api_key": _key_from_file(settings.api_key_file)})
    return settings


def unknown_variables() -> list[str]:
    """Environment variables that look like settings and are none: probably misspelt."""
    known = {env_name(name) for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)


def env_name(field: str) -> str:
    """The environment variable of a setting."""
    return f"PARALLEL_{field.upper()}" if field in _OWN_NAMES else f"{ENV_PREFIX}{field.upper()}"


def flag_of(field: str) -> str:
    """The flag of `serve` that sets it."""
    return "--" + field.replace("_", "-")


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _key_from_file(path: Path) -> SecretStr | None:
    try:
        return checked_key(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else f"cannot be read: {type(error).__name__}"
        raise SettingsError(f"PARALLEL_API_KEY_FILE {reason}") from None


def _explain(location: tuple[int | str, ...], message: str, flags: Mapping[str, Any]) -> str:
    """What is wrong, under the name that the person has used."""
    name = str(location[0]) if location else ""
    label = flag_of(name) if name in flags else env_name(name) if name in Settings.model_fields else name
    return f"{label} {message.removeprefix('Value error, ').removeprefix('Input ')}".strip()
