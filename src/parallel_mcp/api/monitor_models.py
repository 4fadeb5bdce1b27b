"""The shapes of monitors. Read as leniently as those of tasks."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from parallel_mcp.api.models import (
    Answer,
    Handle,
    JsonSchemaSpec,
    RequestBody,
    SourcePolicy,
    TaskOutput,
    Text,
    Warnings,
    Word,
    an_object,
    objects,
)

# ---- requests


class AdvancedMonitorSettings(RequestBody):
    """Which sources count."""

    source_policy: SourcePolicy | None = None


class QuerySettings(RequestBody):
    """News about a query. Backfill gives a sample of earlier events with the first execution."""

    query: str
    output_schema: JsonSchemaSpec | None = None
    include_backfill: bool | None = None
    advanced_settings: AdvancedMonitorSettings | None = None


class SnapshotSettings(RequestBody):
    """Changes of the result of a completed run."""

    task_run_id: str


class MonitorInput(RequestBody):
    """`POST /v1/monitors`: `frequency` is a number and h, d or w, from 1h to 30d; `processor` lite or base."""

    type: Literal["event_stream", "snapshot"]
    frequency: str
    processor: str
    settings: QuerySettings | SnapshotSettings
    metadata: dict[str, str] | None = None


# ---- answers


class MonitorSettings(Answer):
    """What is monitored. A snapshot monitor names its run, and the question that run was asked."""

    query: Text = ""
    task_run_id: Text = ""


class Monitor(Answer):
    """A monitor, which executes until it is cancelled."""

    monitor_id: Handle
    type: Word = ""
    status: Word = "unknown"
    frequency: Text = ""
    processor: Word = ""
    settings: Annotated[MonitorSettings, BeforeValidator(an_object)] = MonitorSettings()
    metadata: Annotated[dict[str, JsonValue], BeforeValidator(an_object)] = Field(default={})
    created_at: Text = ""
    last_run_at: Text = ""

    @property
    def is_active(self) -> bool:
        """Whether it goes on executing, and costing."""
        return self.status not in ("cancelled", "not_found")


def _cursor(value: Any) -> Any:
    """A cursor, which is repeated in calls to copy: nothing that could be read as words."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w.:=+/~-]{0,2000}", value, re.ASCII) else ""


Cursor = Annotated[str, BeforeValidator(_cursor)]


class MonitorPage(Answer):
    """A page of monitors."""

    monitors: list[Monitor]
    next_cursor: Cursor = ""


def _readable(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """An output, or none if it has another shape: it must not hide the other events of the page."""
    try:
        return handler(value)
    except ValidationError:
        return None


Output = Annotated[TaskOutput | None, WrapValidator(_readable)]


class MonitorEvent(Answer):
    """What an execution brought: something detected, an error, or nothing (`completion`)."""

    event_type: Word = "unknown"
    event_id: Text = ""
    # Of the execution; under its old name until the summer of 2026.
    event_group_id: Text = Field(default="", validation_alias=AliasChoices("event_group_id", "monitor_group_id"))
    event_date: Text = ""
    timestamp: Text = ""
    output: Output = None
    changed_output: Output = None
    previous_output: Output = None
    error_message: Text = ""


class MonitorEvents(Answer):
    """A page of events, the newest first."""

    events: Annotated[list[MonitorEvent], BeforeValidator(objects)] = Field(default=[])
    next_cursor: Cursor = ""
    warnings: Warnings = Field(default=[])
