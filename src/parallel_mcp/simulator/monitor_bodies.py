"""Request bodies of monitors (API reference, section 17)."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, RootModel, model_validator

from parallel_mcp.simulator.bodies import JsonForm, Lenient, SourcePolicy

_HOURS = {"h": 1, "d": 24, "w": 24 * 7}
SHORTEST_H, LONGEST_H = 1, 30 * 24
MonitorType: TypeAlias = Literal["event_stream", "snapshot"]
MonitorProcessor: TypeAlias = Literal["lite", "base"]
MonitorStatus: TypeAlias = Literal["active", "cancelled"]


def hours_of(frequency: str) -> int:
    """Read a frequency such as `12h`, `1d` or `2w`.

    Raises:
        ValueError: It is not written like this, or is not between `1h` and `30d`.
    """
    if not re.fullmatch(r"[0-9]{1,4}[hdw]", frequency):
        raise ValueError("a frequency is a number and h, d or w, such as 12h")
    hours = int(frequency[:-1]) * _HOURS[frequency[-1]]
    if not SHORTEST_H <= hours <= LONGEST_H:
        raise ValueError("a frequency is between 1h and 30d")
    return hours


def _checked_frequency(frequency: str) -> str:
    hours_of(frequency)
    return frequency


def _checked_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if any(len(key) > 16 or len(value) > 512 for key, value in metadata.items()):
        raise ValueError("metadata keys have at most 16 characters, values at most 512")
    return metadata


Frequency: TypeAlias = Annotated[str, AfterValidator(_checked_frequency)]
MonitorMetadata: TypeAlias = Annotated[dict[str, str], AfterValidator(_checked_metadata)]


class MonitorWebhook(Lenient):
    url: str
    event_types: (
        list[Literal["monitor.event.detected", "monitor.execution.completed", "monitor.execution.failed"]] | None
    ) = None


class MonitorSettings(Lenient):
    source_policy: SourcePolicy | None = None
    location: str | None = None


class EventStreamSettings(Lenient):
    query: str
    output_schema: JsonForm | None = None
    include_backfill: bool | None = None
    advanced_settings: MonitorSettings | None = None


class SnapshotSettings(Lenient):
    task_run_id: str


class _CreateRequest(Lenient):
    frequency: Frequency
    processor: MonitorProcessor = "lite"
    webhook: MonitorWebhook | None = None
    metadata: MonitorMetadata | None = None
    memory_scope_key: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=128)] | None = None


class EventStreamRequest(_CreateRequest):
    type: Literal["event_stream"]
    settings: EventStreamSettings


class SnapshotRequest(_CreateRequest):
    type: Literal["snapshot"]
    settings: SnapshotSettings


class CreateMonitorRequest(RootModel[Annotated[EventStreamRequest | SnapshotRequest, Field(discriminator="type")]]):
    """What `settings` holds follows from `type`."""


class UpdatedSettings(Lenient):
    """Newer documents than that of May 2026 let the query be changed as well."""

    query: str = ""
    advanced_settings: MonitorSettings | None = None


class UpdateMonitorRequest(Lenient):
    """Only members that are given count; null clears `webhook` and `metadata`, and is refused elsewhere."""

    type: MonitorType = "event_stream"
    frequency: Frequency = "1d"
    processor: MonitorProcessor = "lite"
    webhook: MonitorWebhook | None = None
    metadata: MonitorMetadata | None = None
    settings: UpdatedSettings | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> UpdateMonitorRequest:
        if not self.model_fields_set - {"type"}:
            raise ValueError("at least one member other than type is required")
        if self.settings is not None and "type" not in self.model_fields_set:
            raise ValueError("type is required with settings")
        if self.settings is not None and self.type != "event_stream":
            raise ValueError("settings can be changed on event_stream monitors only")
        return self
