"""Monitors: what each watches, whether it still does, and the events it has seen (API reference, section 17)."""

from __future__ import annotations

import threading
from random import Random

from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.config import SimulatorConfig
from parallel_mcp.simulator.errors import MONITOR_NOT_FOUND, Invalid, invalid
from parallel_mcp.simulator.identities import Identities, hex_token
from parallel_mcp.simulator.intake import Runs, story_in
from parallel_mcp.simulator.library import Library
from parallel_mcp.simulator.monitor_bodies import (
    EventStreamRequest,
    EventStreamSettings,
    MonitorStatus,
    SnapshotRequest,
    UpdateMonitorRequest,
    hours_of,
)
from parallel_mcp.simulator.monitor_schedule import Execution, Schedule
from parallel_mcp.simulator.monitor_subjects import Query, Snapshot
from parallel_mcp.simulator.ownership import Owned
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.runs import Run
from parallel_mcp.simulator.specs import schema_problems
from parallel_mcp.simulator.stories import Story, read_story

FAILURE = "The execution failed: quota temporarily exceeded."


class Monitor:
    """One monitor. Safe to use from several threads."""

    def __init__(
        self,
        monitor_id: str,
        number: int,
        request: EventStreamRequest | SnapshotRequest,
        subject: Query | Snapshot,
        story: Story,
        clock: Clock,
    ) -> None:
        self.monitor_id = monitor_id
        self.number = number
        self.type = request.type
        self.status: MonitorStatus = "active"
        self._subject = subject
        self._frequency = request.frequency
        self._processor = request.processor
        self._webhook = request.webhook
        self._metadata = request.metadata
        self._clock = clock
        self._created_at = clock.now()
        self._lock = threading.Lock()
        settings = request.settings
        self._schedule = Schedule(
            monitor_id,
            story,
            clock,
            hours=hours_of(request.frequency),
            backfills=isinstance(settings, EventStreamSettings) and bool(settings.include_backfill),
            most_events=1 if request.type == "snapshot" else 10**3,
        )

    def executions(self) -> list[Execution]:
        """Return the executions so far, newest first; about the last 300 are known."""
        with self._lock:
            self._schedule.settle(self._processor)
            return list(reversed(self._schedule.executions))

    def trigger(self) -> None:
        """Execute once more, now.

        Raises:
            Invalid: The monitor is cancelled.
        """
        self._require_active("triggered")
        with self._lock:
            self._schedule.trigger(self._processor)

    def cancel(self) -> None:
        """Stop for good. A cancelled monitor stays as it is."""
        with self._lock:
            self._schedule.settle(self._processor)
            self._schedule.stop()
            self.status = "cancelled"

    def update(self, change: UpdateMonitorRequest) -> None:
        """Change what is given.

        Raises:
            Invalid: The monitor is cancelled, or of another type.
        """
        self._require_active("updated")
        given = change.model_fields_set
        if "type" in given and change.type != self.type:
            raise invalid(f"this monitor has the type {self.type}", "body", "type")
        with self._lock:
            self._schedule.settle(self._processor)
            if "frequency" in given:
                self._frequency = change.frequency
                self._schedule.change_frequency(hours_of(change.frequency))
            self._processor = change.processor if "processor" in given else self._processor
            self._webhook = change.webhook if "webhook" in given else self._webhook
            self._metadata = change.metadata if "metadata" in given else self._metadata
            if change.settings is not None and isinstance(self._subject, Query):
                self._subject = self._subject.changed(change.settings)

    def as_object(self) -> JsonObject:
        """Write the `MonitorResponse` as it is now."""
        executions = self.executions()
        last = executions[0] if executions else None
        return {
            "type": self.type,
            "monitor_id": self.monitor_id,
            "status": self.status,
            "frequency": self._frequency,
            "processor": self._processor,
            "webhook": self._webhook.model_dump(exclude_none=True) if self._webhook else None,
            "metadata": dict(self._metadata) if self._metadata is not None else None,
            "created_at": self._clock.stamp(self._created_at),
            "last_run_at": self._clock.stamp(last.at) if last else None,
            "settings": self._subject.settings_object(),
            "output": self._output(last),
        }

    def events_of(self, execution: Execution, *, with_completions: bool) -> list[JsonObject]:
        """Write the events of an execution, newest first; one that detected nothing has none, or its completion."""
        timestamp = self._clock.stamp(execution.at)
        if execution.failed:
            return [{"event_type": "error", "error_message": FAILURE, "timestamp": timestamp}]
        if not execution.events:
            return [{"event_type": "completion", "timestamp": timestamp}] if with_completions else []
        return [self._event(execution, place) for place in reversed(range(execution.events))]

    def _event(self, execution: Execution, place: int) -> JsonObject:
        """Name the group under both its names: documents from the summer of 2026 on call it `event_group_id`."""
        number = execution.first_event + place
        group_id = execution.group_id(self.monitor_id)
        return {
            "event_id": "mevt_" + hex_token(Random(f"{self.monitor_id}:{number}:event"), 32),
            "event_group_id": group_id,
            "monitor_group_id": group_id,
            "event_date": self._clock.stamp(execution.at)[:10],
            **self._subject.event(number),
        }

    def _output(self, last: Execution | None) -> JsonObject | None:
        if isinstance(self._subject, Query):
            return None
        if last is None:
            return {"latest_snapshot": None}
        return self._subject.output_object(last.first_event + last.events)

    def _require_active(self, what: str) -> None:
        if self.status == "cancelled":
            raise invalid(f"a cancelled monitor cannot be {what}", "path", "monitor_id")


class Monitors:
    """All monitors, and the only way to make one."""

    def __init__(
        self, config: SimulatorConfig, clock: Clock, identities: Identities, library: Library, runs: Runs
    ) -> None:
        self.kept: Owned[Monitor] = Owned(MONITOR_NOT_FOUND)
        self._default_story = read_story(config.default_story)
        self._clock = clock
        self._identities = identities
        self._library = library
        self._runs = runs

    def create(self, owner: str, request: EventStreamRequest | SnapshotRequest) -> Monitor:
        """Create a monitor.

        Raises:
            Invalid: The schema or the story is not accepted, or the run to watch has not completed.
        """
        story = story_in(request.metadata, self._default_story)
        monitor_id = self._identities.new("monitor_")
        subject = self._subject(owner, monitor_id, request, story)
        monitor = Monitor(monitor_id, self.kept.ever, request, subject, story, self._clock)
        self.kept.add(owner, monitor_id, monitor)
        return monitor

    def _subject(
        self, owner: str, monitor_id: str, request: EventStreamRequest | SnapshotRequest, story: Story
    ) -> Query | Snapshot:
        if isinstance(request, SnapshotRequest):
            return Snapshot(monitor_id, self._watched_run(owner, request))
        form = request.settings.output_schema
        problems = schema_problems(form.json_schema, "settings", "output_schema", "json_schema") if form else []
        if problems:
            raise Invalid(problems)
        return Query(monitor_id, request.settings, self._library, story)

    def _watched_run(self, owner: str, request: SnapshotRequest) -> Run:
        run = self._runs.completed(owner, request.settings.task_run_id)
        if run is None:
            raise invalid("task_run_id must name a completed run", "body", "settings", "task_run_id")
        return run
