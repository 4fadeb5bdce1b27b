"""Calling a simulator the way any HTTP client would."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import httpx
from httpx_sse import EventSource

from parallel_mcp.simulator import Simulator, SimulatorConfig

KEY = {"x-api-key": "key"}
QUESTION = "What obstacles do solid-state batteries face?"
FAST = 10_000.0
STILL = 0.001
"""A speed at which time all but stands still, for what must not go on by itself."""

Object = dict[str, Any]

FINDALL: Object = {
    "objective": "Find robotics companies that build warehouse automation",
    "entity_type": "companies",
    "match_conditions": [{"name": "automation_check", "description": "Companies must build warehouse automation"}],
    "generator": "base",
    "match_limit": 5,
}
MONITOR: Object = {"type": "event_stream", "frequency": "1h", "settings": {"query": "solid-state batteries"}}


class Api:
    """A client of one simulator, in process: a streamed response arrives when it has ended."""

    def __init__(self, http: httpx.AsyncClient, simulator: Simulator) -> None:
        self.http = http
        self.simulator = simulator

    async def create(
        self, input: str | Object = QUESTION, *, processor: str = "lite", sim: str = "", beta: str = "", **members: Any
    ) -> Object:
        """Create a run, with story words in `sim`."""
        metadata = members.pop("metadata", {}) | ({"sim": sim} if sim else {})
        body = {"input": input, "processor": processor, "metadata": metadata} | members
        response = await self.http.post("/v1/tasks/runs", json=body, headers={"parallel-beta": beta})
        assert response.status_code == 202, response.text
        return response.json()

    async def get(self, path: str, **params: Any) -> Object:
        response = await self.http.get(path, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    async def post(self, path: str, **body: Any) -> Object:
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def run(self, run_id: str) -> Object:
        return await self.get(f"/v1/tasks/runs/{run_id}")

    async def events(self, path: str, **params: Any) -> list[Object]:
        response = await self.http.get(path, params=params)
        assert response.status_code == 200, response.text
        return read_events(response)

    async def run_events(self, run_id: str) -> list[Object]:
        return await self.events(f"/v1/tasks/runs/{run_id}/events")

    async def events_during(self, path: str, happens: Callable[[], object]) -> list[Object]:
        """Open a stream, let something happen once it has told what there was before, and follow it to its end."""
        told: list[Object] = []

        async def follow() -> None:
            told.extend(await self.events(path))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            happens()
        return told

    async def output(self, input: str | Object = QUESTION, **members: Any) -> Object:
        """Create a run and return its output."""
        run = await self.create(input, **members)
        result = await self.get(f"/v1/tasks/runs/{run['run_id']}/result")
        return result["output"]

    async def add_runs(self, taskgroup_id: str, *inputs: Object, **members: Any) -> Object:
        return await self.post(f"/v1/tasks/groups/{taskgroup_id}/runs", inputs=inputs, **members)

    async def findall(self, sim: str = "", **members: Any) -> str:
        """Create a FindAll run, with story words in `sim`; returns its path."""
        metadata = {"metadata": {"sim": sim}} if sim else {}
        run = await self.post("/v1beta/findall/runs", **(FINDALL | metadata | members))
        return f"/v1beta/findall/runs/{run['findall_id']}"

    async def monitor(self, sim: str = "", **members: Any) -> str:
        """Create a monitor, with story words in `sim`; returns its path."""
        metadata = {"metadata": {"sim": sim}} if sim else {}
        response = await self.http.post("/v1/monitors", json=MONITOR | metadata | members)
        assert response.status_code == 201, response.text
        return f"/v1/monitors/{response.json()['monitor_id']}"


@asynccontextmanager
async def connected(**settings: Any) -> AsyncGenerator[Api]:
    """Give a client of a new simulator with these settings."""
    simulator = Simulator(replace(SimulatorConfig(speed=FAST), **settings))
    transport = httpx.ASGITransport(simulator.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://simulator", headers=KEY) as http:
        yield Api(http, simulator)


def ever_slower(speed: float) -> list[float]:
    """Speeds to try until a test has come in time for what goes on by the clock: the machine may halt, or be slow."""
    return [speed, speed, speed / 5, speed / 25]


def read_events(response: httpx.Response) -> list[Object]:
    return [json.loads(event.data) for event in EventSource(response).iter_sse() if event.data]


def json_spec(schema: Object) -> Object:
    return {"output_schema": {"type": "json", "json_schema": schema}}


def object_schema(required: Sequence[str] | None = None, /, **properties: Object) -> Object:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }
