"""`parallel-mcp serve --http`."""

import gc
import signal
import socket
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

import uvicorn

from parallel_mcp.errors import SettingsError
from parallel_mcp.http.app import MCP_PATH, http_app
from parallel_mcp.server import ParallelServer, build_server, configure_logging, refuse_to_start
from parallel_mcp.settings import load_settings

DRAIN_S = 10
FINISH_S = 5  # for creates, after the drain
COLLECT_AFTER = 10_000  # new objects; the default of 700 means full collections too often, and each halts every watch


def serve_http(flags: Mapping[str, Any]) -> int:
    """Serve until SIGINT or SIGTERM, then let calls finish for up to 10 s; the exit status."""
    try:
        settings = load_settings(flags)
        configure_logging(settings)
        mcp_server = build_server(settings, finish_s=FINISH_S)
        app = http_app(mcp_server, settings)
    except SettingsError as error:
        return refuse_to_start(error)
    gc.freeze()  # what was imported stays: collections need not look at it
    gc.set_threshold(COLLECT_AFTER)
    # uvicorn raises the signal again once it has shut down; by then it only means: done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        log_config=None,  # our own logging goes to stderr already
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
    )
    _Server(config, mcp_server).run()
    return 0


class _Server(uvicorn.Server):
    """Says where it serves once it does; the port may have been chosen by the system. Calls may finish when it ends,
    but streams of changes have no end to wait for.
    """

    def __init__(self, config: uvicorn.Config, mcp_server: ParallelServer) -> None:
        super().__init__(config)
        self._mcp_server = mcp_server

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._mcp_server.let_listeners_go()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in (listener for server in self.servers for listener in server.sockets):
            host, port, *_ = listener.getsockname()
            sys.stderr.write(f"Serving MCP at http://{f'[{host}]' if ':' in host else host}:{port}{MCP_PATH}\n")


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
