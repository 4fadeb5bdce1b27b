"""The progress of a run: what its event stream tells, and when (API reference, section 11.2)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.identities import uuid_of
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.research import Research
from parallel_mcp.simulator.stories import Story

FIRST_AT = 0.01
LAST_AT = 0.97
STATS_WITHOUT_EVENTS = 2
SAMPLED_SOURCES = 10
READ = "Read "
MEANINGLESS_LINE_BREAKS = "\u2028\u0085"

Step = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """One event of the trace and the moment it happens."""

    at: float
    kind: Literal["message", "stats", "error"]
    event: JsonObject


@dataclass(frozen=True)
class TraceWriter:
    """Writes the whole trace of a run in advance.

    Attributes:
        talkative: Whether messages are recorded; if not, the stream has a few stats only (checklist 23).
        duration_s: How long the run takes by itself, in simulated seconds.
        started_at: The moment it starts running.
        lasts: Real seconds from then to its end.
    """

    research: Research
    story: Story
    dice: Random
    clock: Clock
    talkative: bool
    most_messages: int
    duration_s: float
    started_at: float
    lasts: float
    tool_servers: Sequence[str]

    def write(self) -> list[Entry]:
        """Return the events in order of time."""
        steps = self._steps() if self.talkative else []
        moments = self._moments(len(steps))
        messages = [self._message(at, step) for at, step in zip(moments, steps, strict=True)]
        stats_at = moments[1::2] if steps else self._moments(STATS_WITHOUT_EVENTS)
        entries = [*messages, *self._stats(stats_at, steps, moments), *self._oddities(moments)]
        return sorted(entries, key=lambda entry: entry.at)

    def _steps(self) -> list[Step]:
        count = self._message_count()
        steps = [step for step, _ in zip(self._research_steps(), range(max(count - 1, 0)), strict=False)]
        return [*steps, ("exec_status", "Writing the answer.")][:count]

    def _message_count(self) -> int:
        if self.story.messages is not None:
            return self.story.messages
        return min(self.most_messages, max(3, round(6 * math.log(max(self.duration_s, 15) / 15))))

    def _research_steps(self) -> Iterator[Step]:
        """Go through plan, searches and pages, and then ever further into the pages."""
        yield "plan", f"Planning the research: {_shortened(self.research.question)}"
        for server in self.tool_servers:
            yield "tool_call", f"Calling a tool of MCP server {server}."
        pages = self.research.pages
        for number, query in enumerate(self.research.queries):
            yield "search", f'Searching for "{query}"'
            for page in pages[number * 2 : number * 2 + 2]:
                yield "result", f'{READ}"{page.name}" ({page.url})'
        yield "exec_status", "Comparing the sources." if pages else "No relevant source so far."
        yield from self._further_steps()

    def _further_steps(self) -> Iterator[Step]:
        quotes = self.research.quotes
        round_number = 1
        while True:
            round_number += 1
            yield "plan", f"Looking for what is still open (round {round_number})."
            yield "search", f'Searching for "{self.research.queries[0]}" (round {round_number})'
            for quote in quotes:
                yield "result", f"{quote.page.name}: {quote.sentence}"

    def _moments(self, count: int) -> list[float]:
        """Spread moments over the run, uneven but in order."""
        shares = sorted(self.dice.uniform(FIRST_AT, LAST_AT) for _ in range(count))
        even = [FIRST_AT + (LAST_AT - FIRST_AT) * place / max(count - 1, 1) for place in range(count)]
        return [
            self.started_at + self.lasts * (0.7 * regular + 0.3 * share)
            for regular, share in zip(even, shares, strict=True)
        ]

    def _message(self, at: float, step: Step) -> Entry:
        suffix, text = step
        if self.story.u2028:
            text = f"{text}{MEANINGLESS_LINE_BREAKS}end"
        return self._message_event(at, suffix, text)

    def _message_event(self, at: float, suffix: str, text: str) -> Entry:
        event: JsonObject = {
            "type": f"task_run.progress_msg.{suffix}",
            "message": text,
            "timestamp": self.clock.stamp(at),
        }
        return Entry(at, "message", event)

    def _stats(self, stats_at: Sequence[float], steps: Sequence[Step], moments: Sequence[float]) -> list[Entry]:
        """Count sources as the messages so far have named them; the meter follows the time."""
        read_at = [at for at, (_, text) in zip(moments, steps, strict=True) if text.startswith(READ)]
        entries: list[Entry] = []
        considered = 0
        for number, at in enumerate(stats_at):
            read = self._pages_read(bisect_right(read_at, at), at)
            considered = max(considered + self.dice.randint(1, 9), read)
            entries.append(Entry(at, "stats", self._stats_event(considered, read, self._meter(number, at))))
        return entries

    def _pages_read(self, told: int, at: float) -> int:
        pages = len(self.research.pages)
        return min(pages, told) if self.talkative else round(pages * self._elapsed_share(at))

    def _meter(self, number: int, at: float) -> float:
        meter = round(100 * self._elapsed_share(at), 1)
        return round(meter / 2, 1) if self.story.meter == "drops" and number % 2 else meter

    def _elapsed_share(self, at: float) -> float:
        return min(1.0, (at - self.started_at) / self.lasts) if self.lasts else 1.0

    def _stats_event(self, considered: int, read: int, meter: float) -> JsonObject:
        sample = [page.url for page in self.research.pages[:read]][:SAMPLED_SOURCES]
        counts: JsonObject = {
            "num_sources_considered": None if self.story.null_counts else considered,
            "num_sources_read": None if self.story.null_counts else read,
            "sources_read_sample": None if self.story.null_counts else sample,
        }
        measured: JsonObject = {} if self.story.meter == "missing" else {"progress_meter": meter}
        return {"type": "task_run.progress_stats", "source_stats": counts, **measured}

    def _oddities(self, moments: Sequence[float]) -> Iterator[Entry]:
        """Add what a client has to put up with (checklist 25), in the middle of the run."""
        middle = self.started_at + self.lasts / 2
        if self.story.legacy_events:
            yield self._message_event(middle, "tool", "Calling a tool.")
            yield self._message_event(middle, "extract", "Extracting a page.")
        if self.story.unknown_events:
            yield Entry(middle, "message", {"type": "task_run.something_new", "novelty": {"level": 9}})
        if self.story.error_event:
            error: JsonObject = {"ref_id": uuid_of(self.dice), "message": "A source was lost.", "detail": None}
            yield Entry(middle, "error", {"type": "error", "error": error})


def _shortened(question: str) -> str:
    line = " ".join(question.split())
    return line if len(line) <= 120 else f"{line[:119]}…"
