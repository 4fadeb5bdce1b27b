"""`parallel-mcp specs check DIR` and `parallel-mcp specs new "…"`: task specs, for the people who write them."""

import json
import re
import sys
from pathlib import Path

import anyio

from parallel_mcp.api.client import ParallelApi
from parallel_mcp.api.connections import Connections
from parallel_mcp.api.models import SuggestedTask
from parallel_mcp.cli import say
from parallel_mcp.errors import PLATFORM_URL, ResearchError, SettingsError
from parallel_mcp.render.untrusted import clean, one_line
from parallel_mcp.settings import Settings, env_name, load_settings
from parallel_mcp.tasks.creating import is_dear
from parallel_mcp.tasks.processors import enough_for, processor_named
from parallel_mcp.tasks.spec_files import MAX_DESCRIPTION_CHARS, BadSpec, SpecReport, checked_spec, read_specs
from parallel_mcp.tasks.spec_schemas.findings import shown_name
from parallel_mcp.tools.spec_tools import names_of_own_tools

FAILED = 1
WRONG_USAGE = 2
MAX_INTENT_CHARS = 5_000


def run_specs(*, action: str, path: Path | None = None, intent: str = "", out: Path | None = None) -> int:
    """Run one of the two; the exit status."""
    try:
        settings = load_settings()
        if path is not None and action == "check":
            return _check(path, settings)
        return _new(intent, out, settings)
    except (SettingsError, ResearchError) as error:
        quote = f" {one_line(error.quote, 500)}" if isinstance(error, ResearchError) and error.quote else ""
        say(f"parallel-mcp specs: {error}.{quote}")
        return FAILED


# ---- check


def _check(path: Path, settings: Settings) -> int:
    """A directory, or one file as it is among the others of its directory."""
    directory = path.parent if path.is_file() else path
    reports = read_specs(directory, default_processor=settings.default_processor, taken=names_of_own_tools())
    if path.is_file():
        reports = [report for report in reports if report.file == shown_name(path.name)]
    for report in reports:
        _write(_lines_of(report, settings))
    bad = sum(report.spec is None for report in reports)
    none = "A task spec is a .json or .toml file." if path.is_file() else "There is no .json or .toml file here."
    _write([f"{len(reports) - bad} good, {bad} bad." if reports else none])
    return FAILED if bad or not reports else 0


def _lines_of(report: SpecReport, settings: Settings) -> list[str]:
    spec = report.spec
    warnings = list(report.warnings)
    if spec is None:
        lines = [f"{report.file}: left out"]
    else:
        price = f"{spec.processor.name}, ${spec.processor.price_usd:.3f} a run"
        lines = [f"{report.file}: the tool {spec.name} ({price})"]
        if is_dear(spec.processor.price_usd, settings):
            limit = f"the ${settings.max_usd_per_call:.2f} that one call may cost ({env_name('max_usd_per_call')})"
            warnings.append(
                f"a run costs more than {limit}: the user is asked each time, and a client that cannot ask is refused"
            )
    lines += [f"  error: {error}" for error in report.errors]
    return [*lines, *(f"  warning: {warning}" for warning in warnings)]


# ---- new


def _new(intent: str, out: Path | None, settings: Settings) -> int:
    if out is not None and (out.suffix != ".json" or out.exists()):
        wrong = "that file exists already" if out.exists() else "--out names a new file that ends with .json"
        say(f"parallel-mcp specs: {wrong}")
        return WRONG_USAGE
    if settings.api_key is None:
        say(f"{env_name('api_key')} is not set, so nothing was sent. Keys are made at {PLATFORM_URL}.")
        return FAILED
    suggested = anyio.run(_suggested, one_line(intent, MAX_INTENT_CHARS), settings)
    for warning in suggested.warnings:
        say(f"The API remarks ({one_line(warning.type, 60)}): {one_line(warning.message, 500)}")
    draft = _draft(suggested, intent, settings)
    text = clean(json.dumps(draft, indent=2, ensure_ascii=False)) + "\n"
    if out is None:
        _write([text.rstrip("\n")])
    else:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
        say(f"Written to {out}. Read it, and change what you would say otherwise; it is a draft.")
    return _check_draft(text, settings)


async def _suggested(intent: str, settings: Settings) -> SuggestedTask:
    assert settings.api_key is not None  # looked at before
    connections = Connections(settings.base_url)
    try:
        return await ParallelApi(connections, settings.api_key).suggest_task(intent)
    finally:
        await connections.aclose()


def _draft(suggested: SuggestedTask, intent: str, settings: Settings) -> dict[str, object]:
    title = one_line(suggested.title, 80) or "Untitled research"
    return {
        "name": _name_from(title),
        "title": title,
        "description": one_line(f"Finds out by web research: {intent}", MAX_DESCRIPTION_CHARS),
        "processor": _processor_for(suggested, settings),
        "timeout_s": 110,
        "input_schema": suggested.input_schema,
        "output_schema": suggested.output_schema,
    }


def _name_from(title: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:40].rstrip("_")
    return words if re.match(r"[a-z]", words) else "new_research"


def _processor_for(suggested: SuggestedTask, settings: Settings) -> str:
    """The default processor if it handles so many fields, else the cheapest that does."""
    properties = suggested.output_schema.get("properties")
    fields = len(properties) if isinstance(properties, dict) else 0
    default = processor_named(settings.default_processor)
    if default is not None and fields <= default.most_fields:
        return default.name
    return enough_for(fields) or "ultra2x"


def _check_draft(text: str, settings: Settings) -> int:
    """Say what is still wrong with a draft: it is written all the same, to be corrected."""
    try:
        _, warnings = checked_spec(json.loads(text), default_processor=settings.default_processor)
    except BadSpec as bad:
        for error in bad.errors:
            say(f"To be corrected: {error}")
        return FAILED
    for warning in warnings:
        say(f"Could be better: {warning}")
    return 0


def _write(lines: list[str]) -> None:
    """To stdout: here it is not the protocol's."""
    sys.stdout.write("\n".join(lines) + "\n")
