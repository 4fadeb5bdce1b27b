"""`parallel-mcp demo`: the whole thing against the built-in simulator, without a key or a network.

A real MCP client talks over stdio to a real `parallel-mcp` process; everything shown came through the protocol.
"""

import sys
import tempfile
from typing import Any, cast

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import CallToolResult, TextContent
from rich.console import Console
from rich.markdown import Markdown
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from parallel_mcp.render.untrusted import MARK
from parallel_mcp.simulator import Simulator, SimulatorConfig, serving

SPEED = 10.0
QUESTION = "What does grid-scale battery storage cost, and what drives the cost?"
# Words for the simulator: how long the run takes (in simulated seconds) and how many steps it reports.
STORY = {"sim": "latency=70 messages=14"}


def run_demo() -> int:
    """Run the demo; the exit status. Nothing is written outside a temporary folder."""
    console = Console(highlight=False)
    simulator = Simulator(SimulatorConfig(speed=SPEED))
    with tempfile.TemporaryDirectory(prefix="parallel-mcp-demo-") as folder, serving(simulator) as base_url:
        anyio.run(_show, console, base_url, folder)
    return 0


async def _show(console: Console, base_url: str, folder: str) -> None:
    console.print("[bold]parallel-mcp demo[/]: the built-in simulator stands in for api.parallel.ai")
    async with Client(stdio_client(_server(base_url, folder))) as client:
        await _show_tools(console, client)
        await _show_search(console, client)
        run_id = await _start_task(console, client)
        await _watch(console, client, run_id)
        await _show_result(console, client, run_id)


def _server(base_url: str, folder: str) -> StdioServerParameters:
    # The SDK's client passes on no other variables of ours, so a real key does not get in.
    environment = {"PARALLEL_BASE_URL": base_url, "PARALLEL_API_KEY": "demo", "PARALLEL_MCP_LEDGER": "memory"}
    return StdioServerParameters(command=sys.executable, args=["-m", "parallel_mcp"], env=environment, cwd=folder)


async def _show_tools(console: Console, client: Client) -> None:
    tools = (await client.list_tools()).tools
    console.rule("tools/list")
    for tool in tools:
        console.print(f"[cyan]{tool.name}[/] - {tool.title}")


async def _show_search(console: Console, client: Client) -> None:
    console.rule("search")
    console.print(_text(await client.call_tool("search", {"objective": QUESTION}))[:900], markup=False)


async def _start_task(console: Console, client: Client) -> str:
    console.rule("create_task")
    created = await client.call_tool("create_task", {"input": QUESTION, "processor": "core-fast", "metadata": STORY})
    console.print(_text(created), markup=False)
    return str(_structured(created)["run_id"])


async def _watch(console: Console, client: Client, run_id: str) -> None:
    """Draw a bar from MCP progress notifications, and from nothing else."""
    console.rule("watch_progress")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("research", total=100)

        async def draw(progress: float, total: float | None, message: str | None) -> None:
            bar.update(task, completed=progress, total=total)
            bar.console.print(f"  {progress:6.2f} %  {message}", markup=False)

        arguments: dict[str, object] = {"id": run_id, "timeout_s": 10}
        while True:
            watched = await client.call_tool("watch_progress", arguments, progress_callback=draw)
            state = _structured(watched)
            if not state["is_active"]:
                break
            arguments["cursor"] = state["cursor"]
    console.print(_text(watched).partition("\n")[0], markup=False)


async def _show_result(console: Console, client: Client, run_id: str) -> None:
    console.rule("get_result")
    text = _text(await client.call_tool("get_result", {"id": run_id}))
    body = text.replace(f"<{MARK}>", "").replace(f"</{MARK}>", "")
    console.print(Panel(Markdown(body), title="cited result"))
    console.print("Next: put it into your assistant, see README.md; a key comes from https://platform.parallel.ai")


def _structured(result: CallToolResult) -> dict[str, Any]:
    return cast("dict[str, Any]", result.structured_content or {})


def _text(result: CallToolResult) -> str:
    text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
    if result.is_error:
        raise SystemExit(f"The demo failed: {text}")
    return text
