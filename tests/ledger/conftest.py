"""Every ledger under the same tests, with clocks that a test moves, and a real Redis server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from parallel_mcp.ledger import Ledger
from parallel_mcp.ledger.clock import Reading
from parallel_mcp.ledger.redis import RedisLedger
from parallel_mcp.ledger.sqlite import IN_MEMORY, SqliteLedger

STARTED_WITHIN_S = 60.0  # on a busy machine
ANSWERS_WITHIN_S = 20.0
_TIMEOUTS = ("socket_connect_timeout", "socket_timeout")


@dataclass
class FakeClock:
    """The clocks of a machine, which stand still until a test moves them."""

    boot: str = "first boot"
    uptime_s: float = 5_000.0
    wall_s: float = 1_800_000_000.0

    def __call__(self) -> Reading:
        return Reading(self.boot, self.uptime_s, self.wall_s)

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.uptime_s += seconds
        self.wall_s += seconds

    def set_wall(self, by_s: float) -> None:
        """Somebody sets the clock on the wall; no time passes."""
        self.wall_s += by_s

    def reboot(self, takes_s: float) -> None:
        """The machine is started again: uptime begins anew, and the wall clock alone knows how long it was off."""
        self.boot += ", next boot"
        self.uptime_s = 12.0
        self.wall_s += takes_s


@dataclass
class RedisServer:
    """A `redis-server` process of our own on the loopback, which writes every command to its append-only file."""

    folder: Path
    port: int
    password: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Its address, with more patience than the ledger has by itself: the tests may be kept waiting as well."""
        login = f":{self.password}@" if self.password else ""
        patience = "&".join(f"{name}={ANSWERS_WITHIN_S}" for name in _TIMEOUTS)
        return f"redis://{login}127.0.0.1:{self.port}/0?{patience}"

    def start(self) -> None:
        """Start it over the same folder, and return when it answers."""
        options = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self.folder),
            "--save": "",
            "--appendonly": "yes",
            "--appendfsync": "no",  # what a killed process has written is kept without waiting for the disk
            "--maxmemory-policy": "noeviction",
            "--logfile": str(self.folder / "redis.log"),
        } | ({"--requirepass": self.password} if self.password else {})
        command = ["redis-server", *(word for option in options.items() for word in option)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._wait_until_it_answers(self._process)

    def kill(self) -> None:
        """End it as a crash would, without a chance to write anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def command(self, *words: str) -> Any:
        """The answer to one command of the tests' own."""
        client = Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password or None,
            socket_timeout=ANSWERS_WITHIN_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=True,
        )
        try:
            return cast("Any", client.execute_command(*words))  # pyright: ignore[reportUnknownMemberType]
        finally:
            client.close()

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + STARTED_WITHIN_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"redis-server does not start: {self.folder / 'redis.log'}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            self.command("PING")
        except RedisError:
            return False
        return True


@contextmanager
def redis_running(folder: Path, password: str = "") -> Generator[RedisServer]:
    """A Redis server for the length of the block; skips the test where there is no binary of it."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with _port_of_its_own() as port:
        server = RedisServer(folder, port, password)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def _port_of_its_own() -> Generator[int]:
    """A port that the server can listen on, and that nobody else is given, while the server is away either.

    Linux lets two sockets have it as long as one alone listens; elsewhere it can only be let go of before.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = int(held.getsockname()[1])
        if sys.platform != "linux":
            held.close()
        yield port


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    """One server for all tests that do not stop it."""
    with redis_running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A Redis server that holds nothing."""
    shared_redis.command("FLUSHALL")
    return shared_redis


@pytest.fixture
def clock() -> FakeClock:
    """The clocks of this machine."""
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def open_ledger(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> Callable[[], Ledger]:
    """Opens a ledger of each kind; what is not in memory is the same one each time."""
    match request.param:
        case "redis":
            server: RedisServer = request.getfixturevalue("redis_server")
            return lambda: RedisLedger(server.url, clock)
        case "sqlite":
            return lambda: SqliteLedger(str(tmp_path / "ledger.sqlite3"), clock)
        case _:
            return lambda: SqliteLedger(IN_MEMORY, clock)


@pytest.fixture
async def ledger(open_ledger: Callable[[], Ledger]) -> AsyncGenerator[Ledger]:
    """A ledger of each kind, empty."""
    ledger = open_ledger()
    yield ledger
    await ledger.aclose()
