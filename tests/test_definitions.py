"""What the model reads of each tool, against `src/parallel_mcp/tools/published/*.json`.

Accept a change with `UPDATE_SNAPSHOTS=1 python -m pytest tests/test_definitions.py`, and read it as a model would.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, cast

import pytest
from mcp import Client

from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from parallel_mcp.tools import CORE_TOOLS, READING_TOOLS, chosen_tools
from parallel_mcp.tools.definition import PUBLISHED
from tests.connecting import LEGACY, MODERN, ROOT, connected

EXAMPLE_SPECS = ROOT / "docs" / "specs"
FORBIDDEN = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "const", "title", "exclusiveMinimum", "format"}
READ_ONLY = {
    "search",
    "extract",
    "get_status",
    "get_result",
    "watch_progress",
    "view_run",
    "list_monitors",
    "get_monitor_events",
}
CANCELLING = {"cancel_findall", "cancel_monitor"}
CLOSED_WORLD = {"get_status", "list_monitors"}
ALL_TOOLSETS = "core,findall,monitor,specs"
BY_DEFAULT = "core"


async def definitions(mode: str = MODERN, toolsets: str = ALL_TOOLSETS, **flags: Any) -> list[dict[str, Any]]:
    """The tools as a client gets them."""
    async with Client(build_server(load_settings({"toolsets": toolsets, **flags})), mode=mode) as client:
        tools = (await client.list_tools()).tools
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]


async def test_definitions_are_those_of_the_snapshots() -> None:
    """They are a contract with prompts and configurations of other people."""
    offered = chosen_tools(load_settings({"toolsets": ALL_TOOLSETS}))
    made = {definition.run.__name__: definition.schemas() for definition in offered}
    if os.environ.get("UPDATE_SNAPSHOTS"):
        await publish(made)

    listed = {tool["name"]: written(tool) for tool in await definitions()}
    kept = {path.stem: path.read_text(encoding="utf-8") for path in PUBLISHED.glob("*.json")}
    assert listed == kept, "accept with UPDATE_SNAPSHOTS=1"
    for name, (arguments, output) in made.items():
        published = json.loads(kept[name])
        assert published["inputSchema"] == arguments, "accept with UPDATE_SNAPSHOTS=1"
        assert published["outputSchema"] == output, "accept with UPDATE_SNAPSHOTS=1"


async def publish(made: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Write the files anew: first the schemas, which the server reads, then all that it makes of them."""
    for path in PUBLISHED.glob("*.json"):
        path.unlink()
    for name, (arguments, output) in made.items():
        (PUBLISHED / f"{name}.json").write_text(written({"inputSchema": arguments, "outputSchema": output}))
    for tool in await definitions():
        (PUBLISHED / f"{tool['name']}.json").write_text(written(tool), encoding="utf-8")


def written(tool: dict[str, Any]) -> str:
    """A definition as it stands in its file."""
    return json.dumps(tool, indent=2, ensure_ascii=False) + "\n"


async def test_each_start_lists_the_same_bytes() -> None:
    """Prompt caches of clients depend on it."""
    with serving(Simulator(SimulatorConfig())) as url:
        seen: set[bytes] = set()
        for _ in range(5):
            async with connected("stdio", url) as client:
                seen.add((await client.list_tools()).model_dump_json().encode())

    assert len(seen) == 1


async def test_only_the_tools_of_core_are_there_by_default() -> None:
    """Every further tool costs each conversation something."""
    settings = load_settings()

    assert chosen_tools(settings) == CORE_TOOLS
    assert [tool["name"] for tool in await definitions(toolsets=BY_DEFAULT)] == [t.run.__name__ for t in CORE_TOOLS]
    assert [tool["name"] for tool in await definitions(toolsets="monitor")] == [
        "create_monitor",
        "list_monitors",
        "get_monitor_events",
        "cancel_monitor",
    ]


async def test_tools_that_read_runs_are_there_wherever_runs_are_made() -> None:
    """A server of house-made research only could else start what nobody can wait for."""
    reading = [definition.run.__name__ for definition in READING_TOOLS]
    specs = ["company_profile", "fact_check", "vendor_risk"]
    findall = ["create_findall", "extend_findall", "enrich_findall", "cancel_findall"]

    assert [tool["name"] for tool in await definitions(toolsets="specs", specs=EXAMPLE_SPECS)] == reading + specs
    assert [tool["name"] for tool in await definitions(toolsets="findall")] == reading + findall


@pytest.mark.parametrize("toolsets", ["core", "specs", "findall", "monitor", "findall,monitor", ALL_TOOLSETS])
async def test_no_definition_names_a_tool_that_is_not_there(toolsets: str) -> None:
    """A model would call it."""
    every = {tool["name"] for tool in await definitions()} - {"search", "extract"}  # which are words as well
    async with Client(build_server(load_settings({"toolsets": toolsets, "specs": EXAMPLE_SPECS}))) as client:
        tools = (await client.list_tools()).tools
        prompts = (await client.list_prompts()).prompts
        instructions = client.instructions or ""
    texts = [instructions, *(part.model_dump_json() for part in (*tools, *prompts))]

    assert every & set(re.findall(r"\w+", " ".join(texts))) <= {tool.name for tool in tools}
    assert len(instructions) <= 1_500


def test_toolsets_that_are_off_are_not_even_imported() -> None:
    """Clients start the server anew for every conversation, and nearly all of a start is imports."""
    code = (
        "import sys\n"
        "from parallel_mcp.server import build_server\n"
        "from parallel_mcp.settings import load_settings\n"
        "build_server(load_settings())\n"
        "print([name for name in sys.modules if 'findall' in name or 'monitor' in name or name.endswith('buying')])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout

    assert printed.strip() == "[]"


async def test_descriptions_are_short_in_every_toolset() -> None:
    """Clients cut long ones."""
    assert all(len(tool["description"]) <= 1_000 for tool in await definitions())


async def test_both_eras_see_the_same_definitions() -> None:
    """The era is a matter of the wire."""
    assert await definitions(MODERN) == await definitions(LEGACY)


async def test_schemas_use_only_what_every_client_accepts() -> None:
    """One schema with a `$ref` or a null type makes some clients refuse the whole list."""
    tools = await definitions(specs=EXAMPLE_SPECS)
    described = {tool["name"]: tool["inputSchema"]["properties"] for tool in tools}
    for tool in tools:
        assert_portable(tool["inputSchema"])
        assert_portable(tool["outputSchema"])
        assert tool["inputSchema"]["additionalProperties"] is False
        for name, member in tool["inputSchema"]["properties"].items():
            teller = "watch_progress" if tool["name"] == "view_run" else "create_task"
            assert member.get("description") or name in described[teller], (tool["name"], name)


def assert_portable(schema: dict[str, Any]) -> None:
    """The schema uses only what every client accepts."""
    assert schema["type"] == "object"
    for part in parts(schema):
        assert not FORBIDDEN & set(part), part
        assert isinstance(part.get("type", ""), str)
        assert part.get("type") != "null"
        if part.get("type") == "array":
            assert part["items"]
        if "enum" in part:
            assert part["type"] == "string"


async def test_hints_are_promises_that_hold() -> None:
    """Codex and Gemini CLI decide by them whether a tool may run unasked."""
    for tool in await definitions(specs=EXAMPLE_SPECS):
        hints = tool["annotations"]
        reads, cancels = tool["name"] in READ_ONLY, tool["name"] in CANCELLING
        assert hints["readOnlyHint"] is reads
        assert hints["idempotentHint"] is (reads or cancels)
        assert hints["destructiveHint"] is cancels
        assert hints["openWorldHint"] is (tool["name"] not in CLOSED_WORLD)
        assert tool["title"]


async def test_definitions_fit_the_budget_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    """They are read with every conversation, used or not; the one for our page by models of clients without pages."""
    tools = await definitions(toolsets=BY_DEFAULT)
    compact = {"separators": (",", ":"), "ensure_ascii": False}
    read = sum(
        len(json.dumps([tool["name"], tool["description"], tool["inputSchema"]], **cast("Any", compact)).encode())
        for tool in tools
    )
    whole = len(json.dumps(tools, **cast("Any", compact)).encode())
    with capsys.disabled():
        print(f"\ntools/list: {read:,} bytes read by the model, {whole:,} in all")  # noqa: T201

    assert read <= 7_000
    assert whole <= 20_000


def parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema and all schemas in it."""
    yield schema
    for member in schema.get("properties", {}).values():
        yield from parts(member)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from parts(schema[key])
