"""What a monitor watches, and how the changes it finds are written: news about a query, or an answer that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

from pydantic import JsonValue

from parallel_mcp.simulator.basis import BasisWriter
from parallel_mcp.simulator.bodies import JsonForm
from parallel_mcp.simulator.dossiers import Dossier
from parallel_mcp.simulator.fields import FieldWriter
from parallel_mcp.simulator.library import Library
from parallel_mcp.simulator.monitor_bodies import EventStreamSettings, UpdatedSettings
from parallel_mcp.simulator.payloads import Json, JsonObject
from parallel_mcp.simulator.research import Quote, Research, question_of
from parallel_mcp.simulator.runs import Run
from parallel_mcp.simulator.specs import Schema
from parallel_mcp.simulator.stories import Story

PAGES_WATCHED = 6
NOTHING_ELSE: JsonObject = {"mcp_tool_calls": None, "beta_fields": None}


@dataclass(frozen=True)
class Query:
    """News about a query: each event quotes another sentence, or fills the schema from another page."""

    monitor_id: str
    settings: EventStreamSettings
    library: Library
    story: Story

    @cached_property
    def research(self) -> Research:
        advanced = self.settings.advanced_settings
        policy = advanced.source_policy if advanced else None
        return Research(self.library, self.settings.query, policy=policy, most_pages=PAGES_WATCHED)

    def changed(self, change: UpdatedSettings) -> Query:
        """Return the same query with what is given in a change."""
        given = {name: getattr(change, name) for name in change.model_fields_set}
        return replace(self, settings=self.settings.model_copy(update=given))

    def settings_object(self) -> JsonObject:
        return self.settings.model_dump()

    def output_object(self, events: int) -> JsonObject | None:
        """Return nothing: only snapshot monitors have a current state."""
        return None

    def event(self, number: int) -> JsonObject:
        """Write what distinguishes an event of this kind, for the event of this number among all of the monitor."""
        basis = BasisWriter(self.story, Random(f"{self.monitor_id}:{number}"))
        form = self.settings.output_schema
        output = self._text(number, basis) if form is None else self._json(form, number, basis)
        return {"event_type": "event_stream", "output": output | NOTHING_ELSE}

    def _text(self, number: int, basis: BasisWriter) -> JsonObject:
        quotes = self.research.quotes
        if not quotes:
            content = f"Something new was reported about {self.settings.query} (report {number + 1})."
            return {"type": "text", "content": content, "basis": [basis.entry("output", ())]}
        quote = quotes[number % len(quotes)]
        content = f"{quote.sentence} ([{quote.page.name}]({quote.page.url}))"
        return {"type": "text", "content": content, "basis": [basis.entry("output", [quote])]}

    def _json(self, form: JsonForm, number: int, basis: BasisWriter) -> JsonObject:
        pages = self.research.pages
        page = pages[number % len(pages)] if pages else None
        dossier = Dossier(self.settings.query, (page,) if page else ())
        answers = FieldWriter(dossier, form.json_schema, basis.dice).write_fields()
        return {
            "type": "json",
            "content": {name: answer.value for name, answer in answers.items()},
            "basis": [basis.entry(name, answer.quotes) for name, answer in answers.items()],
            "output_schema": None,
        }


@dataclass(frozen=True)
class Snapshot:
    """The answer of a completed run, one field of which changes with each event."""

    monitor_id: str
    run: Run

    def settings_object(self) -> JsonObject:
        spec = self.run.body.task_spec
        form = spec.output_schema if spec else None
        return {
            "task_run_id": self.run.run_id,
            "query": question_of(self.run.body.input),
            "output_schema": form.model_dump() if isinstance(form, JsonForm) else None,
        }

    def output_object(self, events: int) -> JsonObject | None:
        """Return the answer after that many changes."""
        return {"latest_snapshot": self._version(events)}

    def event(self, number: int) -> JsonObject:
        after = self._version(number + 1)
        content, basis = after["content"], after["basis"]
        if isinstance(content, dict) and content:
            name = self._changed_field(number)
            content = {name: content[name]}
            basis = [self._entry(name, number)]
        return {
            "event_type": "snapshot",
            "changed_output": after | {"content": content, "basis": basis},
            "previous_output": self._version(number),
        }

    @cached_property
    def _first(self) -> JsonObject:
        return self.run.output.shown(elements=False)

    @property
    def _fields(self) -> list[str]:
        content = self._first["content"]
        return list(content) if isinstance(content, dict) else []

    def _changed_field(self, number: int) -> str:
        return self._fields[number % len(self._fields)]

    def _version(self, changes: int) -> JsonObject:
        content = self._first["content"]
        if not isinstance(content, dict) or not content:
            return self._text_version(content, changes)
        latest = {self._changed_field(number): number for number in range(max(0, changes - len(content)), changes)}
        changed = {name: changed_value(content[name], self._schemas.get(name), at + 1) for name, at in latest.items()}
        basis = [self._entry(name, latest[name]) for name in latest]
        untouched = [entry for entry in self._entries if str(entry["field"]).partition(".")[0] not in latest]
        return self._first | {"content": {**content, **changed}, "basis": [*untouched, *basis]}

    def _text_version(self, content: Json, changes: int) -> JsonObject:
        if not changes or not isinstance(content, str):
            return self._first
        quote = self._quote(changes)
        said = f": {quote.sentence}" if quote else "."
        return self._first | {"content": f"{content}\n\nUpdate {changes}{said}"}

    @property
    def _entries(self) -> Sequence[JsonObject]:
        return self.run.output.basis

    @cached_property
    def _schemas(self) -> dict[str, JsonValue]:
        spec = self.run.body.task_spec
        form = spec.output_schema if spec else None
        schema: Schema = form.json_schema if isinstance(form, JsonForm) else {}
        properties = schema.get("properties")
        return properties if isinstance(properties, dict) else {}

    def _entry(self, name: str, number: int) -> JsonObject:
        quote = self._quote(number)
        return BasisWriter(self.run.story, Random(f"{self.monitor_id}:{number}")).entry(name, [quote] if quote else [])

    def _quote(self, number: int) -> Quote | None:
        quotes = self.run.research.quotes
        return quotes[number % len(quotes)] if quotes else None


def changed_value(value: Json, schema: JsonValue, change: int) -> Json:
    """Return another value of the same kind; one that may not differ stays as it is."""
    options = schema.get("enum") if isinstance(schema, dict) else None
    if isinstance(options, list) and options:
        place = next((place for place, option in enumerate(options) if option == value), 0)
        return options[(place + change) % len(options)]
    if isinstance(value, bool):
        return value != bool(change % 2)
    if isinstance(value, int | float):
        return value + change
    if isinstance(value, str):
        return f"{value} (revision {change})"
    if isinstance(value, list) and value:
        items = schema.get("items") if isinstance(schema, dict) else None
        return [changed_value(value[0], items, change), *value[1:]]
    if isinstance(value, dict) and value:
        members = schema.get("properties") if isinstance(schema, dict) else None
        name = next(iter(value))
        member = members.get(name) if isinstance(members, dict) else None
        return {**value, name: changed_value(value[name], member, change)}
    return value
