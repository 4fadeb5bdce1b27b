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
    invalid_extract,
    invalid_group_request,
    invalid_request,
    invalid_search,
    unprocessable_run,
)
from parallel_mcp.simulator.group_routes import GroupRoutes
from parallel_mcp.simulator.recording import Recorder, RecordingMiddleware
from parallel_mcp.simulator.task_routes import TaskRoutes
from parallel_mcp.simulator.web_routes import WebRoutes

RUN = "/tasks/runs/{run_id}"
GROUP = "/tasks/groups/{taskgroup_id}"


@dataclass(frozen=True)
class Endpoint:
    """A method and path, under each of the versions that have it."""

    versions: Sequence[str]
    method: str
    path: str
    handler: Handler
    when_invalid: InvalidAnswer


def build_app(
    answering: Answering, tasks: TaskRoutes, groups: GroupRoutes, web: WebRoutes, recorder: Recorder
) -> Starlette:
    """Put the endpoints together; there is nothing to start or stop (no lifespan)."""
    v1, beta, both = ["v1"], ["v1beta"], ["v1", "v1beta"]
    endpoints = [
        Endpoint(v1, "POST", "/search", web.search, invalid_search),
        Endpoint(beta, "POST", "/search", web.beta_search, invalid_search),
        Endpoint(v1, "POST", "/extract", web.extract, invalid_extract),
        Endpoint(beta, "POST", "/extract", web.beta_extract, invalid_extract),
        Endpoint(v1, "POST", "/tasks/runs", tasks.create, unprocessable_run),
        Endpoint(v1, "GET", RUN, tasks.retrieve, invalid_request),
        Endpoint(v1, "GET", f"{RUN}/input", tasks.input, invalid_request),
        Endpoint(v1, "GET", f"{RUN}/result", tasks.result, invalid_request),
        Endpoint(both, "GET", f"{RUN}/events", tasks.events, invalid_request),
        Endpoint(both, "POST", "/tasks/groups", groups.create, invalid_group_request),
        Endpoint(both, "GET", GROUP, groups.retrieve, invalid_group_request),
        Endpoint(both, "POST", f"{GROUP}/runs", groups.add_runs, invalid_group_request),
        Endpoint(both, "GET", f"{GROUP}/runs", groups.list_runs, invalid_group_request),
        Endpoint(both, "GET", f"{GROUP}/events", groups.events, invalid_group_request),
        Endpoint(both, "GET", f"{GROUP}/runs/{{run_id}}", groups.retrieve_run, invalid_request),
    ]
    app = Starlette(
        routes=[route for endpoint in endpoints for route in _routes(endpoint, answering)],
        middleware=[Middleware(RecordingMiddleware, recorder=recorder)],
        exception_handlers={HTTPException: _when_unrouted(answering)},
    )
    app.router.redirect_slashes = False
    return app


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
