"""Monitors, one method an endpoint."""

from urllib.parse import quote

from parallel_mcp.api.connections import Request
from parallel_mcp.api.endpoints import Endpoints
from parallel_mcp.api.monitor_models import Monitor, MonitorEvents, MonitorInput, MonitorPage

MAX_PAGE_BYTES = 32 << 20
_MONITORS = "/v1/monitors"


class MonitorApi(Endpoints):
    """All methods raise `UpstreamError`; `create` also `OutcomeUnknown`. Ids are checked by the caller."""

    async def create(self, monitor: MonitorInput) -> Monitor:
        """Start a monitor: it executes at once and then as often as told, each time billed, until it is cancelled.

        Raises:
            OutcomeUnknown: It was sent, and nobody can say whether it was carried out; `list` shows it if it was.

        Source: POST /v1/monitors
        """
        return await self._create(_MONITORS, monitor.body(), Monitor)

    async def list(self, *, statuses: tuple[str, ...] = (), limit: int = 100, cursor: str = "") -> MonitorPage:
        """A page of the caller's monitors; those that are active, unless other `statuses` are named.

        Source: GET /v1/monitors
        """
        query: dict[str, str | list[str]] = {"limit": str(limit)}
        if statuses:
            query["status"] = [*statuses]
        if cursor:
            query["cursor"] = cursor
        request = Request("GET", _MONITORS, self._timeouts.read_s, max_bytes=MAX_PAGE_BYTES, query=query)
        return await self._read(request, MonitorPage)

    async def retrieve(self, monitor_id: str) -> Monitor:
        """The state of a monitor.

        Source: GET /v1/monitors/{monitor_id}
        """
        request = Request("GET", _path(monitor_id), self._timeouts.read_s, max_bytes=MAX_PAGE_BYTES)
        return await self._read(request, Monitor)

    async def events(
        self, monitor_id: str, *, limit: int = 20, cursor: str = "", include_completions: bool = False
    ) -> MonitorEvents:
        """A page of what was detected in about the last 300 executions, the newest first.

        Source: GET /v1/monitors/{monitor_id}/events
        """
        query: dict[str, str | list[str]] = {"limit": str(limit)}
        if cursor:
            query["cursor"] = cursor
        if include_completions:
            query["include_completions"] = "true"
        path = f"{_path(monitor_id)}/events"
        request = Request("GET", path, self._timeouts.result_s, max_bytes=MAX_PAGE_BYTES, query=query)
        return await self._read(request, MonitorEvents)

    async def cancel(self, monitor_id: str) -> Monitor:
        """Stop a monitor for good; its events stay.

        Source: POST /v1/monitors/{monitor_id}/cancel
        """
        request = Request("POST", f"{_path(monitor_id)}/cancel", self._timeouts.read_s, max_bytes=MAX_PAGE_BYTES)
        return await self._read(request, Monitor)


def _path(monitor_id: str) -> str:
    return f"{_MONITORS}/{quote(monitor_id, safe='')}"
