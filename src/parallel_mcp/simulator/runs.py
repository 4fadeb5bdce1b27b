"""Task runs: what was asked, when it starts and ends, and what it answers (API reference, section 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Literal

from pydantic import JsonValue

from parallel_mcp.simulator.bodies import TaskRunInput
from parallel_mcp.simulator.clock import Changes, Clock
from parallel_mcp.simulator.identities import uuid_of
from parallel_mcp.simulator.outputs import Output, OutputWriter, is_reachable
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.processors import PROCESSORS, Processor
from parallel_mcp.simulator.research import Research
from parallel_mcp.simulator.stories import Ending, Story
from parallel_mcp.simulator.traces import Entry, TraceWriter

Status = Literal["queued", "action_required", "running", "completed", "failed", "cancelling", "cancelled"]
ACTIVE: frozenset[Status] = frozenset({"queued", "running", "cancelling"})
LONGEST_QUEUE_S = 2.0
QUEUE_SHARE = 0.05
SHORTEST_REAL_S = 1e-6  # every run is queued when it is created, also one that takes no time
FAILURE = "The task could not be completed: too many of its sources were unavailable."


@dataclass(frozen=True)
class Schedule:
    """When a run starts and ends, and how. Moments; `ended_at` is infinite for a run that never ends."""

    started_at: float
    ended_at: float
    ending: Ending
    failure: str = FAILURE


class Run:
    """One task run. Its status follows from its schedule and the clock; nothing runs in the background."""

    def __init__(
        self,
        owner: str,
        run_id: str,
        body: TaskRunInput,
        submitted: dict[str, JsonValue],
        story: Story,
        research: Research,
        clock: Clock,
        *,
        warnings: Sequence[JsonObject] = (),
        taskgroup_id: str | None = None,
        wants_element_basis: bool = False,
    ) -> None:
        self.owner = owner
        self.run_id = run_id
        self.body = body
        self.submitted = submitted
        self.story = story
        self.research = research
        self.warnings = list(warnings)
        self.taskgroup_id = taskgroup_id
        self.wants_element_basis = wants_element_basis
        self.changes = Changes()
        self.connections = 0
        self._clock = clock
        self.created_at = clock.now()
        self.duration_s = self._duration_s()
        self.schedule = self._planned_schedule()
        self._planned_start = self.schedule.started_at

    @property
    def processor(self) -> Processor:
        return PROCESSORS[self.body.processor]

    @property
    def has_events(self) -> bool:
        """Whether progress is recorded: as asked, by default on `pro` and above (checklist 23)."""
        asked = self.body.enable_events
        return self.processor.researches_deeply if asked is None else asked

    def status_at(self, moment: float) -> Status:
        if moment >= self.schedule.ended_at:
            return self.schedule.ending
        return "running" if moment >= self.schedule.started_at else "queued"

    def is_active_at(self, moment: float) -> bool:
        return self.status_at(moment) in ACTIVE

    @property
    def price_mills(self) -> int:
        return self.processor.price_mills

    def cost_mills_at(self, moment: float) -> int:
        """Return what the run costs: its price if it completed, else nothing."""
        return self.price_mills if self.status_at(moment) == "completed" else 0

    def next_change_after(self, moment: float) -> float:
        """Return the moment of the next transition, infinite when there is none."""
        changes = (self.schedule.started_at, self.schedule.ended_at)
        return min((change for change in changes if change > moment), default=math.inf)

    def start(self) -> bool:
        """Let the run start now, from any thread, and tell whether it does: it stays as it is once it has started."""
        now = max(self._clock.now(), self.created_at + SHORTEST_REAL_S)
        if self.status_at(now) != "queued":
            return False
        self.schedule = replace(self.schedule, started_at=now)
        self.changes.announce()
        return True

    def end(self, ending: Ending, failure: str = FAILURE) -> None:
        """End the run now, from any thread; a run that has ended stays as it is."""
        now = max(self._clock.now(), self.created_at + SHORTEST_REAL_S)
        if self.is_active_at(now):
            started_at = min(self.schedule.started_at, now)
            self.schedule = Schedule(started_at, now, ending, failure)
        self.changes.announce()

    @cached_property
    def trace(self) -> list[Entry]:
        """Everything the event stream tells of the run, in order of time, should it last that long."""
        servers = [server.name for server in self.body.mcp_servers or [] if is_reachable(server)]
        writer = TraceWriter(
            research=self.research,
            story=self.story,
            dice=self._dice("trace"),
            clock=self._clock,
            talkative=self.has_events,
            most_messages=self.processor.most_messages,
            duration_s=self.duration_s,
            started_at=self._planned_start,
            lasts=self.created_at + self._clock.real_seconds(self.duration_s) - self._planned_start,
            tool_servers=servers,
        )
        return writer.write()

    @cached_property
    def output(self) -> Output:
        return OutputWriter(self.body, self.research, self.story, self._dice("output")).write()

    def as_object(self, moment: float) -> JsonObject:
        """Write the `TaskRun` object as of a moment."""
        status = self.status_at(moment)
        return {
            "run_id": self.run_id,
            "interaction_id": self.run_id,
            "status": status,
            "is_active": status in ACTIVE,
            "warnings": self.warnings or None,
            "error": self._error() if status == "failed" else None,
            "processor": self.body.processor,
            "metadata": self.body.metadata or {},
            "taskgroup_id": self.taskgroup_id,
            "created_at": self._clock.stamp(self.created_at),
            "modified_at": self._clock.stamp(self._modified_at(moment)),
        }

    def input_object(self) -> dict[str, JsonValue]:
        """Write the input as it was submitted; header values of MCP servers are write-only (checklist 12)."""
        servers = self.submitted.get("mcp_servers")
        if not isinstance(servers, list):
            return self.submitted
        return {**self.submitted, "mcp_servers": [_without_headers(server) for server in servers]}

    def _modified_at(self, moment: float) -> float:
        changes = (self.created_at, self.schedule.started_at, self.schedule.ended_at)
        return max(change for change in changes if change <= moment)

    def _error(self) -> JsonObject:
        return {"ref_id": uuid_of(self._dice("error")), "message": self.schedule.failure, "detail": None}

    def _duration_s(self) -> float:
        drawn = self.processor.latency_s(self._dice("duration"))
        return drawn if self.story.latency is None else self.story.latency

    def _planned_schedule(self) -> Schedule:
        usual = min(LONGEST_QUEUE_S, QUEUE_SHARE * self.duration_s)
        queued_s = usual if self.story.queue is None else min(self.story.queue, self.duration_s)
        lasts_s = math.inf if self.story.never else self.duration_s
        starts = self.created_at + max(self._clock.real_seconds(queued_s), SHORTEST_REAL_S)
        ends = self.created_at + max(self._clock.real_seconds(lasts_s), SHORTEST_REAL_S)
        return Schedule(starts, ends, self.story.ending)

    def _dice(self, purpose: str) -> Random:
        """Return dice of the run's own, so that what is read first does not matter."""
        return Random(f"{self.run_id}:{purpose}")


def _without_headers(server: JsonValue) -> JsonValue:
    if not isinstance(server, dict):
        return server
    return {key: value for key, value in server.items() if key != "headers"}
