"""The server through another client: the MCP Inspector, built on the TypeScript SDK, which checks results itself.

It speaks both eras, over both transports, and takes tasks in the modern one. It comes from npm (see
`tests.node_programs`).
"""

import json
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal

import pytest

from parallel_mcp.settings import load_settings
from tests.conftest import Upstream
from tests.connecting import KEY, serving_http
from tests.node_programs import NODE_MODULES, needs_node, node

pytestmark = needs_node

INSPECTOR = NODE_MODULES / ".bin" / "mcp-inspector"

Era = Literal["legacy", "modern"]
Inspect = Callable[..., dict[str, Any]]
"""What the Inspector prints of one request, made with these arguments."""


@pytest.fixture
def inspect(request: pytest.FixtureRequest, upstream: Upstream, era: Era, tmp_path: Path) -> Generator[Inspect]:
    """The Inspector, with a new server over stdio for each request, or with one over HTTP."""

    def inspected(*arguments: str) -> dict[str, Any]:
        options = ["--cli", "--protocol-era", era, "--format", "json", "-q"]
        done = node(INSPECTOR, *options, *server, *arguments, environment={"HOME": str(tmp_path)})
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["result"]

    if request.param == "stdio":
        environment = {"PARALLEL_BASE_URL": upstream.url, "PARALLEL_API_KEY": KEY, "PARALLEL_MCP_LEDGER": "memory"}
        if "PYTHONPATH" in os.environ:
            environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        settings = [part for name, value in environment.items() for part in ("-e", f"{name}={value}")]
        server = [*settings, sys.executable, "-m", "parallel_mcp"]
        yield inspected
    else:
        with serving_http(load_settings({"base_url": upstream.url, "ledger": "memory"})) as address:
            server = [f"{address}/mcp", "--header", f"x-api-key: {KEY}"]
            yield inspected


def called(inspect: Inspect, tool: str, **arguments: Any) -> dict[str, Any]:
    """The typed half of a result that the Inspector found to fit the published schema."""
    result = inspect("--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments))
    assert not result.get("isError"), result["content"]
    assert result["content"][0]["text"]
    return result["structuredContent"]


@pytest.mark.parametrize(("inspect", "era"), [("stdio", "legacy"), ("http", "modern")], indirect=["inspect"])
def test_every_tool_is_usable_from_the_typescript_sdk(inspect: Inspect) -> None:
    """Most hosts are built on it; it refuses results that do not fit what the tool has published."""
    listed = [tool["name"] for tool in inspect("--method", "tools/list", "--strict")["tools"]]
    seen: dict[str, dict[str, Any]] = {}

    def call(tool: str, **arguments: Any) -> dict[str, Any]:
        seen[tool] = called(inspect, tool, **arguments)
        return seen[tool]

    found = call("search", objective="cost of grid-scale battery storage")
    call("extract", urls=[found["untrusted"]["results"][0]["url"]])
    run_id = call("create_task", input="What does battery storage cost?", processor="lite")["run_id"]
    call("watch_progress", id=run_id)
    call("get_result", id=run_id)
    call("view_run", id=run_id)
    schema = {"type": "object", "properties": {"cost": {"type": "number", "description": "Dollars per kWh"}}}
    call("run_task", input="Battery storage", output_schema=schema, processor="lite", timeout_s=20)
    group = call("create_task_group", inputs=["Battery storage", "Electric buses"], processor="lite")
    called(inspect, "watch_progress", id=group["group_id"])
    called(inspect, "get_result", id=group["group_id"])
    call("get_status", ids=[run_id, group["group_id"]])

    assert sorted(seen) == sorted(listed)
    assert seen["watch_progress"]["result_ready"]
    assert seen["run_task"]["untrusted"]["output"]["cost"]


@pytest.mark.parametrize("inspect", ["stdio", "http"], indirect=True)
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_prompts_and_resources_are_offered(inspect: Inspect) -> None:
    """What a person chooses in a host comes to it in the same way."""
    prompts = [prompt["name"] for prompt in inspect("--method", "prompts/list")["prompts"]]
    question = ["--prompt-name", "deep_research", "--prompt-args", "question=Who pays for heat networks?"]
    prompt = inspect("--method", "prompts/get", *question)
    templates = inspect("--method", "resources/templates/list")["resourceTemplates"]
    run_id = called(inspect, "run_task", input="Battery storage", processor="lite", timeout_s=20)["id"]
    report = inspect("--method", "resources/read", "--uri", f"parallel://runs/{run_id}/report.md")

    assert "deep_research" in prompts
    assert "heat networks" in prompt["messages"][0]["content"]["text"]
    assert "parallel://runs/{run_id}/report.md" in [template["uriTemplate"] for template in templates]
    assert report["contents"][0]["mimeType"] == "text/markdown"


@pytest.mark.parametrize("inspect", ["stdio", "http"], indirect=True)
@pytest.mark.parametrize(("era", "story", "completes"), [("legacy", "never", False), ("modern", "latency=60", True)])
def test_run_that_outlasts_the_call_is_followed_as_a_task_by_a_client_that_takes_tasks(
    inspect: Inspect, story: str, completes: bool
) -> None:
    """The Inspector declares the extension in the modern era; others get the handle when the time of the call is up."""
    answer = called(inspect, "run_task", input="Battery storage", metadata={"sim": story}, timeout_s=2)

    assert (answer["status"] == "completed") is completes
