"""Request bodies, as the API accepts them: types, required members and published limits.

Written from the API reference, sections 6 to 9 and 12; where the OpenAPI document is silent the guides count.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal, TypeAlias, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from parallel_mcp.simulator.errors import Invalid, Problem
from parallel_mcp.simulator.payloads import parse_json

MOST_DOMAINS = 200
MOST_INPUTS = 1000
_SOURCE = re.compile(r"\.?[^\s./:?#@]+(\.[^\s./:?#@]+)*(/[^\s?#]*)?")


class Lenient(BaseModel):
    """Unknown members are ignored, as on task runs (checklist 8)."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Strict(BaseModel):
    """Unknown members are refused, as on search and extract (checklist 32)."""

    model_config = ConfigDict(strict=True, extra="forbid")


def _checked_source(entry: str) -> str:
    if not _SOURCE.fullmatch(entry):
        raise ValueError("must be a domain such as example.com, an extension such as .gov, or a domain with a path")
    return entry


def _checked_date(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise ValueError("must be a date, YYYY-MM-DD")
    date.fromisoformat(text)
    return text


def _checked_metadata(metadata: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
    if any(len(key) > 16 for key in metadata):
        raise ValueError("metadata keys have at most 16 characters")
    if any(len(str(value)) > 512 for value in metadata.values()):
        raise ValueError("metadata values have at most 512 characters")
    return metadata


def _some_query(queries: list[str]) -> list[str]:
    if not any(query.strip() for query in queries):
        raise ValueError("at least one search query is required")
    return queries


Source: TypeAlias = Annotated[str, AfterValidator(_checked_source)]
Metadata: TypeAlias = Annotated[dict[str, str | int | float | bool], AfterValidator(_checked_metadata)]
Objective: TypeAlias = Annotated[str, Field(max_length=5000)]
SearchQuery: TypeAlias = Annotated[str, Field(max_length=200)]
SearchQueries: TypeAlias = Annotated[list[SearchQuery], Field(max_length=5)]
CharLimit: TypeAlias = Annotated[int, Field(ge=1)]
SessionId: TypeAlias = Annotated[str, Field(max_length=1000)]


class SourcePolicy(Lenient):
    include_domains: list[Source] = []
    exclude_domains: list[Source] = []
    after_date: Annotated[str, AfterValidator(_checked_date)] | None = None

    @model_validator(mode="after")
    def _limited(self) -> SourcePolicy:
        if len(self.include_domains) + len(self.exclude_domains) > MOST_DOMAINS:
            raise ValueError(f"include_domains and exclude_domains have at most {MOST_DOMAINS} entries together")
        return self


class FetchPolicy(Lenient):
    max_age_seconds: Annotated[int, Field(ge=600)] | None = None
    timeout_seconds: float | None = None
    disable_cache_fallback: bool = False


class ExcerptSettings(Strict):
    max_chars_per_result: CharLimit | None = None


class FullContentSettings(Lenient):
    max_chars_per_result: CharLimit | None = None


class SearchSettings(Strict):
    source_policy: SourcePolicy | None = None
    fetch_policy: FetchPolicy | None = None
    excerpt_settings: ExcerptSettings | None = None
    location: str | None = None
    max_results: Annotated[int, Field(ge=1)] | None = None


class SearchRequest(Strict):
    search_queries: Annotated[SearchQueries, AfterValidator(_some_query)]
    objective: Objective | None = None
    mode: Literal["turbo", "fast", "basic", "advanced"] | None = None
    max_chars_total: CharLimit | None = None
    session_id: SessionId | None = None
    client_model: str | None = None
    advanced_settings: SearchSettings | None = None


class ExtractSettings(Strict):
    fetch_policy: FetchPolicy | None = None
    excerpt_settings: ExcerptSettings | None = None
    full_content: FullContentSettings | bool = False


class ExtractRequest(Strict):
    urls: Annotated[list[str], Field(min_length=1, max_length=20)]
    objective: Objective | None = None
    search_queries: SearchQueries | None = None
    max_chars_total: CharLimit | None = None
    session_id: SessionId | None = None
    client_model: str | None = None
    advanced_settings: ExtractSettings | None = None


class BetaExcerpts(Lenient):
    max_chars_per_result: CharLimit | None = None
    max_chars_total: CharLimit | None = None


class BetaSearchRequest(Lenient):
    """`POST /v1beta/search`, section 6.2."""

    mode: Literal["one-shot", "agentic", "fast"] | None = None
    processor: Literal["base", "pro"] | None = None
    objective: Objective | None = None
    search_queries: SearchQueries | None = None
    max_results: Annotated[int, Field(ge=1)] | None = None
    max_chars_per_result: CharLimit | None = None
    excerpts: BetaExcerpts | None = None
    location: str | None = None
    source_policy: SourcePolicy | None = None
    fetch_policy: FetchPolicy | None = None
    session_id: SessionId | None = None
    client_model: str | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> BetaSearchRequest:
        if not (self.objective or "").strip() and not any(query.strip() for query in self.search_queries or []):
            raise ValueError("one of objective and search_queries is required")
        return self


class BetaExtractRequest(Lenient):
    """`POST /v1beta/extract`, section 7.2."""

    urls: Annotated[list[str], Field(min_length=1, max_length=10)]
    objective: Annotated[str, Field(max_length=3000)] | None = None
    search_queries: SearchQueries | None = None
    fetch_policy: FetchPolicy | None = None
    excerpts: BetaExcerpts | bool = True
    full_content: FullContentSettings | bool = False
    session_id: SessionId | None = None
    client_model: str | None = None


class JsonForm(Lenient):
    json_schema: dict[str, JsonValue]
    type: Literal["json"] = "json"


class TextForm(Lenient):
    description: str | None = None
    type: Literal["text"] = "text"


class AutoForm(Lenient):
    type: Literal["auto"]


OutputForm: TypeAlias = JsonForm | TextForm | AutoForm | str
InputForm: TypeAlias = JsonForm | TextForm | str


class TaskSpec(Lenient):
    """The first form that fits counts: `{"json_schema": …}` is JSON and `{}` is text, as the defaults of `type` say."""

    output_schema: Annotated[OutputForm, Field(union_mode="left_to_right")]
    input_schema: Annotated[InputForm, Field(union_mode="left_to_right")] | None = None


class McpServer(Lenient):
    url: str
    name: str
    type: Literal["url"] = "url"
    headers: dict[str, str] | None = None
    allowed_tools: list[str] | None = None


class Webhook(Lenient):
    url: str
    event_types: list[Literal["task_run.status"]] = []


class TaskSettings(Lenient):
    location: str | None = None


class TaskRunInput(Lenient):
    processor: str
    input: str | dict[str, JsonValue]
    task_spec: TaskSpec | None = None
    metadata: Metadata | None = None
    source_policy: SourcePolicy | None = None
    advanced_settings: TaskSettings | None = None
    previous_interaction_id: str | None = None
    mcp_servers: Annotated[list[McpServer], Field(max_length=10)] | None = None
    enable_events: bool | None = None
    webhook: Webhook | None = None
    memory_scope_key: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=128)] | None = None


class CreateGroupRequest(Lenient):
    metadata: dict[str, str | int | float | bool] | None = None


class AddRunsRequest(Lenient):
    inputs: Annotated[list[TaskRunInput], Field(max_length=MOST_INPUTS)]
    default_task_spec: TaskSpec | None = None


Body = TypeVar("Body", bound=BaseModel)


def read_body(body: bytes, shape: type[Body]) -> tuple[Body, dict[str, JsonValue]]:
    """Read a request body; returns it typed, and as it was submitted.

    Raises:
        Invalid: It is not JSON, or breaks a rule of the shape.
    """
    submitted = parse_json(body)
    try:
        typed = shape.model_validate(submitted)
    except ValidationError as error:
        raise Invalid([_problem(item["loc"], item["msg"], item["type"]) for item in error.errors()]) from None
    return typed, cast("dict[str, JsonValue]", submitted)  # a model only ever validates from an object


def _problem(loc: tuple[int | str, ...], message: str, kind: str) -> Problem:
    return Problem(("body", *loc), message, kind)
