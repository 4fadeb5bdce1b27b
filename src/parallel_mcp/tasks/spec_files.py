"""A directory of task specs -> checked specs, and for each file what is wrong with it or could be better.

A file is JSON or TOML and describes one kind of research; see `SpecFile` for its keys. What is wrong with a file never
concerns another one.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from parallel_mcp.api.models import JsonSchemaSpec, SourcePolicy, TaskSpec
from parallel_mcp.errors import InvalidArguments
from parallel_mcp.tasks.processors import Processor, ProcessorName, processor_named
from parallel_mcp.tasks.spec_schemas.bounds import excess_of
from parallel_mcp.tasks.spec_schemas.findings import Schema, error_text, shown_name, warning_texts
from parallel_mcp.tasks.spec_schemas.preparing import prepared_schema
from parallel_mcp.tasks.spec_schemas.publishing import published_input
from parallel_mcp.tasks.specs import MAX_SPEC_CHARS, Day, Domains, source_policy

SUFFIXES = (".json", ".toml")
MAX_FILES = 50
MAX_FILE_BYTES = 100_000
MAX_DESCRIPTION_CHARS = 600
MAX_WAIT_S = 600
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"


def _processor(name: str) -> str:
    if processor_named(name) is None:
        near = get_close_matches(name, get_args(ProcessorName), n=1) or ["core-fast"]
        raise PydanticCustomError("processor", "a processor, such as {near}", {"near": near[0]})
    return name


def _on_one_line(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("one_line", "a text on one line")
    return text


class SpecSources(BaseModel):
    """Which sources the research may use."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    include_domains: Domains = []
    exclude_domains: Domains = []
    after_date: Day = ""


class SpecFile(BaseModel):
    """What a file holds. Schemas are those of the file; `Spec` has them as they are used."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    title: Annotated[str, Field(min_length=1, max_length=80), AfterValidator(_on_one_line)]
    description: Annotated[str, Field(min_length=1, max_length=MAX_DESCRIPTION_CHARS)]
    processor: Annotated[str, AfterValidator(_processor)] = ""
    timeout_s: Annotated[float | None, Field(ge=0, le=MAX_WAIT_S)] = None
    source_policy: SpecSources = SpecSources()
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """A kind of research that can be started: its schemas keep the rules of the API and of tools."""

    name: str
    title: str
    description: str
    processor: Processor
    timeout_s: float | None
    sources: SourcePolicy | None
    input_schema: Schema
    output_schema: Schema

    @property
    def task_spec(self) -> TaskSpec:
        """As the API takes it."""
        return TaskSpec(
            input_schema=JsonSchemaSpec(json_schema=self.input_schema),
            output_schema=JsonSchemaSpec(json_schema=self.output_schema),
        )


@dataclass(frozen=True)
class SpecReport:
    """What became of one file. Errors and warnings name the place, and echo no value of the file."""

    file: str
    spec: Spec | None = None
    errors: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])


class BadSpec(Exception):
    """A file that is left out, with what is wrong with it."""

    def __init__(self, *errors: str) -> None:
        super().__init__("; ".join(errors))
        self.errors = list(errors)


def read_specs(directory: Path, *, default_processor: str, taken: Collection[str] = ()) -> list[SpecReport]:
    """Read every JSON and TOML file of a directory, in the order of their names; not those in directories within it.

    `taken` are the names of other tools. Each file has a report, with its spec or with errors; only the first 50 files
    are read. Never raises.
    """
    try:
        names = _spec_files(directory)
    except OSError as error:
        return [SpecReport(_shown(directory), errors=[f"the directory cannot be read ({type(error).__name__})"])]
    reports: list[SpecReport] = []
    owners = dict.fromkeys(taken, "")
    for name in names[:MAX_FILES]:
        report = _read(directory, name, default_processor, owners)
        if report.spec is not None:
            owners[report.spec.name] = report.file
        reports.append(report)
    rule = f"a directory holds at most {MAX_FILES} specs; this one is beyond that"
    return [*reports, *(SpecReport(shown_name(name), errors=[rule]) for name in names[MAX_FILES:])]


def checked_spec(given: object, *, default_processor: str) -> tuple[Spec, list[str]]:
    """A parsed file as a spec, and what could be better about it.

    Raises:
        BadSpec: It breaks a rule.
    """
    if excess := excess_of(given):
        raise BadSpec(f"the file (size): {excess}")
    if not isinstance(given, dict):
        raise BadSpec("the file (type): it is an object with name, title, description and two schemas")
    if hidden := next(_unprintable(cast("JsonValue", given)), ""):
        raise BadSpec(hidden)
    try:
        file = SpecFile.model_validate(given)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=True)
        raise BadSpec(*dict.fromkeys(map(_problem_text, problems))) from None
    return _spec_of(file, default_processor)


def fingerprint(directory: Path) -> tuple[object, ...]:
    """Something that differs once a spec file is added, removed or written to. Reads no file."""
    try:
        return tuple((name, _state(directory / name)) for name in _spec_files(directory))
    except OSError as error:
        return (type(error).__name__,)


# ---- one file


def _read(directory: Path, name: str, default_processor: str, owners: Mapping[str, str]) -> SpecReport:
    file = shown_name(name)
    try:
        spec, warnings = checked_spec(_parsed(directory, name), default_processor=default_processor)
        if spec.name in owners:
            other = owners[spec.name]
            raise BadSpec(f"name (taken): {f'{other} has it already' if other else 'the server has a tool of its own'}")
    except BadSpec as bad:
        return SpecReport(file, errors=bad.errors)
    return SpecReport(file, spec, warnings=warnings)


def _parsed(directory: Path, name: str) -> object:
    """The content of a file.

    Raises:
        BadSpec: It cannot be read, or is neither JSON nor TOML.
    """
    try:
        text = _content(directory, name).decode("utf-8-sig")
        if name.endswith(".toml"):
            return json.loads(json.dumps(tomllib.loads(text), default=_as_text))
        return json.loads(text, object_pairs_hook=_without_repetition)
    except OSError as error:
        raise BadSpec(f"the file (readable): it cannot be read ({type(error).__name__})") from None
    except UnicodeDecodeError:
        raise BadSpec("the file (encoding): it is not UTF-8") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = "TOML" if name.endswith(".toml") else "JSON"
        raise BadSpec(f"the file (syntax): it is not {kind}{_position(error)}") from None
    except (ValueError, RecursionError):
        raise BadSpec("the file (size): it is nested too deeply, or holds a number that is too long") from None


def _content(directory: Path, name: str) -> bytes:
    """The bytes of a file that lies within the directory, also by way of a link.

    Raises:
        OSError: It cannot be read.
        BadSpec: It is no regular file, lies elsewhere, or is too large.
    """
    path = Path(os.path.realpath(directory / name, strict=True))
    if not path.is_relative_to(os.path.realpath(directory)):
        raise BadSpec("the file (link): it is a link out of the directory")
    if not path.is_file():
        raise BadSpec("the file (kind): it is not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise BadSpec(f"the file (size): it is larger than {MAX_FILE_BYTES:,} bytes")
    return content


def _spec_of(file: SpecFile, default_processor: str) -> tuple[Spec, list[str]]:
    processor = processor_named(file.processor or default_processor)
    assert processor is not None  # both names were checked
    errors: list[str] = []
    warnings: list[str] = []
    schemas: list[Schema] = []
    for argument in ("input_schema", "output_schema"):
        try:
            schema, remarks = _schema(file, argument, processor)
        except InvalidArguments as error:
            errors.append(str(error))
        else:
            schemas.append(schema)
            warnings += [f"{argument}: {remark}" for remark in remarks]
    try:
        sources = source_policy(**file.source_policy.model_dump())
    except InvalidArguments:
        errors.append("source_policy (domains): at most 200 in all")
        sources = None
    if errors:
        raise BadSpec(*errors)
    spec = Spec(file.name, file.title, file.description, processor, file.timeout_s, sources, *schemas)
    length = len(json.dumps(spec.task_spec.body(), ensure_ascii=False))
    if length > MAX_SPEC_CHARS:
        raise BadSpec(f"both schemas (characters): {length:,} characters as JSON; the API takes {MAX_SPEC_CHARS:,}")
    return spec, warnings


def _schema(file: SpecFile, argument: str, processor: Processor) -> tuple[Schema, list[str]]:
    if argument == "output_schema":
        prepared = prepared_schema(file.output_schema, processor=processor)
        return prepared.schema, prepared.warnings
    prepared = prepared_schema(file.input_schema, argument=argument, purpose="input")
    schema, found = published_input(prepared.schema)
    if found.errors:
        raise InvalidArguments(error_text(argument, found.errors))
    return schema, [*prepared.warnings, *warning_texts(found.warnings)]


# ---- what is wrong, in words

_WORDS = {
    "missing": "it is missing",
    "string_too_short": "it is empty",
    "extra_forbidden": "there is no such key",
    "string_type": "a text",
    "dict_type": "an object",
    "list_type": "a list",
    "float_type": "a number",
    "model_type": "an object",
    "string_pattern_mismatch": "a lower-case letter, then at most 39 lower-case letters, digits or _",
}


def _problem_text(problem: ErrorDetails) -> str:
    """`place (rule): what is right`; the place holds names of the file only, cleaned."""
    kind, context = problem["type"], problem.get("ctx", {})
    place = ".".join(shown_name(str(part)) for part in problem["loc"])
    if kind == "string_too_long":
        return f"{place} (length): at most {context['max_length']:,} characters"
    words = _WORDS.get(kind) or problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    known = f"; the keys are {', '.join(SpecFile.model_fields)}" if kind == "extra_forbidden" else ""
    return f"{place} ({kind.replace('_', '-')}): {words}{known}"


def _unprintable(value: JsonValue, place: str = "") -> Iterator[str]:
    """The places of texts and names with control or invisible characters; bounds were checked before."""
    if isinstance(value, str):
        hidden = next((char for char in value if not char.isprintable() and char not in "\n\t"), "")
        if hidden:
            yield f"{place} (characters): it holds a control or invisible character (U+{ord(hidden):04X})"
    elif isinstance(value, dict):
        for name, member in value.items():
            inner = f"{place}.{shown_name(name)}".lstrip(".")
            if not name.isprintable():
                yield f"{inner} (characters): its name holds a control or invisible character"
            yield from _unprintable(member, inner)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unprintable(item, f"{place}[{number}]")


def _position(error: ValueError) -> str:
    """Where a syntax error is. Python's own words would quote the file."""
    if isinstance(error, json.JSONDecodeError):
        return f" (line {error.lineno}, column {error.colno})"
    _, _, position = str(error).rpartition("(at ")
    return f" ({position}" if position.endswith(")") and len(position) < 60 else ""


def _shown(path: Path) -> str:
    return "/".join(shown_name(part) for part in path.parts).replace("//", "/")


# ---- reading


def _spec_files(directory: Path) -> list[str]:
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".")]
    return sorted(names)


def _state(path: Path) -> tuple[int, ...]:
    try:
        state = path.stat()
    except OSError:
        return ()
    return state.st_mtime_ns, state.st_size, state.st_ino, stat.S_IFMT(state.st_mode)


def _as_text(value: object) -> str:
    """TOML has dates and times, JSON has none."""
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    raise ValueError("not JSON")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise BadSpec("the file (syntax): an object has the same key twice")
    return members
