"""`/v1/tasks/groups` and its legacy alias: create, retrieve, add runs, list runs, events (checklist 27 to 31)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, JsonValue, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from parallel_mcp.simulator.account import Quota
from parallel_mcp.simulator.answering import Answering, query_value
from parallel_mcp.simulator.bodies import AddRunsRequest, CreateGroupRequest, TaskRunInput, read_body
from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.errors import RUN_NOT_FOUND, Refused
from parallel_mcp.simulator.group_stream import group_events, run_list
from parallel_mcp.simulator.groups import Group, Groups
from parallel_mcp.simulator.intake import RunRequest, Runs, read_betas
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.runs import Status
from parallel_mcp.simulator.sse import EVENT_STREAM, encode

_BOOL: TypeAdapter[bool] = TypeAdapter(bool)
_STATUS: TypeAdapter[Status | None] = TypeAdapter(Status)
_SECONDS: TypeAdapter[float | None] = TypeAdapter(Annotated[float, Field(allow_inf_nan=False)])


@dataclass(frozen=True)
class GroupRoutes:
    """The endpoints of groups."""

    answering: Answering
    clock: Clock
    runs: Runs
    groups: Groups
    creates: Quota

    async def create(self, request: Request) -> Response:
        body, _ = read_body(await request.body(), CreateGroupRequest)
        group = self.groups.create(self.answering.caller(request), body.metadata)
        return self.answering.json(group.as_object())

    async def retrieve(self, request: Request) -> Response:
        return self.answering.json(self._group(request).as_object())

    async def add_runs(self, request: Request) -> Response:
        """Create all of the runs or, if one of them is refused, none.

        The cursors are those of the last entries before these runs, null for the first ones (checklist 28).
        """
        group = self._group(request)
        refresh = query_value(request, "refresh_status", _BOOL, True)
        self.creates.admit()
        body, submitted = read_body(await request.body(), AddRunsRequest)
        betas = read_betas(request.headers.get("parallel-beta"))

        group.settle()
        run_cursor, event_cursor = group.last_run_id, group.last_event_id
        runs = self.runs.create_all(group.owner, _run_requests(body, submitted), betas, group.taskgroup_id)
        group.add(runs)
        answer: JsonObject = {
            "status": group.status(refresh=refresh),
            "run_ids": [run.run_id for run in runs],
            "run_cursor": run_cursor,
            "event_cursor": event_cursor,
        }
        return self.answering.json(answer)

    async def list_runs(self, request: Request) -> Response:
        group = self._group(request)
        listed = group.runs_after(request.query_params.get("last_event_id"))
        events = run_list(
            listed,
            self.clock,
            status=query_value(request, "status", _STATUS, None),
            with_input=query_value(request, "include_input", _BOOL, False),
            with_output=query_value(request, "include_output", _BOOL, False),
        )
        return self._stream(events)

    async def events(self, request: Request) -> Response:
        group = self._group(request)
        timeout_s = query_value(request, "timeout", _SECONDS, None)
        cursor = request.query_params.get("last_event_id") or None
        group.settle()
        log = group.log_after(cursor)
        return self._stream(group_events(group, self.clock, cursor, log, timeout_s))

    async def retrieve_run(self, request: Request) -> Response:
        """An unknown group is answered like an unknown run: the route documents no other 404."""
        run = self.runs.get(self.answering.caller(request), request.path_params["run_id"])
        if run.taskgroup_id != request.path_params["taskgroup_id"]:
            raise Refused(404, RUN_NOT_FOUND)
        return self.answering.json(run.as_object(self.clock.now()))

    def _group(self, request: Request) -> Group:
        return self.groups.get(self.answering.caller(request), request.path_params["taskgroup_id"])

    def _stream(self, events: AsyncGenerator[JsonObject]) -> Response:
        blocks = (encode(self.answering.styled(event)) async for event in events)
        return StreamingResponse(blocks, media_type=EVENT_STREAM)


def _run_requests(body: AddRunsRequest, submitted: dict[str, JsonValue]) -> list[RunRequest]:
    """Give each run the default spec of the request, unless it brings its own (checklist 28)."""
    inputs = submitted["inputs"]
    as_submitted = [item for item in inputs if isinstance(item, dict)] if isinstance(inputs, list) else []
    pairs = zip(body.inputs, as_submitted, strict=True)
    return [
        _with_default_spec(RunRequest(run, raw, ("inputs", place)), body, submitted)
        for place, (run, raw) in enumerate(pairs)
    ]


def _with_default_spec(request: RunRequest, body: AddRunsRequest, submitted: dict[str, JsonValue]) -> RunRequest:
    if body.default_task_spec is None or request.body.task_spec is not None:
        return request
    run: TaskRunInput = request.body.model_copy(update={"task_spec": body.default_task_spec})
    return RunRequest(run, request.submitted | {"task_spec": submitted["default_task_spec"]}, request.loc)
