"""FindAll (beta), one method an endpoint. Without its header the API answers with an older FindAll."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from parallel_mcp.api.connections import Request
from parallel_mcp.api.endpoints import Endpoints
from parallel_mcp.api.findall_models import (
    EnrichInput,
    FindAllEvent,
    FindAllInput,
    FindAllResult,
    FindAllRun,
    FindAllSchema,
    findall_event_model,
)

FINDALL_BETA = "findall-2025-09-15"
KEPT_CANDIDATE_BYTES = 1 << 20  # it comes with all of its evidence
MAX_FINDALL_BYTES = 64 << 20  # a thousand matches with their evidence, and all candidates that do not match
_RUNS = "/v1beta/findall/runs"


class FindAllApi(Endpoints):
    """All methods raise `UpstreamError`; those that buy also `OutcomeUnknown`. Ids are checked by the caller."""

    async def ingest(self, objective: str) -> FindAllSchema:
        """What to search for, made of an objective in words. Starts nothing.

        Source: POST /v1beta/findall/ingest
        """
        return await self._read(
            Request(
                "POST",
                "/v1beta/findall/ingest",
                self._timeouts.search_s,
                json={"objective": objective},
                betas=(FINDALL_BETA,),
            ),
            FindAllSchema,
        )

    async def create(self, findall: FindAllInput) -> FindAllRun:
        """Start a FindAll run, which is billed. Sent again only as the create of a run is.

        Raises:
            OutcomeUnknown: It was sent, and nobody can say whether it was carried out.

        Source: POST /v1beta/findall/runs
        """
        return await self._create(_RUNS, findall.body(), FindAllRun, betas=(FINDALL_BETA,))

    async def retrieve(self, findall_id: str) -> FindAllRun:
        """The state of a run.

        Source: GET /v1beta/findall/runs/{findall_id}
        """
        return await self._read(self._get(findall_id), FindAllRun)

    async def result(self, findall_id: str) -> FindAllResult:
        """All candidates as they stand now; does not wait.

        Source: GET /v1beta/findall/runs/{findall_id}/result
        """
        request = self._get(findall_id, "/result", timeout_s=self._timeouts.result_s, max_bytes=MAX_FINDALL_BYTES)
        return await self._read(request, FindAllResult)

    async def schema(self, findall_id: str) -> FindAllSchema:
        """What a run searches for, up to how many matches, and how they are enriched.

        Source: GET /v1beta/findall/runs/{findall_id}/schema
        """
        return await self._read(self._get(findall_id, "/schema"), FindAllSchema)

    @asynccontextmanager
    async def events(self, findall_id: str, *, last_event_id: str = "") -> AsyncGenerator[AsyncGenerator[FindAllEvent]]:
        """What happens in a run while it is active, and its state every ten seconds.

        Resumable: pass the last `event_id` seen. A candidate over 1 MiB is left out.

        Source: GET /v1beta/findall/runs/{findall_id}/events
        """
        request = Request(
            "GET",
            f"{_path(findall_id)}/events",
            self._timeouts.read_s,
            fresh=True,
            query={"last_event_id": last_event_id} if last_event_id else None,
            betas=(FINDALL_BETA,),
        )
        async with self._events(request, findall_event_model, KEPT_CANDIDATE_BYTES) as events:
            yield events

    async def cancel(self, findall_id: str) -> None:
        """Stop the search; what was found is kept, and the run cannot be extended or enriched any more.

        Raises:
            RequestRejected: It has ended already (409), or is a preview.

        Source: POST /v1beta/findall/runs/{findall_id}/cancel (204, or 200 with an empty object)
        """
        path = f"{_path(findall_id)}/cancel"
        await self._answered(Request("POST", path, self._timeouts.read_s, betas=(FINDALL_BETA,)))

    async def extend(self, findall_id: str, additional_match_limit: int) -> FindAllSchema:
        """Search for so many further matches, each billed. Sent again only as `create` is.

        Source: POST /v1beta/findall/runs/{findall_id}/extend
        """
        body = {"additional_match_limit": additional_match_limit}
        return await self._create(f"{_path(findall_id)}/extend", body, FindAllSchema, betas=(FINDALL_BETA,))

    async def enrich(self, findall_id: str, enrichment: EnrichInput) -> FindAllSchema:
        """Answer further questions about every match, present and future, each billed. Sent again only as `create` is.

        Source: POST /v1beta/findall/runs/{findall_id}/enrich
        """
        body: dict[str, Any] = {
            "processor": enrichment.processor,
            "output_schema": {"type": "json", "json_schema": enrichment.output_schema},
        }
        return await self._create(f"{_path(findall_id)}/enrich", body, FindAllSchema, betas=(FINDALL_BETA,))

    def _get(
        self, findall_id: str, part: str = "", *, timeout_s: float | None = None, max_bytes: int = 1 << 20
    ) -> Request:
        return Request(
            "GET",
            f"{_path(findall_id)}{part}",
            timeout_s or self._timeouts.read_s,
            max_bytes=max_bytes,
            betas=(FINDALL_BETA,),
        )


def _path(findall_id: str) -> str:
    return f"{_RUNS}/{quote(findall_id, safe='')}"
