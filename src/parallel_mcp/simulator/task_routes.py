"""`/v1/tasks/runs`: create, retrieve, input, result, events (checklist 7 to 26)."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from parallel_mcp.simulator.account import Quota
from parallel_mcp.simulator.answering import Answering, gateway_page, query_value, while_connected
from parallel_mcp.simulator.bodies import TaskRunInput, read_body
from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.errors import NO_RESULT, STILL_ACTIVE, Refused
from parallel_mcp.simulator.intake import ELEMENT_BASIS_BETA, RunRequest, Runs, read_betas
from parallel_mcp.simulator.run_stream import run_events
from parallel_mcp.simulator.runs import Run
from parallel_mcp.simulator.sse import EVENT_STREAM, written

RESULT_TIMEOUT_S = 600
_SECONDS: TypeAdapter[int] = TypeAdapter(int)


@dataclass(frozen=True)
class TaskRoutes:
    """The endpoints of single runs."""

    answering: Answering
    clock: Clock
    runs: Runs
    creates: Quota

    async def create(self, request: Request) -> Response:
        self.creates.admit()
        body, submitted = read_body(await request.body(), TaskRunInput)
        betas = read_betas(request.headers.get("parallel-beta"))
        run = self.runs.create(self.answering.caller(request), RunRequest(body, submitted), betas)
        return self.answering.json(run.as_object(run.created_at), 202)

    async def retrieve(self, request: Request) -> Response:
        run = self._run(request)
        return self.answering.json(run.as_object(self.clock.now()))

    async def input(self, request: Request) -> Response:
        return JSONResponse(self._run(request).input_object())

    async def result(self, request: Request) -> Response:
        """Hold the request until the run has ended, at most `timeout` real seconds (checklist 13).

        What an inactive run that is neither completed nor failed answers is not documented; here it is 404 as well.
        """
        timeout_s = query_value(request, "timeout", _SECONDS, RESULT_TIMEOUT_S)
        run = self.runs.get_for_result(self.answering.caller(request), request.path_params["run_id"])
        await self._wait_for_end(run, timeout_s, request)

        now = self.clock.now()
        if run.is_active_at(now):
            raise Refused(408, STILL_ACTIVE)
        if run.status_at(now) != "completed":
            raise Refused(404, NO_RESULT)
        asked_now = ELEMENT_BASIS_BETA in read_betas(request.headers.get("parallel-beta"))
        output = run.output.shown(elements=asked_now or run.wants_element_basis)
        return self.answering.json({"run": run.as_object(now), "output": output})

    async def events(self, request: Request) -> Response:
        run = self._run(request)
        run.connections += 1
        breaks = run.story.breaks(run.connections)
        if breaks and run.story.stream_status is not None:
            return gateway_page(run.story.stream_status)
        items = run_events(run, self.clock, breaks=breaks, elements=run.wants_element_basis)
        blocks = written(items, run.story, breaks=breaks, style=self.answering.styled)
        return StreamingResponse(blocks, media_type=EVENT_STREAM)

    def _run(self, request: Request) -> Run:
        return self.runs.get(self.answering.caller(request), request.path_params["run_id"])

    async def _wait_for_end(self, run: Run, timeout_s: int, request: Request) -> None:
        gives_up_at = self.clock.now() + max(0, min(timeout_s, 10**9))

        async def wait() -> None:
            while run.is_active_at(now := self.clock.now()) and now < gives_up_at:
                seen = run.changes.version
                if run.is_active_at(self.clock.now()):
                    await run.changes.wait(seen, min(run.schedule.ended_at, gives_up_at))

        await while_connected(request, wait)
