"""The Parallel API, one method an endpoint, for one caller's key."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import SecretStr

from parallel_mcp.api.connections import Request
from parallel_mcp.api.endpoints import Endpoints, parsed_as
from parallel_mcp.api.event_stream import KEPT_EVENT_BYTES, MAX_EVENT_BYTES
from parallel_mcp.api.failures import still_active
from parallel_mcp.api.models import (
    AddedRuns,
    Event,
    ExtractRequest,
    ExtractResponse,
    SearchRequest,
    SearchResponse,
    SubmittedInput,
    SuggestedTask,
    TaskGroup,
    TaskRun,
    TaskRunInput,
    TaskRunResult,
    TaskSpec,
    event_model,
)
from parallel_mcp.api.retry import retry_read, with_retries
from parallel_mcp.errors import UpstreamUnavailable

if TYPE_CHECKING:
    from parallel_mcp.api.findall import FindAllApi
    from parallel_mcp.api.monitors import MonitorApi

MAX_RESULT_BYTES = 32 << 20

EVENTS_BETA = "events-sse-2025-07-24"
FIELD_BASIS_BETA = "field-basis-2025-11-25"


class ParallelApi(Endpoints):
    """All methods raise `UpstreamError`; creates also `OutcomeUnknown`. Ids are checked by the caller."""

    @property
    def findall(self) -> FindAllApi:
        """FindAll, for the same caller."""
        from parallel_mcp.api.findall import FindAllApi  # with the first of its requests: most callers make none

        return FindAllApi(self._connections, SecretStr(self._key))

    @property
    def monitors(self) -> MonitorApi:
        """Monitors, for the same caller."""
        from parallel_mcp.api.monitors import MonitorApi

        return MonitorApi(self._connections, SecretStr(self._key))

    # ---- search and extract

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Search the web. $0.005 a call with up to 10 results.

        Source: POST /v1/search
        """
        sent = Request("POST", "/v1/search", self._timeouts.search_s, json=request.body())
        return await self._read(sent, SearchResponse)

    async def extract(self, request: ExtractRequest) -> ExtractResponse:
        """Content of up to 20 pages, $0.001 each; failures of single pages are data.

        Source: POST /v1/extract
        """
        sent = Request("POST", "/v1/extract", self._timeouts.extract_s, max_bytes=MAX_RESULT_BYTES, json=request.body())
        return await self._read(sent, ExtractResponse)

    # ---- runs

    async def create_run(self, run: TaskRunInput) -> TaskRun:
        """Start a run, which is billed. Sent again only if it surely did not arrive or was refused with 429.

        Raises:
            OutcomeUnknown: It was sent, and nobody can say whether it was carried out.

        Source: POST /v1/tasks/runs
        """
        return await self._create("/v1/tasks/runs", run.body(), TaskRun, betas=_create_betas(run))

    async def retrieve_run(self, run_id: str) -> TaskRun:
        """The state of a run.

        Source: GET /v1/tasks/runs/{run_id}
        """
        return await self._read(Request("GET", _run_path(run_id), self._timeouts.read_s), TaskRun)

    async def run_input(self, run_id: str) -> SubmittedInput:
        """What was submitted.

        Source: GET /v1/tasks/runs/{run_id}/input
        """
        return await self._read(Request("GET", f"{_run_path(run_id)}/input", self._timeouts.read_s), SubmittedInput)

    async def run_result(self, run_id: str, *, timeout_s: int = 1) -> TaskRunResult:
        """The result of a run, waiting up to `timeout_s` upstream for it.

        Raises:
            RunStillActive: It has not ended in that time.
            NotFound: The run failed, or there is none; `retrieve_run` tells which.

        Source: GET /v1/tasks/runs/{run_id}/result
        """
        request = Request(
            "GET",
            f"{_run_path(run_id)}/result",
            timeout_s + self._timeouts.result_s,
            max_bytes=MAX_RESULT_BYTES,
            query={"timeout": str(timeout_s)},
            betas=(FIELD_BASIS_BETA,),
        )

        async def send() -> bytes:
            try:
                return await self._connections.fetch(request, self._key)
            except UpstreamUnavailable as error:
                if error.status == 408:
                    raise still_active(error) from None
                raise

        body = await with_retries(send, may_retry=retry_read)
        return parsed_as(TaskRunResult, body)

    @asynccontextmanager
    async def run_events(self, run_id: str) -> AsyncGenerator[AsyncGenerator[Event]]:
        """Open the event stream of a run; leaving the block closes it.

        Not resumable: each connection starts with the present state and replays all messages. Ends after 570 s at
        the latest, whether or not the run has ended. An output over 256 KiB is left out of the last state.

        Source: GET /v1/tasks/runs/{run_id}/events
        """
        request = Request("GET", f"{_run_path(run_id)}/events", self._timeouts.read_s, fresh=True)
        async with self._events(request, event_model) as events:
            yield events

    # ---- suggestions

    async def suggest_task(self, user_intent: str) -> SuggestedTask:
        """Schemas and a title for a task that is described in words. Starts nothing.

        Source: POST /v1beta/tasks/suggest
        """
        body = {"user_intent": user_intent}
        sent = Request("POST", "/v1beta/tasks/suggest", self._timeouts.extract_s, json=body)
        return await self._read(sent, SuggestedTask)

    # ---- groups

    async def create_group(self, metadata: dict[str, str] | None = None) -> TaskGroup:
        """Make an empty group. Free, so it is repeated like a read.

        Source: POST /v1/tasks/groups
        """
        body = {"metadata": metadata} if metadata else {}
        return await self._read(Request("POST", "/v1/tasks/groups", self._timeouts.read_s, json=body), TaskGroup)

    async def retrieve_group(self, group_id: str) -> TaskGroup:
        """The counts of a group.

        Source: GET /v1/tasks/groups/{taskgroup_id}
        """
        return await self._read(Request("GET", _group_path(group_id), self._timeouts.read_s), TaskGroup)

    async def add_runs(
        self,
        group_id: str,
        inputs: list[TaskRunInput],
        *,
        default_task_spec: TaskSpec | None = None,
        refresh_status: bool = True,
    ) -> AddedRuns:
        """Start up to 1,000 runs in a group, each billed. Sent again only as `create_run` is.

        Raises:
            OutcomeUnknown: They were sent, and nobody can say whether they were created.

        Source: POST /v1/tasks/groups/{taskgroup_id}/runs
        """
        body: dict[str, Any] = {"inputs": [run.body() for run in inputs]}
        if default_task_spec is not None:
            body["default_task_spec"] = default_task_spec.body()
        return await self._create(
            f"{_group_path(group_id)}/runs",
            body,
            AddedRuns,
            query={"refresh_status": "true" if refresh_status else "false"},
            betas=tuple(dict.fromkeys(beta for run in inputs for beta in _create_betas(run))),
        )

    async def group_run(self, group_id: str, run_id: str) -> TaskRun:
        """The state of one run of a group.

        Source: GET /v1/tasks/groups/{taskgroup_id}/runs/{run_id}
        """
        path = f"{_group_path(group_id)}/runs/{quote(run_id, safe='')}"
        return await self._read(Request("GET", path, self._timeouts.read_s), TaskRun)

    @asynccontextmanager
    async def group_runs(
        self,
        group_id: str,
        *,
        last_event_id: str = "",
        status: str = "",
        include_input: bool = False,
        include_output: bool = False,
    ) -> AsyncGenerator[AsyncGenerator[Event]]:
        """All runs of a group as they stand now, in the order in which they were added; ends by itself.

        Resumable: pass the last `event_id` seen. Only with inputs or outputs are events over 256 KiB kept whole.

        Source: GET /v1/tasks/groups/{taskgroup_id}/runs
        """
        query = {
            "last_event_id": last_event_id,
            "status": status,
            "include_input": "true" if include_input else "",
            "include_output": "true" if include_output else "",
        }
        kept_bytes = MAX_EVENT_BYTES if include_input or include_output else KEPT_EVENT_BYTES
        async with self._group_stream(f"{_group_path(group_id)}/runs", query, kept_bytes) as events:
            yield events

    @asynccontextmanager
    async def group_events(
        self, group_id: str, *, last_event_id: str = "", timeout_s: float | None = None
    ) -> AsyncGenerator[AsyncGenerator[Event]]:
        """Counts and ended runs of a group as they change, for up to an hour while it is active.

        Resumable: pass the last `event_id` seen; its ids are not those of `group_runs`.

        Source: GET /v1/tasks/groups/{taskgroup_id}/events
        """
        query = {"last_event_id": last_event_id, "timeout": f"{timeout_s:g}" if timeout_s is not None else ""}
        async with self._group_stream(f"{_group_path(group_id)}/events", query) as events:
            yield events

    @asynccontextmanager
    async def _group_stream(
        self, path: str, query: dict[str, str], kept_bytes: int = KEPT_EVENT_BYTES
    ) -> AsyncGenerator[AsyncGenerator[Event]]:
        given = {name: value for name, value in query.items() if value}
        request = Request("GET", path, self._timeouts.read_s, fresh=True, query=given)
        async with self._events(request, event_model, kept_bytes) as events:
            yield events


def _create_betas(run: TaskRunInput) -> tuple[str, ...]:
    """Beta headers that older API nodes may still ask for; harmless elsewhere (API reference, beta header)."""
    return (FIELD_BASIS_BETA, EVENTS_BETA) if run.enable_events else (FIELD_BASIS_BETA,)


def _run_path(run_id: str) -> str:
    return f"/v1/tasks/runs/{quote(run_id, safe='')}"


def _group_path(group_id: str) -> str:
    return f"/v1/tasks/groups/{quote(group_id, safe='')}"
