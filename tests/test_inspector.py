"""Every tool through another client: the MCP Inspector, built on the TypeScript SDK, which checks results itself.

`MCP_INSPECTOR` names its command-line program (npm package `@modelcontextprotocol/inspector`); without it this is
skipped.
"""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import Upstream
from tests.connecting import KEY

INSPECTOR = os.environ.get("MCP_INSPECTOR", "")
pytestmark = pytest.mark.skipif(
    not INSPECTOR or shutil.which("node") is None, reason="MCP_INSPECTOR or Node.js is missing"
)


def inspected(upstream: Upstream, *arguments: str) -> dict[str, Any]:
    """What the Inspector prints of one request to a new server over stdio."""
    environment = {"PARALLEL_BASE_URL": upstream.url, "PARALLEL_API_KEY": KEY, "PARALLEL_MCP_LEDGER": "memory"}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    settings = [part for name, value in environment.items() for part in ("-e", f"{name}={value}")]
    command = ["node", INSPECTOR, "--cli", *settings, sys.executable, "-m", "parallel_mcp", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def called(upstream: Upstream, tool: str, **arguments: Any) -> dict[str, Any]:
    """The typed half of a result that the Inspector found to fit the published schema."""
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in arguments.items()}
    given = [part for name, value in values.items() for part in ("--tool-arg", f"{name}={value}")]
    result = inspected(upstream, "--method", "tools/call", "--tool-name", tool, *given)
    assert not result.get("isError"), result["content"]
    assert result["content"][0]["text"]
    return result["structuredContent"]


def test_every_tool_is_usable_from_the_typescript_sdk(upstream: Upstream) -> None:
    """Most hosts are built on it; it refuses results that do not fit what the tool has published."""
    listed = [tool["name"] for tool in inspected(upstream, "--method", "tools/list")["tools"]]
    seen: dict[str, dict[str, Any]] = {}

    def call(tool: str, **arguments: Any) -> dict[str, Any]:
        seen[tool] = called(upstream, tool, **arguments)
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
    called(upstream, "watch_progress", id=group["group_id"])
    called(upstream, "get_result", id=group["group_id"])
    call("get_status", ids=[run_id, group["group_id"]])

    assert sorted(seen) == sorted(listed)
    assert seen["watch_progress"]["result_ready"]
    assert seen["run_task"]["untrusted"]["output"]["cost"]
