"""Serving a simulator over HTTP: on a thread of its own for tests and demonstrations, or in the foreground."""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn

from parallel_mcp.simulator.clock import Changes
from parallel_mcp.simulator.config import SimulatorConfig
from parallel_mcp.simulator.simulator import Simulator

STARTS_WITHIN_S = 60.0


@contextmanager
def serving(simulator: Simulator, host: str = "127.0.0.1", port: int = 0) -> Generator[str]:
    """Serve a simulator until the block is left; gives its base URL. Port 0 takes a free one.

    Connections still open at the end are cut.
    """
    with _listener(host, port) as listener:
        server = _Server(_settings(simulator))
        thread = threading.Thread(target=server.run, args=([listener],), name="parallel-simulator", daemon=True)
        thread.start()
        try:
            server.wait_until_started()
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            server.stop()
            thread.join()


def run(config: SimulatorConfig, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve a new simulator until the process is told to stop; an interrupt is raised again afterwards.

    `announce` is called with its base URL once that can be connected to.

    Raises:
        OSError: The address cannot be listened on.
    """
    with _listener(host, port) as listener:
        listener.listen()
        announce(f"http://{host}:{listener.getsockname()[1]}")
        uvicorn.Server(_settings(Simulator(config))).run([listener])


class _Server(uvicorn.Server):
    """Tells another thread when it is ready, and stops when told instead of looking ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ready = threading.Event()
        self._stopping = Changes()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    async def main_loop(self) -> None:
        await self._stopping.wait(seen=0, until=math.inf)
        await self._accept_no_more()

    async def _accept_no_more(self) -> None:
        """Before asyncio's servers are closed, which would lose, unclosed, whoever has just been accepted."""
        loop = asyncio.get_running_loop()
        for listener in itertools.chain.from_iterable(server.sockets for server in self.servers):
            loop.remove_reader(listener.fileno())
        for _ in range(3):  # accepted, attached to its server, told to its protocol
            await asyncio.sleep(0)

    def wait_until_started(self) -> None:
        if not self._ready.wait(STARTS_WITHIN_S):
            raise RuntimeError("the simulator did not start")

    def stop(self) -> None:
        self._stopping.announce()


def _listener(host: str, port: int) -> socket.socket:
    """Open a socket that is known to be TCP: asyncio switches off Nagle's delays only for those."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _settings(simulator: Simulator) -> uvicorn.Config:
    """Keep quiet: a connection dropped on purpose is an exception, and standard output may be a protocol."""
    return uvicorn.Config(
        simulator.app,
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        date_header=False,
        timeout_graceful_shutdown=0,
    )
