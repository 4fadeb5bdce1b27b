"""`/v1beta/findall`: ingest, runs and what may be done to them, and the search for entities (checklist 36)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from parallel_mcp.simulator.account import Quota
from parallel_mcp.simulator.answering import Answering, gateway_page, query_value
from parallel_mcp.simulator.bodies import read_body
from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.errors import invalid
from parallel_mcp.simulator.findall import FindAll
from parallel_mcp.simulator.findall_bodies import (
    CandidatesRequest,
    EnrichRequest,
    EntitySearchRequest,
    ExtendRequest,
    FindAllRequest,
    IngestRequest,
)
from parallel_mcp.simulator.findall_ingest import ingested
from parallel_mcp.simulator.findall_intake import FindAlls
from parallel_mcp.simulator.findall_stream import findall_events
from parallel_mcp.simulator.identities import Identities
from parallel_mcp.simulator.intake import read_betas
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.sse import EVENT_STREAM, written

FINDALL_BETA = "findall-2025-09-15"
_SECONDS: TypeAdapter[float | None] = TypeAdapter(Annotated[float, Field(allow_inf_nan=False)])


@dataclass(frozen=True)
class FindAllRoutes:
    """The endpoints of FindAll."""

    answering: Answering
    clock: Clock
    identities: Identities
    findalls: FindAlls
    creates: Quota
    searches: Quota

    async def ingest(self, request: Request) -> Response:
        self._require_beta(request)
        body, _ = read_body(await request.body(), IngestRequest)
        return self.answering.json(ingested(body.objective))

    async def create(self, request: Request) -> Response:
        self._require_beta(request)
        self.creates.admit()
        body, _ = read_body(await request.body(), FindAllRequest)
        findall = self.findalls.create(self.answering.caller(request), body)
        return self.answering.json(findall.created_object())

    async def retrieve(self, request: Request) -> Response:
        return self.answering.json(self._findall(request).as_object())

    async def result(self, request: Request) -> Response:
        """Answer at once with what there is: this endpoint does not wait."""
        return self.answering.json(self._findall(request).result_object())

    async def schema(self, request: Request) -> Response:
        return self.answering.json(self._findall(request).schema_object())

    async def events(self, request: Request) -> Response:
        findall = self._findall(request)
        timeout_s = query_value(request, "timeout", _SECONDS, None)
        findall.settle()
        seen = findall.entries_seen(request.query_params.get("last_event_id"))
        findall.connections += 1
        breaks = findall.story.breaks(findall.connections)
        if breaks and findall.story.stream_status is not None:
            return gateway_page(findall.story.stream_status)
        items = findall_events(findall, self.clock, seen, timeout_s, breaks=breaks)
        blocks = written(items, findall.story, breaks=breaks, style=self.answering.styled)
        return StreamingResponse(blocks, media_type=EVENT_STREAM)

    async def cancel(self, request: Request) -> Response:
        """204 as newer documents say; the OpenAPI document of May 2026 has 200 with an empty object."""
        self.findalls.cancel(self._findall(request))
        return Response(status_code=204)

    async def enrich(self, request: Request) -> Response:
        findall = self._findall(request)
        body, _ = read_body(await request.body(), EnrichRequest)
        self.findalls.enrich(findall, body)
        return self.answering.json(findall.schema_object())

    async def extend(self, request: Request) -> Response:
        findall = self._findall(request)
        body, _ = read_body(await request.body(), ExtendRequest)
        self.findalls.extend(findall, body)
        return self.answering.json(findall.schema_object())

    async def entity_search(self, request: Request) -> Response:
        self.searches.admit()
        body, _ = read_body(await request.body(), EntitySearchRequest)
        entities = self._entities(body.entity_type, body.objective, body.match_limit)
        return self.answering.json({"entity_set_id": self.identities.new("entity_set_"), "entities": entities})

    async def candidates(self, request: Request) -> Response:
        """Answer under the name the search for entities had until the summer of 2026."""
        self.searches.admit()
        body, _ = read_body(await request.body(), CandidatesRequest)
        entities = self._entities(body.entity_type, body.objective, body.match_limit)
        return self.answering.json({"candidate_set_id": self.identities.new("candidate_set_"), "candidates": entities})

    def _entities(self, entity_type: str, objective: str, most: int) -> list[JsonObject]:
        entities = self.findalls.entities(entity_type, objective)
        found = (entities[place] for place in range(most))
        return [{"name": entity.name, "url": entity.url, "description": entity.description} for entity in found]

    def _findall(self, request: Request) -> FindAll:
        self._require_beta(request)
        return self.findalls.kept.get(self.answering.caller(request), request.path_params["findall_id"])

    def _require_beta(self, request: Request) -> None:
        """Without the header the API answers with an earlier FindAll; strict rules refuse that."""
        betas = read_betas(request.headers.get("parallel-beta"))
        if self.answering.config.strict_beta and FINDALL_BETA not in betas:
            raise invalid(f"FindAll needs the header parallel-beta: {FINDALL_BETA}", "header", "parallel-beta")
