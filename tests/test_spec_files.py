"""What is a task spec and what is not, and what its author is told."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_mcp.errors import InvalidArguments
from parallel_mcp.tasks.spec_files import MAX_FILE_BYTES, MAX_FILES, SpecReport, fingerprint, read_specs
from parallel_mcp.tasks.spec_schemas.preparing import prepared_schema
from parallel_mcp.tasks.spec_schemas.publishing import published_input, published_output, without_nulls
from parallel_mcp.tools.spec_arguments import fits
from tests.conftest import Upstream
from tests.connecting import KEY
from tests.specs import EXAMPLES, SPEC, with_broken_and_hostile, write_spec
from tests.test_definitions import assert_portable
from tests.test_schema_properties import roots

TEXT = {"type": "string", "description": "A text."}


def reports(directory: Path) -> list[SpecReport]:
    return read_specs(directory, default_processor="core-fast", taken={"create_task"})


def inputs(**members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "name in capitals": ({"name": "Find"}, "name (string-pattern-mismatch): a lower-case letter"),
    "name with a line feed": ({"name": "find\n"}, "name (string-pattern-mismatch)"),
    "name too long": ({"name": "f" * 41}, "name (string-pattern-mismatch)"),
    "name of a tool of ours": ({"name": "create_task"}, "name (taken): the server has a tool of its own"),
    "no description": ({"description": None}, "description (missing)"),
    "empty title": ({"title": ""}, "title (string-too-short): it is empty"),
    "title on two lines": ({"title": "a\nb"}, "title (one-line)"),
    "description too long": ({"description": "x" * 601}, "description (length): at most 600 characters"),
    "terminal sequence": ({"description": "a\x1b[2J"}, "description (characters): it holds a control"),
    "hidden text": ({"description": "a\u202eb"}, "(U+202E)"),
    "hidden text in a schema": (
        {"input_schema": inputs(a={"type": "string", "description": "x\u200b"})},
        "input_schema.properties.a.description (characters)",
    ),
    "misspelt processor": ({"processor": "cor-fast"}, "processor (processor): a processor, such as core-fast"),
    "time that is a text": ({"timeout_s": "45"}, "timeout_s (float-type): a number"),
    "time without end": ({"timeout_s": 1e9}, "timeout_s (less-than-equal)"),
    "misspelt key": ({"output_shema": {}}, "there is no such key; the keys are name, title"),
    "domains that are a text": (
        {"source_policy": {"include_domains": "a.example"}},
        "source_policy.include_domains (list-type): a list",
    ),
    "day that is none": ({"source_policy": {"after_date": "2024-13-01"}}, "source_policy.after_date"),
    "too many domains": ({"source_policy": {"include_domains": ["a.example"] * 201}}, "source_policy (domains)"),
    "output that is a list": ({"output_schema": {"type": "array", "items": TEXT}}, "(root-object)"),
    "remote reference": ({"output_schema": {"$ref": "http://127.0.0.1:1/x"}}, "`output_schema` breaks rules"),
    "input of two types": ({"input_schema": inputs(a={"type": ["string", "number"]})}, "properties.a (input-type)"),
    "input of any type": ({"input_schema": inputs(a={"description": "x"})}, "properties.a (input-type)"),
    "choice of numbers": ({"input_schema": inputs(a={"enum": [1, 2]})}, "properties.a (input-choices)"),
    "list of anything": ({"input_schema": inputs(a={"type": "array"})}, "properties.a (input-items)"),
    "input without fields": ({"input_schema": {"type": "object"}}, "(root-properties)"),
    "schemas too long together": (
        {
            "input_schema": inputs(a={"type": "string", "description": "x" * 8_000}),
            "output_schema": inputs(leader_name={"type": "string", "description": "x" * 8_000}),
        },
        "both schemas (characters)",
    ),
}


@pytest.mark.parametrize(("changes", "told"), BAD.values(), ids=BAD.keys())
def test_bad_spec_is_reported_with_place_and_rule(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    """Its author has nothing else to go by; what the file says is not repeated."""
    write_spec(tmp_path, **changes)

    (report,) = reports(tmp_path)

    assert report.spec is None
    assert told in "\n".join(report.errors)
    assert "\x1b" not in str(report.errors)
    assert "Ignore" not in str(report.errors)


def link_out(directory: Path) -> None:
    secret = write_spec(directory.parent, "secret.json")
    (directory / "a.json").symlink_to(secret)


def link_to_itself(directory: Path) -> None:
    (directory / "a.json").symlink_to(directory / "a.json")


def written(content: bytes, file: str = "a.json") -> Callable[[Path], object]:
    return lambda directory: (directory / file).write_bytes(content)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "link out of the directory": (link_out, "the file (link)"),
    "link to itself": (link_to_itself, "the file (readable)"),
    "pipe that nobody writes to": (lambda directory: os.mkfifo(directory / "a.json"), "the file (kind)"),
    "directory": (lambda directory: (directory / "a.json").mkdir(), "the file (kind)"),
    "large file": (written(b" " * (MAX_FILE_BYTES + 1)), "the file (size)"),
    "other encoding": (written('{"name": "ä"}'.encode("latin-1")), "the file (encoding)"),
    "half of a file": (written(b'{"name": '), "the file (syntax): it is not JSON (line 1, column 10)"),
    "no TOML": (written(b"name = \n", "a.toml"), "the file (syntax): it is not TOML (line 1, column 8)"),
    "brackets without end": (written(b"[" * 90_000), "the file (size)"),
    "brackets without end in TOML": (written(b"a = " + b"[" * 90_000, "a.toml"), "the file ("),
    "a very long number": (written(b"9" * 50_000), "the file (size)"),
    "not a number": (written(b'{"timeout_s": NaN}'), "the file (size)"),
    "half a character": (written(b'{"name": "\\ud800"}'), "the file (size)"),
    "key given twice": (written(b'{"name": "a", "name": "b"}'), "the same key twice"),
    "list": (written(b"[]"), "the file (type)"),
}


@pytest.mark.parametrize(("make", "told"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_file_is_reported_and_the_next_one_read(
    tmp_path: Path, make: Callable[[Path], object], told: str
) -> None:
    """A directory may hold anything; a server must start all the same."""
    directory = tmp_path / "specs"
    directory.mkdir()
    make(directory)
    write_spec(directory, "z.json")

    bad, good = reports(directory)

    assert bad.spec is None
    assert told in bad.errors[0]
    assert good.spec is not None


def test_files_of_other_kinds_are_not_looked_at(tmp_path: Path) -> None:
    """Notes, hidden files of editors, and directories."""
    for name in ("README.md", ".find.json", "find.json~", "find.json.swp"):
        (tmp_path / name).write_text("{")
    (tmp_path / "archive").mkdir()
    write_spec(tmp_path / "archive")

    assert reports(tmp_path) == []


def test_same_name_twice_counts_once(tmp_path: Path) -> None:
    """The first file has it; the other is told which."""
    write_spec(tmp_path, "a.json")
    write_spec(tmp_path, "b.json")

    first, second = reports(tmp_path)

    assert first.spec is not None
    assert second.errors == ["name (taken): a.json has it already"]


def test_directory_of_too_many_files_is_read_in_part(tmp_path: Path) -> None:
    """A hundred tools are of no use to a model."""
    for number in range(MAX_FILES + 2):
        write_spec(tmp_path, f"{number:03}.json", name=f"find_{number}")

    found = reports(tmp_path)

    assert sum(report.spec is not None for report in found) == MAX_FILES
    assert [report.file for report in found if report.errors] == [f"0{MAX_FILES}.json", f"0{MAX_FILES + 1}.json"]


def test_missing_directory_is_reported(tmp_path: Path) -> None:
    """It may be made later; the server starts and looks again."""
    (report,) = reports(tmp_path / "gone")

    assert "cannot be read (FileNotFoundError)" in report.errors[0]


def test_toml_dates_are_taken(tmp_path: Path) -> None:
    """TOML has dates of its own, and people will write one."""
    example = (EXAMPLES / "vendor_risk.toml").read_text(encoding="utf-8")
    (tmp_path / "a.toml").write_text(example.replace('"2021-01-01"', "2021-01-01"), encoding="utf-8")

    (report,) = reports(tmp_path)

    assert report.spec is not None
    assert report.spec.sources is not None
    assert report.spec.sources.after_date == "2021-01-01"


def test_fingerprint_differs_with_every_change(tmp_path: Path) -> None:
    """It decides whether the directory is read again."""
    seen = [fingerprint(tmp_path)]
    path = write_spec(tmp_path)
    seen.append(fingerprint(tmp_path))
    write_spec(tmp_path, title="Another")
    seen.append(fingerprint(tmp_path))
    os.utime(path, ns=(1, 1))
    seen.append(fingerprint(tmp_path))
    (tmp_path / "b.json").symlink_to(path)
    seen.append(fingerprint(tmp_path))

    assert len(set(seen)) == len(seen)
    path.unlink()
    (tmp_path / "b.json").unlink()
    assert fingerprint(tmp_path) == seen[0]


# ---- schemas


@st.composite
def values_of(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    """A value that fits a prepared schema."""
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    if "anyOf" in schema:
        return draw(values_of(draw(st.sampled_from(schema["anyOf"]))))
    stated = schema.get("type", ["null", "string", "integer"])
    kinds = cast("list[str]", stated if isinstance(stated, list) else [stated])
    kind = draw(st.sampled_from(kinds))
    plain: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "string": st.text(max_size=3),
        "integer": st.integers(),
        "number": st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        "boolean": st.booleans(),
    }
    if kind in plain:
        return draw(plain[kind])
    if kind == "array":
        return draw(st.lists(values_of(schema.get("items", {})), max_size=2))
    members = {name: draw(values_of(member)) for name, member in schema.get("properties", {}).items()}
    entries = schema.get("additionalProperties", {})
    if members or entries is False:
        return members
    return draw(st.dictionaries(st.sampled_from(["k", "l"]), values_of(entries), max_size=2))


@settings(max_examples=200, deadline=None)
@given(roots(), st.data())
def test_every_fitting_output_fits_what_was_published(schema: dict[str, Any], data: st.DataObject) -> None:
    """Clients check it, and fail a paid call over a null too many."""
    try:
        prepared = prepared_schema(schema).schema
    except InvalidArguments:
        return
    value = data.draw(values_of(prepared))
    assert fits(prepared, value)

    published = published_output(prepared)

    assert_portable(published)
    assert fits(published, without_nulls(value, prepared))


@pytest.mark.parametrize(("field", "said"), [
    ({"enum": ["x", 1, None]}, 'One of: "x", 1, null.'),
    ({"enum": [True, 1, 0], "description": "How many."}, "How many. One of: true, 1, 0."),
    ({"anyOf": [{"type": "string", "enum": ["a", "b"]}, {"type": "integer"}]}, 'One of: "a", "b", integer.'),
    ({"type": ["string", "integer", "null"]}, "One of: text, integer, null."),
    ({"description": "What it is."}, "What it is. Any value."),
    ({}, "Any value."),
    ({"anyOf": [{"type": "string"}, {}]}, "Any value."),
])  # fmt: skip
def test_what_no_client_takes_as_a_schema_is_said_in_words(field: dict[str, Any], said: str) -> None:
    """Whoever reads the result knows what may stand there, down to the choices."""
    prepared = prepared_schema({"type": "object", "properties": {"a": field}}).schema

    assert published_output(prepared)["properties"] == {"a": {"description": said}}


@settings(max_examples=200, deadline=None)
@given(roots())
def test_every_input_is_portable_or_refused(schema: dict[str, Any]) -> None:
    """One tool that a client cannot take makes it refuse all of them."""
    try:
        prepared = prepared_schema(schema, purpose="input").schema
    except InvalidArguments:
        return

    published, found = published_input(prepared)

    if not found.errors:
        assert_portable(published)
        assert all("type" in member for member in published["properties"].values())  # pyright: ignore


# ---- the commands


def specs_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "parallel_mcp", "specs", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_check_of_good_specs_names_tools_and_prices() -> None:
    """The examples are the first that anybody checks."""
    finished = specs_command("check", str(EXAMPLES))

    assert finished.returncode == 0, finished.stdout
    assert "fact_check.json: the tool fact_check (core-fast, $0.025 a run)" in finished.stdout
    assert "3 good, 0 bad." in finished.stdout
    assert "warning" not in finished.stdout


def test_check_of_bad_specs_says_what_to_change_and_fails(tmp_path: Path) -> None:
    """So that it can stand in a pipeline."""
    finished = specs_command("check", str(with_broken_and_hostile(tmp_path)))

    assert finished.returncode == 1
    assert "broken.json: left out\n  error: processor (processor): a processor, such as core-fast" in finished.stdout
    assert "  error: output_schema (missing)" in finished.stdout
    assert "hostile.json: left out\n  error: the file (size)" in finished.stdout
    assert "3 good, 2 bad." in finished.stdout
    assert "\x1b" not in finished.stdout


def test_check_shows_what_could_be_better(tmp_path: Path) -> None:
    """A warning is no failure."""
    schema = inputs(name=TEXT, sources=TEXT, leader_name=TEXT)
    write_spec(tmp_path, output_schema=schema, input_schema=inputs(a={"type": "string"}), processor="ultra8x")

    finished = specs_command("check", str(tmp_path))

    assert finished.returncode == 0, finished.stdout
    assert "warning: output_schema: properties.sources" in finished.stdout
    assert "warning: input_schema: properties.a: no description" in finished.stdout
    assert "warning: a run costs more than the $1.00 that one call may cost" in finished.stdout


def test_check_of_one_file_speaks_of_that_file_alone(tmp_path: Path) -> None:
    """While it is being written, the others are no matter."""
    directory = with_broken_and_hostile(tmp_path)

    good, bad = (specs_command("check", str(directory / name)) for name in ("fact_check.json", "broken.json"))

    assert (good.returncode, bad.returncode) == (0, 1)
    assert "1 good, 0 bad." in good.stdout
    assert "0 good, 1 bad." in bad.stdout
    assert "hostile" not in good.stdout + bad.stdout


@pytest.mark.parametrize("to_file", [True, False])
def test_new_drafts_a_spec_that_passes_the_check(upstream: Upstream, tmp_path: Path, to_file: bool) -> None:
    """From words to a tool in two commands."""
    out = tmp_path / "draft.json"
    arguments = ["new", "the CEO and headcount of a company", *(["--out", str(out)] if to_file else [])]
    finished = specs_command(*arguments, PARALLEL_BASE_URL=upstream.url, PARALLEL_API_KEY=KEY)

    assert finished.returncode == 0, finished.stderr
    if not to_file:
        out.write_text(finished.stdout, encoding="utf-8")
    (report,) = reports(tmp_path)
    assert report.spec is not None, report.errors
    assert {"ceo", "headcount"} <= set(report.spec.task_spec.output_schema.model_dump()["json_schema"]["properties"])
    (asked,) = upstream.sent("POST", "/v1beta/tasks/suggest")
    assert json.loads(asked) == {"user_intent": "the CEO and headcount of a company"}
    assert KEY not in finished.stdout + finished.stderr
    assert upstream.simulator.accepted_runs == 0


def test_new_shows_the_remarks_of_the_api(upstream: Upstream) -> None:
    """A task that cannot be done is better dropped before it is paid for."""
    environment = {"PARALLEL_BASE_URL": upstream.url, "PARALLEL_API_KEY": KEY}
    finished = specs_command("new", "predict the lottery", **environment)

    assert "The API remarks (unattainable_task)" in finished.stderr
    assert json.loads(finished.stdout)["processor"] == "core-fast"


def test_new_overwrites_nothing_and_needs_a_key(upstream: Upstream, tmp_path: Path) -> None:
    """Nothing is asked of the API then."""
    kept = write_spec(tmp_path)
    environment = {"PARALLEL_BASE_URL": upstream.url, "PARALLEL_API_KEY": KEY}
    existing = specs_command("new", "x", "--out", str(kept), **environment)
    without_key = specs_command("new", "x", PARALLEL_BASE_URL=upstream.url)

    assert (existing.returncode, without_key.returncode) == (2, 1)
    assert json.loads(kept.read_text()) == SPEC
    assert "PARALLEL_API_KEY is not set" in without_key.stderr
    assert upstream.simulator.requests == []
