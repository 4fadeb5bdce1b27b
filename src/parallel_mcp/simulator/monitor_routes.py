"""`/v1/monitors`: create, list, retrieve, update, cancel, trigger, events (checklist 36)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from parallel_mcp.simulator.account import Quota
from parallel_mcp.simulator.answering import Answering, query_value, query_values
from parallel_mcp.simulator.bodies import read_body
from parallel_mcp.simulator.monitor_bodies import CreateMonitorRequest, MonitorStatus, MonitorType, UpdateMonitorRequest
from parallel_mcp.simulator.monitor_pages import events_page, group_page, monitors_page
from parallel_mcp.simulator.monitors import Monitor, Monitors

USUAL_MONITORS, MOST_MONITORS = 100, 10_000
USUAL_EVENTS, MOST_EVENTS = 20, 100
_BOOL: TypeAdapter[bool] = TypeAdapter(bool)
_TYPE: TypeAdapter[MonitorType] = TypeAdapter(MonitorType)
_STATUS: TypeAdapter[MonitorStatus] = TypeAdapter(MonitorStatus)
_MONITORS_LIMIT: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1, le=MOST_MONITORS)])
_EVENTS_LIMIT: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1, le=MOST_EVENTS)])


@dataclass(frozen=True)
class MonitorRoutes:
    """The endpoints of monitors."""

    answering: Answering
    monitors: Monitors
    creates: Quota

    async def create(self, request: Request) -> Response:
        self.creates.admit()
        body, _ = read_body(await request.body(), CreateMonitorRequest)
        monitor = self.monitors.create(self.answering.caller(request), body.root)
        return self.answering.json(monitor.as_object(), 201)

    async def list(self, request: Request) -> Response:
        """List the caller's monitors, the newest first; without a status the active ones."""
        limit = query_value(request, "limit", _MONITORS_LIMIT, USUAL_MONITORS)
        types = query_values(request, "type", _TYPE)
        statuses = query_values(request, "status", _STATUS) or ["active"]
        wanted = [
            monitor
            for monitor in reversed(self.monitors.kept.of(self.answering.caller(request)))
            if monitor.status in statuses and (not types or monitor.type in types)
        ]
        return self.answering.json(monitors_page(wanted, request.query_params.get("cursor"), limit))

    async def retrieve(self, request: Request) -> Response:
        return self.answering.json(self._monitor(request).as_object())

    async def update(self, request: Request) -> Response:
        monitor = self._monitor(request)
        body, _ = read_body(await request.body(), UpdateMonitorRequest)
        monitor.update(body)
        return self.answering.json(monitor.as_object())

    async def cancel(self, request: Request) -> Response:
        monitor = self._monitor(request)
        monitor.cancel()
        return self.answering.json(monitor.as_object())

    async def trigger(self, request: Request) -> Response:
        self._monitor(request).trigger()
        return Response(status_code=204)

    async def events(self, request: Request) -> Response:
        monitor = self._monitor(request)
        with_completions = query_value(request, "include_completions", _BOOL, False)
        limit = query_value(request, "limit", _EVENTS_LIMIT, USUAL_EVENTS)
        group_id = request.query_params.get("event_group_id")
        if group_id:
            page = group_page(monitor, group_id, with_completions=with_completions)
        else:
            cursor = request.query_params.get("cursor")
            page = events_page(monitor, cursor, limit, with_completions=with_completions)
        return self.answering.json(page)

    def _monitor(self, request: Request) -> Monitor:
        return self.monitors.kept.get(self.answering.caller(request), request.path_params["monitor_id"])
