"""The API's own shapes.

Requests are strict about what we send. Answers are read leniently: unknown fields, statuses and event types pass,
null counts as absent, and only what a caller cannot do without (an id) is required.
"""

import re
from contextlib import suppress
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from parallel_mcp.api.foreign_json import parsed

ACTIVE_STATUSES = frozenset({"queued", "running", "cancelling"})
FINAL_STATUSES = frozenset({"completed", "failed", "cancelled"})


def or_empty(empty: Any) -> BeforeValidator:
    """Null counts as absent."""
    return BeforeValidator(lambda value: empty if value is None else value)


def word(value: Any) -> Any:
    """A name that the API made up, such as a status: short and plain, or `unknown`."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w.-]{0,64}", value) else "unknown"


def _texts(value: Any) -> Any:
    """A list of texts; what is no text in it is left out."""
    if value is None:
        return []
    return [item for item in cast("list[Any]", value) if isinstance(item, str)] if isinstance(value, list) else value


def _text(value: Any) -> Any:
    """A text; anything else must not make the rest of an answer unreadable, above all not the id of a paid run."""
    if isinstance(value, int | float):
        return str(value)
    return value if isinstance(value, str) else ""


def objects(value: Any) -> Any:
    """The objects of a list."""
    return [item for item in cast("list[Any]", value) if isinstance(item, dict)] if isinstance(value, list) else []


def an_object(value: Any) -> Any:
    """An object; anything else counts as an empty one."""
    return cast("Any", value) if isinstance(value, dict) else {}


Text = Annotated[str, BeforeValidator(_text)]
Word = Annotated[str, BeforeValidator(word)]
Handle = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
Count = Annotated[int, or_empty(0)]


class RequestBody(BaseModel):
    """Base of what is sent: strict."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    def body(self) -> dict[str, Any]:
        """The JSON object to send: what is not set is left out."""
        return self.model_dump(mode="json", exclude_none=True)


class Answer(BaseModel):
    """Base of what is read: lenient."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True, hide_input_in_errors=True)


# ---- requests


class SourcePolicy(RequestBody):
    """Which sources may be used. Include and exclude together hold at most 200 domains."""

    include_domains: list[str] | None = None
    exclude_domains: list[str] | None = None
    after_date: str | None = None


class AdvancedSearchSettings(RequestBody):
    """Search settings that narrow or bound the results."""

    source_policy: SourcePolicy | None = None
    max_results: int | None = None


class SearchRequest(RequestBody):
    """`POST /v1/search`: at most 5 queries of 200 characters, an objective of at most 5,000."""

    search_queries: list[str]
    objective: str | None = None
    mode: str | None = None
    max_chars_total: int | None = None
    session_id: str | None = None
    advanced_settings: AdvancedSearchSettings | None = None


class AdvancedExtractSettings(RequestBody):
    """Extract settings."""

    full_content: bool | None = None


class ExtractRequest(RequestBody):
    """`POST /v1/extract`: at most 20 URLs."""

    urls: list[str]
    objective: str | None = None
    max_chars_total: int | None = None
    session_id: str | None = None
    advanced_settings: AdvancedExtractSettings | None = None


class JsonSchemaSpec(RequestBody):
    """A JSON Schema, wrapped as the API wants it."""

    type: Literal["json"] = "json"
    json_schema: dict[str, Any]


class TextSpec(RequestBody):
    """A description of a text output."""

    type: Literal["text"] = "text"
    description: str | None = None


class TaskSpec(RequestBody):
    """What a task takes and gives. Spec and input together hold at most 25,000 characters."""

    output_schema: JsonSchemaSpec | TextSpec
    input_schema: JsonSchemaSpec | None = None


class TaskRunInput(RequestBody):
    """`POST /v1/tasks/runs`, and one row of a group."""

    processor: str
    input: str | dict[str, Any]
    task_spec: TaskSpec | None = None
    metadata: dict[str, str] | None = None
    source_policy: SourcePolicy | None = None
    previous_interaction_id: str | None = None
    enable_events: bool | None = None


# ---- search and extract


class ApiWarning(Answer):
    """A remark on a request that was carried out all the same."""

    type: Text = ""
    message: Text = ""


Warnings = Annotated[list[ApiWarning], BeforeValidator(objects)]
Excerpts = Annotated[list[str], BeforeValidator(_texts)]


class SearchResult(Answer):
    """One page, the most relevant first."""

    url: Text = ""
    title: Text = ""
    publish_date: Text = ""
    excerpts: Excerpts = []


class SearchResponse(Answer):
    """Answer of `POST /v1/search`."""

    search_id: Text = ""
    results: list[SearchResult]
    warnings: Warnings = []
    session_id: Text = ""


class ExtractResult(SearchResult):
    """The content of one page."""

    full_content: Text = ""


class ExtractFailure(Answer):
    """A page that could not be read."""

    url: Text = ""
    error_type: Text = ""
    http_status_code: int | None = None
    content: Text = ""


class ExtractResponse(Answer):
    """Answer of `POST /v1/extract`: every URL is in `results` or in `errors`."""

    extract_id: Text = ""
    results: list[ExtractResult]
    errors: Annotated[list[ExtractFailure], or_empty([])] = []
    warnings: Warnings = []
    session_id: Text = ""


# ---- runs


class RunError(Answer):
    """Why a run failed."""

    ref_id: Text = ""
    message: Text = ""


def _run_error(value: Any) -> Any:
    if isinstance(value, str):
        return {"message": value}
    return cast("Any", value) if isinstance(value, dict) else None


class TaskRun(Answer):
    """The state of a run, without its output."""

    run_id: Handle
    interaction_id: Text = ""
    status: Word = "unknown"
    is_active: bool = True
    processor: Word = ""
    warnings: Warnings = []
    error: Annotated[RunError | None, BeforeValidator(_run_error)] = None
    metadata: Annotated[dict[str, JsonValue], BeforeValidator(an_object)] = {}
    taskgroup_id: Text = ""
    created_at: Text = ""
    modified_at: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        run: dict[str, Any] = dict(data)  # pyright: ignore[reportUnknownArgumentType]
        run["interaction_id"] = run.get("interaction_id") or run.get("run_id")
        if run.get("is_active") is None:
            run["is_active"] = word(run.get("status")) in ACTIVE_STATUSES
        return run

    @property
    def is_final(self) -> bool:
        """Whether the status can no longer change. `action_required` is inactive but not final."""
        return self.status in FINAL_STATUSES


class SubmittedInput(Answer):
    """Answer of `GET /v1/tasks/runs/{run_id}/input`: what was submitted, as far as we need it again."""

    processor: Text = ""
    input: JsonValue = None


class Citation(Answer):
    """A source of a field; one without an address is of no use."""

    url: Text = ""
    title: Text = ""
    excerpts: Excerpts = []


class FieldBasis(Answer):
    """What a field of the output rests on. Text outputs have one, named `output`; elements are named `field.0`."""

    field: Text = ""
    reasoning: Text = ""
    citations: Annotated[list[Citation], or_empty([])] = []
    confidence: Text = ""


class TaskOutput(Answer):
    """The output of a completed run: Markdown or a JSON value, with its basis."""

    type: Text = "text"
    content: JsonValue
    basis: Annotated[list[FieldBasis], or_empty([])] = []

    @field_validator("content", mode="before")
    @classmethod
    def _parse_json_text(cls, value: Any, info: ValidationInfo) -> Any:
        # One documented sample shows the content of a JSON output as a string.
        if info.data.get("type") == "json" and isinstance(value, str):
            with suppress(ValueError):
                return parsed(value)
        return value


class TaskRunResult(Answer):
    """Answer of `GET /v1/tasks/runs/{run_id}/result`."""

    run: TaskRun
    output: TaskOutput


# ---- groups


class TaskGroupStatus(Answer):
    """Counts of a group's runs; statuses without runs are missing. An empty group is not active."""

    num_task_runs: Count = 0
    task_run_status_counts: Annotated[dict[Word, int], or_empty({})] = {}
    is_active: Annotated[bool, or_empty(False)] = False
    status_message: Text = ""

    @property
    def num_ended(self) -> int:
        """How many runs are no longer active."""
        counts = self.task_run_status_counts
        return max(0, self.num_task_runs - sum(counts.get(status, 0) for status in ACTIVE_STATUSES))


class TaskGroup(Answer):
    """A group of runs."""

    taskgroup_id: Handle
    status: TaskGroupStatus
    metadata: Annotated[dict[str, JsonValue], or_empty({})] = {}
    created_at: Text = ""


class AddedRuns(Answer):
    """Answer of adding runs to a group; ids are in the order of the inputs."""

    run_ids: list[Handle]
    status: TaskGroupStatus = TaskGroupStatus()
    run_cursor: Text = ""
    event_cursor: Text = ""


# ---- suggestions


class SuggestedTask(Answer):
    """Answer of `POST /v1beta/tasks/suggest`: raw JSON Schemas, and remarks such as `unattainable_task`."""

    title: Text = ""
    input_schema: Annotated[dict[str, JsonValue], BeforeValidator(an_object)] = {}
    output_schema: Annotated[dict[str, JsonValue], BeforeValidator(an_object)] = {}
    warnings: Warnings = []


# ---- events


class RunStateEvent(Answer):
    """The state of a run; the last event of a completed run carries its output."""

    type: Literal["task_run.state"]
    event_id: Text = ""
    run: TaskRun
    input: JsonValue = None
    output: TaskOutput | None = None


class ProgressMessageEvent(Answer):
    """One step of the research. `type` starts with `task_run.progress_msg.`."""

    type: str
    message: Text = ""
    timestamp: Text = ""


class SourceStats(Answer):
    """How many sources were looked at."""

    num_sources_considered: int | None = None
    num_sources_read: int | None = None
    sources_read_sample: Excerpts = []


class ProgressStatsEvent(Answer):
    """How far the run is. `progress_meter` (0 to 100) may be missing, and may go back."""

    type: Literal["task_run.progress_stats"]
    source_stats: Annotated[SourceStats, or_empty({})] = SourceStats()
    progress_meter: float | None = None


class GroupStatusEvent(Answer):
    """New counts of a group."""

    type: Literal["task_group_status"]
    event_id: Text = ""
    status: TaskGroupStatus


class ErrorEvent(Answer):
    """Something went wrong while streaming; what became of the run is not said."""

    type: Literal["error"]
    error: Annotated[RunError, or_empty({})] = RunError()


class UnknownEvent(Answer):
    """An event of a type that this version does not know."""

    type: Text = ""


Event = RunStateEvent | ProgressMessageEvent | ProgressStatsEvent | GroupStatusEvent | ErrorEvent | UnknownEvent

_EVENT_TYPES: dict[str, type[Event]] = {
    "task_run.state": RunStateEvent,
    "task_run.progress_stats": ProgressStatsEvent,
    "task_group_status": GroupStatusEvent,
    "error": ErrorEvent,
}
_MESSAGE_PREFIX = "task_run.progress_msg."


def event_model(type_name: str) -> type[Event]:
    """The model of an event's `type`; message types are open-ended (API reference, run event stream)."""
    if type_name.startswith(_MESSAGE_PREFIX):
        return ProgressMessageEvent
    return _EVENT_TYPES.get(type_name, UnknownEvent)
