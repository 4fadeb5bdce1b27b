"""The routes of the API, all in one table (API reference, section 0.1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from parallel_mcp.simulator.answering import Answering, Handler
from parallel_mcp.simulator.errors import (
    InvalidAnswer,
    Refused,
    invalid_enrichment,
    invalid_extension,
    invalid_extract,
    invalid_in_second_shape,
    invalid_monitor_events,
    invalid_request,
    invalid_search,
    unprocessable,
)
from parallel_mcp.simulator.findall_routes import FindAllRoutes
from parallel_mcp.simulator.group_routes import GroupRoutes
from parallel_mcp.simulator.monitor_routes import MonitorRoutes
from parallel_mcp.simulator.recording import Recorder, RecordingMiddleware
from parallel_mcp.simulator.suggest_routes import SuggestRoutes
from parallel_mcp.simulator.task_routes import TaskRoutes
from parallel_mcp.simulator.web_routes import WebRoutes

V1, BETA, BOTH = ["v1"], ["v1beta"], ["v1", "v1beta"]
RUN = "/tasks/runs/{run_id}"
GROUP = "/tasks/groups/{taskgroup_id}"
FINDALL = "/findall/runs/{findall_id}"
MONITOR = "/monitors/{monitor_id}"


@dataclass(frozen=True)
class Endpoint:
    """A method and path, under each of the versions that have it."""

    versions: Sequence[str]
    method: str
    path: str
    handler: Handler
    when_invalid: InvalidAnswer


@dataclass(frozen=True)
class Subjects:
    """The handlers, by what they are about."""

    tasks: TaskRoutes
    groups: GroupRoutes
    web: WebRoutes
    findalls: FindAllRoutes
    monitors: MonitorRoutes
    suggestions: SuggestRoutes


def build_app(answering: Answering, subjects: Subjects, recorder: Recorder) -> Starlette:
    """Put the endpoints together; there is nothing to start or stop (no lifespan)."""
    endpoints = [
        *_task_endpoints(subjects.tasks, subjects.groups, subjects.suggestions),
        *_web_endpoints(subjects.web),
        *_findall_endpoints(subjects.findalls),
        *_monitor_endpoints(subjects.monitors),
    ]
    app = Starlette(
        routes=[route for endpoint in endpoints for route in _routes(endpoint, answering)],
        middleware=[Middleware(RecordingMiddleware, recorder=recorder)],
        exception_handlers={HTTPException: _when_unrouted(answering)},
    )
    app.router.redirect_slashes = False
    return app


def _task_endpoints(tasks: TaskRoutes, groups: GroupRoutes, suggestions: SuggestRoutes) -> Sequence[Endpoint]:
    return [
        Endpoint(V1, "POST", "/tasks/runs", tasks.create, unprocessable),
        Endpoint(V1, "GET", RUN, tasks.retrieve, invalid_request),
        Endpoint(V1, "GET", f"{RUN}/input", tasks.input, invalid_request),
        Endpoint(V1, "GET", f"{RUN}/result", tasks.result, invalid_request),
        Endpoint(BOTH, "GET", f"{RUN}/events", tasks.events, invalid_request),
        Endpoint(BOTH, "POST", "/tasks/groups", groups.create, invalid_in_second_shape),
        Endpoint(BOTH, "GET", GROUP, groups.retrieve, invalid_in_second_shape),
        Endpoint(BOTH, "POST", f"{GROUP}/runs", groups.add_runs, invalid_in_second_shape),
        Endpoint(BOTH, "GET", f"{GROUP}/runs", groups.list_runs, invalid_in_second_shape),
        Endpoint(BOTH, "GET", f"{GROUP}/events", groups.events, invalid_in_second_shape),
        Endpoint(BOTH, "GET", f"{GROUP}/runs/{{run_id}}", groups.retrieve_run, invalid_request),
        Endpoint(BETA, "POST", "/tasks/suggest", suggestions.task, invalid_request),
        Endpoint(BETA, "POST", "/tasks/suggest-processor", suggestions.processor, invalid_request),
    ]


def _web_endpoints(web: WebRoutes) -> Sequence[Endpoint]:
    return [
        Endpoint(V1, "POST", "/search", web.search, invalid_search),
        Endpoint(BETA, "POST", "/search", web.beta_search, invalid_search),
        Endpoint(V1, "POST", "/extract", web.extract, invalid_extract),
        Endpoint(BETA, "POST", "/extract", web.beta_extract, invalid_extract),
    ]


def _findall_endpoints(findalls: FindAllRoutes) -> Sequence[Endpoint]:
    return [
        Endpoint(BETA, "POST", "/findall/ingest", findalls.ingest, invalid_in_second_shape),
        Endpoint(BETA, "POST", "/findall/runs", findalls.create, unprocessable),
        Endpoint(BETA, "GET", FINDALL, findalls.retrieve, invalid_in_second_shape),
        Endpoint(BETA, "GET", f"{FINDALL}/result", findalls.result, invalid_in_second_shape),
        Endpoint(BETA, "GET", f"{FINDALL}/schema", findalls.schema, invalid_in_second_shape),
        Endpoint(BETA, "GET", f"{FINDALL}/events", findalls.events, invalid_in_second_shape),
        Endpoint(BETA, "POST", f"{FINDALL}/cancel", findalls.cancel, invalid_in_second_shape),
        Endpoint(BETA, "POST", f"{FINDALL}/enrich", findalls.enrich, invalid_enrichment),
        Endpoint(BETA, "POST", f"{FINDALL}/extend", findalls.extend, invalid_extension),
        Endpoint(BETA, "POST", "/findall/entity-search", findalls.entity_search, invalid_in_second_shape),
        Endpoint(BETA, "POST", "/findall/candidates", findalls.candidates, invalid_in_second_shape),
    ]


def _monitor_endpoints(monitors: MonitorRoutes) -> Sequence[Endpoint]:
    return [
        Endpoint(V1, "POST", "/monitors", monitors.create, unprocessable),
        Endpoint(V1, "GET", "/monitors", monitors.list, invalid_in_second_shape),
        Endpoint(V1, "GET", MONITOR, monitors.retrieve, invalid_in_second_shape),
        Endpoint(V1, "POST", f"{MONITOR}/update", monitors.update, unprocessable),
        Endpoint(V1, "POST", f"{MONITOR}/cancel", monitors.cancel, unprocessable),
        Endpoint(V1, "POST", f"{MONITOR}/trigger", monitors.trigger, unprocessable),
        Endpoint(V1, "GET", f"{MONITOR}/events", monitors.events, invalid_monitor_events),
    ]


def _routes(endpoint: Endpoint, answering: Answering) -> list[Route]:
    answer = answering.endpoint(endpoint.handler, endpoint.when_invalid)
    return [
        Route(f"/{version}{endpoint.path}", answer, methods=[endpoint.method], include_in_schema=False)
        for version in endpoint.versions
    ]


def _when_unrouted(answering: Answering) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Answer a path or method that does not exist in the shape of every other error (checklist 1 and 16)."""

    async def answer(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        return answering.refusal(Refused(error.status_code, error.detail, error.headers or {}))

    return answer
