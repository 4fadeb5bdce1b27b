"""The shapes of FindAll (beta). Read as leniently as those of tasks."""

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from parallel_mcp.api.models import (
    ACTIVE_STATUSES,
    FINAL_STATUSES,
    Answer,
    Count,
    ErrorEvent,
    FieldBasis,
    Handle,
    RequestBody,
    Text,
    UnknownEvent,
    Word,
    an_object,
    objects,
    or_empty,
    word,
)

# ---- requests


class MatchCondition(RequestBody):
    """What a candidate must fulfil."""

    name: str
    description: str


class ExcludedCandidate(RequestBody):
    """A candidate not to be given."""

    name: str
    url: str


class FindAllInput(RequestBody):
    """`POST /v1beta/findall/runs`: `match_limit` is 5 to 1,000, at most 10 for the generator `preview`."""

    objective: str
    entity_type: str
    match_conditions: list[MatchCondition]
    generator: str
    match_limit: int
    exclude_list: list[ExcludedCandidate] | None = None
    metadata: dict[str, str] | None = None


class EnrichInput(RequestBody):
    """`POST /v1beta/findall/runs/{findall_id}/enrich`."""

    processor: str
    output_schema: dict[str, Any]


# ---- answers


class FindAllMetrics(Answer):
    """How many candidates were looked at, and how many of them match."""

    generated_candidates_count: Count = 0
    matched_candidates_count: Count = 0


class FindAllStatus(Answer):
    """How a FindAll run stands. One that says nothing of itself has not ended, as far as anybody knows."""

    status: Word = "unknown"
    is_active: bool = True
    metrics: Annotated[FindAllMetrics, BeforeValidator(an_object)] = FindAllMetrics()
    termination_reason: Annotated[Word, or_empty("")] = ""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        status = cast("dict[str, Any]", data)
        if status.get("is_active") is None:
            said = status.get("status")
            return {**status, "is_active": said is None or word(said) in ACTIVE_STATUSES}
        return status


class FindAllRun(Answer):
    """A FindAll run, without its candidates."""

    findall_id: Handle
    status: Annotated[FindAllStatus, BeforeValidator(an_object)] = FindAllStatus()
    generator: Word = ""
    created_at: Text = ""
    modified_at: Text = ""

    @property
    def is_active(self) -> bool:
        """Whether it still searches or enriches."""
        return self.status.is_active

    @property
    def is_final(self) -> bool:
        """Whether it has ended; an extension may start it again."""
        return self.status.status in FINAL_STATUSES

    @property
    def matched(self) -> int:
        """How many candidates match so far."""
        return self.status.metrics.matched_candidates_count

    @property
    def generated(self) -> int:
        """How many candidates were come upon so far."""
        return self.status.metrics.generated_candidates_count


class Condition(Answer):
    """A condition as the API words it."""

    name: Text = ""
    description: Text = ""


class Enrichment(Answer):
    """A further question about each match."""

    processor: Word = ""
    output_schema: Annotated[dict[str, JsonValue], BeforeValidator(an_object)] = Field(default={})


class FindAllSchema(Answer):
    """What is searched for. Ingesting an objective gives no match limit; that of a run may rise."""

    objective: Text = ""
    entity_type: Text = ""
    match_conditions: Annotated[list[Condition], BeforeValidator(objects)] = Field(default=[])
    enrichments: Annotated[list[Enrichment], BeforeValidator(objects)] = Field(default=[])
    generator: Word = ""
    match_limit: int | None = None


class CandidateField(Answer):
    """The verdict on a condition, or the answer to an enrichment."""

    value: JsonValue = None
    type: Word = ""
    is_matched: bool | None = None


def _fields(value: Any) -> Any:
    """The fields of a candidate; a bare value counts as one without a type."""
    fields = cast("dict[str, Any]", an_object(value))
    return {name: field if _is_field(field) else {"value": field} for name, field in fields.items()}


def _is_field(value: Any) -> bool:
    return isinstance(value, dict) and "value" in value


class Candidate(Answer):
    """Something that was come upon. `output` and its basis come with the verdict."""

    candidate_id: Text = ""
    name: Text = ""
    url: Text = ""
    description: Text = ""
    match_status: Word = "unknown"
    output: Annotated[dict[str, CandidateField], BeforeValidator(_fields)] = Field(default={})
    basis: Annotated[list[FieldBasis], BeforeValidator(objects)] = Field(default=[])


def _candidates(value: Any) -> Any:
    """The candidates that can be read: one odd one must not hide the others, which are paid for."""
    readable: list[Candidate] = []
    for item in objects(value):
        try:
            readable.append(Candidate.model_validate(item))
        except ValidationError:
            continue
    return readable


class FindAllResult(Answer):
    """`GET /v1beta/findall/runs/{findall_id}/result`: a snapshot at any time. One guide shows the run's fields flat."""

    run: FindAllRun
    candidates: Annotated[list[Candidate], BeforeValidator(_candidates)] = Field(default=[])

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, data: Any) -> Any:
        if isinstance(data, dict) and "run" not in data:
            flat = cast("dict[str, Any]", data)
            return {**flat, "run": flat}
        return cast("Any", data)


# ---- events


class _FindAllEvent(Answer):
    event_id: Text = ""
    timestamp: Text = ""


class FindAllStatusEvent(_FindAllEvent):
    """The state of the run: when it changes, and every ten seconds as a heartbeat."""

    type: Literal["findall.status"]
    data: FindAllRun


class CandidateEvent(_FindAllEvent):
    """What became of a candidate: generated, matched, unmatched, discarded or enriched."""

    type: str
    data: Candidate


class SchemaEvent(_FindAllEvent):
    """The run was extended or enriched."""

    type: Literal["findall.schema.updated"]
    data: FindAllSchema


FindAllEvent = FindAllStatusEvent | CandidateEvent | SchemaEvent | ErrorEvent | UnknownEvent

MATCHED = "findall.candidate.matched"
_CANDIDATE_PREFIX = "findall.candidate."
_EVENT_TYPES: dict[str, type[FindAllEvent]] = {
    "findall.status": FindAllStatusEvent,
    "findall.schema.updated": SchemaEvent,
    "error": ErrorEvent,
}


def findall_event_model(type_name: str) -> type[FindAllEvent]:
    """The model of an event's `type`."""
    if type_name.startswith(_CANDIDATE_PREFIX):
        return CandidateEvent
    return _EVENT_TYPES.get(type_name, UnknownEvent)
