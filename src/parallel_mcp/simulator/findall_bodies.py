"""Request bodies of FindAll (API reference, section 16)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from parallel_mcp.simulator.bodies import JsonForm, Lenient, McpServer
from parallel_mcp.simulator.generators import GENERATORS, LEAST_MATCHES, MOST_MATCHES, GeneratorName

MOST_EXCLUDED = 10_000
MatchLimit = Annotated[int, Field(ge=LEAST_MATCHES, le=MOST_MATCHES)]


class IngestRequest(Lenient):
    objective: Annotated[str, Field(pattern=r"\S")]


class MatchCondition(Lenient):
    name: str
    description: str


class Excluded(Lenient):
    name: str
    url: str


class FindAllWebhook(Lenient):
    """The document knows the event of task runs only, the guides know those of FindAll (section 16)."""

    url: str
    event_types: (
        list[
            Literal[
                "task_run.status",
                "findall.candidate.generated",
                "findall.candidate.matched",
                "findall.candidate.unmatched",
                "findall.candidate.enriched",
                "findall.run.completed",
                "findall.run.cancelled",
                "findall.run.failed",
            ]
        ]
        | None
    ) = None


class FindAllRequest(Lenient):
    objective: str
    entity_type: str
    match_conditions: list[MatchCondition]
    generator: GeneratorName
    match_limit: MatchLimit
    exclude_list: Annotated[list[Excluded], Field(max_length=MOST_EXCLUDED)] | None = None
    metadata: dict[str, str | int | float | bool] | None = None
    webhook: FindAllWebhook | None = None
    memory_scope_key: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=128)] | None = None

    @model_validator(mode="after")
    def _within_the_generator(self) -> FindAllRequest:
        most = GENERATORS[self.generator].most_matches
        if self.match_limit > most:
            raise ValueError(f"match_limit is at most {most} with the generator {self.generator}")
        return self


class EnrichRequest(Lenient):
    processor: str = "core"
    output_schema: JsonForm
    mcp_servers: Annotated[list[McpServer], Field(max_length=10)] | None = None


class ExtendRequest(Lenient):
    additional_match_limit: Annotated[int, Field(gt=0)]


class EntitySearchRequest(Lenient):
    entity_type: Literal["people", "companies"]
    objective: str
    match_limit: MatchLimit = 100


class CandidatesRequest(Lenient):
    """The former name and shape of an entity search."""

    entity_type: Literal["people", "company"]
    objective: str
    match_limit: MatchLimit = 100
