"""Cold start: from spawning the process to the answer of `tools/list` over stdio, beside a bare SDK server.

    python benchmarks/startup.py [runs]

Prints the median of each in milliseconds and their ratio. Runs are interleaved, so that a busy machine slows both;
only the ratio means anything. The bare server has as many tools as ours, each of one plain argument.
"""

import json
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from parallel_mcp.tools import CORE_TOOLS

RUNS = 15

_BARE_SERVER = f"""
from mcp.server import MCPServer
server = MCPServer("bare", log_level="WARNING")
for number in range({len(CORE_TOOLS)}):
    def tool(text: str) -> str:
        "Return the text."
        return text
    server.add_tool(tool, name=f"tool_{{number}}")
server.run()
"""

_META: dict[str, object] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
_LIST_TOOLS = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": _META}}) + "\n"


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    console_command = str(Path(sysconfig.get_path("scripts")) / "parallel-mcp")
    commands = {"bare": [sys.executable, "-c", _BARE_SERVER], "ours": [console_command]}
    for command in commands.values():
        cold_start_s(command)  # once for nothing: compiled modules, file cache
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(cold_start_s(command))
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    for name, median in medians.items():
        print(f"{name}: {median * 1000:.0f} ms (median of {runs})")
    print(f"ratio ours/bare: {medians['ours'] / medians['bare']:.3f}")


def cold_start_s(command: Sequence[str]) -> float:
    """Seconds until the tools of a freshly started server are listed."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(_LIST_TOOLS)
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        elapsed_s = time.perf_counter() - started
        process.stdin.close()
    assert len(answer["result"]["tools"]) == len(CORE_TOOLS), answer
    return elapsed_s


if __name__ == "__main__":
    main()
