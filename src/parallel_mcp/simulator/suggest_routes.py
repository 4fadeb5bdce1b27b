"""`/v1beta/tasks/suggest` and `/suggest-processor`: from words to a task (API reference, section 14)."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from parallel_mcp.simulator.answering import Answering
from parallel_mcp.simulator.bodies import read_body
from parallel_mcp.simulator.suggestions import (
    SuggestProcessorRequest,
    SuggestRequest,
    recommended_processors,
    suggested_task,
)


@dataclass(frozen=True)
class SuggestRoutes:
    """The endpoints that suggest tasks. The OpenAPI document does not have them; the guides do."""

    answering: Answering

    async def task(self, request: Request) -> Response:
        body, _ = read_body(await request.body(), SuggestRequest)
        return self.answering.json(suggested_task(body.user_intent, body.previous_task))

    async def processor(self, request: Request) -> Response:
        body, _ = read_body(await request.body(), SuggestProcessorRequest)
        recommended = recommended_processors(body.task_spec, body.choose_processors_from)
        return self.answering.json({"recommended_processors": recommended})
