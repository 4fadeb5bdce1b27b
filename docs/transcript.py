"""Writes `docs/transcript.md`: what a model reads in a row of calls, on the simulator.

    python docs/transcript.py            write it
    python docs/transcript.py --check    fail if it is not what would be written

Times vary from run to run, so they are written as `…`.
"""

import json
import re
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import anyio
from mcp import Client
from mcp.types import CallToolResult, TextContent

from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from parallel_mcp.simulator import Simulator, SimulatorConfig, serving

TRANSCRIPT = Path(__file__).with_name("transcript.md")
HEADING = """\
# Ten calls, as a model reads them

Made by `docs/transcript.py` on the simulator, whose pages and figures are invented: nothing here came from the live
API. Shown is the text half of each answer; the typed half says the same. Times are written as `…`.
"""
QUESTION = "What does grid-scale battery storage cost, and what drives the cost?"
SCHEMA = {
    "type": "object",
    "properties": {
        "usd_per_kwh": {"type": "number", "description": "Installed cost of a four-hour system in dollars per kWh"},
        "main_driver": {"type": "string", "description": "What drives the cost most"},
    },
}
CSV = "company,country\nAcme Storage,Germany\nGlobex Power,Spain\nInitech Grid,France\n"
_TIMES = re.compile(r"\b(after|for) \d+ s\b")


def main() -> int:
    """Write or check the transcript; the exit status."""
    with serving(Simulator(SimulatorConfig(seed=7, speed=60))) as url:
        written = anyio.run(_transcript, url)
    if "--check" not in sys.argv[1:]:
        TRANSCRIPT.write_text(written, encoding="utf-8")
        return 0
    if TRANSCRIPT.read_text(encoding="utf-8") == written:
        return 0
    sys.stderr.write("docs/transcript.md is out of date: run python docs/transcript.py\n")
    return 1


async def _transcript(url: str) -> str:
    flags = {"base_url": url, "api_key": "transcript", "ledger": "memory"}
    async with Client(build_server(load_settings(flags)), mode="2026-07-28") as client:
        return HEADING + "".join([part async for part in _Calls(client).parts()])


class _Calls:
    """The calls, each with what came of it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def parts(self) -> AsyncGenerator[str]:
        yield await self._call("search", objective=QUESTION)
        yield await self._call("create_task", input=QUESTION, metadata={"sim": "latency=60 messages=8"})
        run_id = self._last["run_id"]
        yield await self._call("watch_progress", id=run_id)
        yield await self._call("get_result", id=run_id, max_chars=3_000)
        yield await self._call(
            "run_task", input=QUESTION, output_schema=SCHEMA, processor="base", metadata={"sim": "latency=30"}
        )
        yield await self._call("create_task_group", csv=CSV, output_schema=SCHEMA, processor="lite")
        group_id = self._last["group_id"]
        yield await self._call("watch_progress", id=group_id)
        yield await self._call("get_result", id=group_id)
        yield await self._call("create_task", input=QUESTION, processor="ultra8x")
        yield await self._call("get_result", id="trun_of_somebody_else")

    async def _call(self, tool: str, **arguments: Any) -> str:
        result = await self._client.call_tool(tool, arguments)
        self._last = cast("dict[str, Any]", result.structured_content or {})
        outcome = " (a tool error)" if result.is_error else ""
        given = json.dumps(arguments, ensure_ascii=False, indent=2)
        return f"\n## {tool}{outcome}\n\n```json\n{given}\n```\n\n````text\n{_steady(_text(result))}\n````\n"


def _text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def _steady(text: str) -> str:
    return _TIMES.sub(r"\1 … s", text)


if __name__ == "__main__":
    sys.exit(main())
