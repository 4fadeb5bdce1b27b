"""The server over stdin and stdout: what an MCP client starts."""

import gc
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import anyio
from mcp.server.stdio import stdio_server

from parallel_mcp.errors import SettingsError
from parallel_mcp.server import ParallelServer, build_server, configure_logging, refuse_to_start
from parallel_mcp.settings import load_settings

INTERRUPTED = 130
UNREAD_S = 3.0  # for a client that has closed stdin, to read what is still to be written


def serve_stdio(flags: Mapping[str, Any]) -> int:
    """Serve MCP until stdin closes or a signal comes; the exit status."""
    try:
        settings = load_settings(flags)
        configure_logging(settings)
        server = build_server(settings)
    except SettingsError as error:
        return refuse_to_start(error)
    if sys.stdin.isatty():
        sys.stderr.write("Serving MCP on stdin and stdout; `parallel-mcp --help` shows what else there is.\n")
    gc.enable()
    gc.freeze()  # what was imported stays: later collections need not look at it
    return anyio.run(_serve, server)


async def _serve(server: ParallelServer) -> int:
    async with anyio.create_task_group() as listening:
        serving = anyio.CancelScope()
        signals = _Signals(serving)
        listening.start_soon(signals.listen)
        async with stdio_server() as (incoming, outgoing):
            with serving:
                await server.serve(incoming, outgoing)
            if signals.exit_status is not None:
                # The thread that waits for stdin cannot be interrupted. Everything of ours is closed by now.
                sys.stderr.flush()
                os._exit(signals.exit_status)
            listening.start_soon(_end_though_nobody_reads)
        listening.cancel_scope.cancel()
    return 0


async def _end_though_nobody_reads() -> None:
    """The thread that writes to a full stdout cannot be interrupted either; its reader may hang, and never close it."""
    await anyio.sleep(UNREAD_S)
    os._exit(0)


class _Signals:
    """SIGINT and SIGTERM end the server in order; a repeated one does not cut the end short."""

    def __init__(self, serving: anyio.CancelScope) -> None:
        self.exit_status: int | None = None
        self._serving = serving

    async def listen(self) -> None:
        if sys.platform == "win32":
            return  # asyncio cannot wait for signals there; the process just ends
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if self.exit_status is None:
                    self.exit_status = INTERRUPTED if number == signal.SIGINT else 0
                self._serving.cancel()
