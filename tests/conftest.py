import os
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass

import httpx
import pytest
from hypothesis import HealthCheck, settings
from mcp import Client

from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from tests.connecting import KEY, connected

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@dataclass(frozen=True)
class Upstream:
    """A simulator of the Parallel API and where it is served."""

    simulator: Simulator
    url: str

    def sent(self, method: str, path: str) -> list[bytes]:
        """The bodies of the requests of one kind that arrived, in order."""
        return [request.body for request in self.simulator.requests if (request.method, request.path) == (method, path)]

    def run_now(self, run_id: str) -> bytes:
        """What it says of a run."""
        return httpx.get(f"{self.url}/v1/tasks/runs/{run_id}", headers={"x-api-key": KEY}, timeout=60).content


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a key nor an address in the developer's environment, nor their ledger, must reach a test."""
    for name in list(os.environ):
        if name.startswith("PARALLEL_") and name != "PARALLEL_OPENAPI":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PARALLEL_MCP_LEDGER", "memory")


@pytest.fixture
def upstream() -> Generator[Upstream]:
    """The Parallel API, simulated: a minute passes in a second."""
    simulator = Simulator(SimulatorConfig(speed=60))
    with serving(simulator) as url:
        yield Upstream(simulator, url)


@pytest.fixture
async def client(upstream: Upstream) -> AsyncGenerator[Client]:
    """A client of a server in this process."""
    async with connected("memory", upstream.url) as client:
        yield client
