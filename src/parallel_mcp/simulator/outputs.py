"""The output of a run: content, basis and citations, as the request asked for it (API reference, section 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

from parallel_mcp.simulator.auto import write_auto
from parallel_mcp.simulator.basis import BasisWriter
from parallel_mcp.simulator.bodies import AutoForm, JsonForm, McpServer, TaskRunInput, TextForm
from parallel_mcp.simulator.fields import Answer, FieldWriter
from parallel_mcp.simulator.identities import hex_token
from parallel_mcp.simulator.payloads import JsonObject, compact
from parallel_mcp.simulator.processors import PROCESSORS
from parallel_mcp.simulator.reports import write_report
from parallel_mcp.simulator.research import Research
from parallel_mcp.simulator.stories import Story


@dataclass(frozen=True)
class Output:
    """What a run answers.

    Attributes:
        answer: The output object without its basis.
        basis: One entry per field.
        detailed_basis: The same, with an entry per array element.
    """

    answer: JsonObject
    basis: Sequence[JsonObject]
    detailed_basis: Sequence[JsonObject]

    def shown(self, *, elements: bool) -> JsonObject:
        """Return the output object; `elements` as asked for with `field-basis-2025-11-25` (checklist 14)."""
        return self.answer | {"basis": self.detailed_basis if elements else self.basis}


@dataclass(frozen=True)
class OutputWriter:
    """Writes the output of one run, once."""

    body: TaskRunInput
    research: Research
    story: Story
    dice: Random

    @cached_property
    def _basis(self) -> BasisWriter:
        return BasisWriter(self.story, self.dice)

    def write(self) -> Output:
        form = self.body.task_spec.output_schema if self.body.task_spec else None
        if isinstance(form, JsonForm):
            output = self._json_output(form)
        elif (form is None or isinstance(form, AutoForm)) and PROCESSORS[self.body.processor].researches_deeply:
            output = self._auto_output()
        else:
            output = self._text_output(_wish(form))
        return replace(output, answer=output.answer | {"mcp_tool_calls": self._tool_calls(), "beta_fields": None})

    def _text_output(self, wish: str) -> Output:
        report = write_report(self.research, wish, at_least_bytes=self.story.size)
        basis = [self._basis.entry("output", report.quotes)]
        return Output({"type": "text", "content": report.text}, basis, basis)

    def _json_output(self, form: JsonForm) -> Output:
        answers = FieldWriter(self.research, form.json_schema, self.dice).write_fields()
        content = {name: answer.value for name, answer in answers.items()}
        basis = {name: self._basis.entry(name, answer.quotes) for name, answer in answers.items()}
        detailed = [entry for name in answers for entry in (basis[name], *self._element_bases(name, answers[name]))]
        return Output(self._content(content, None), list(basis.values()), detailed)

    def _auto_output(self) -> Output:
        answer = write_auto(self.research)
        basis = [self._basis.entry(name, quotes) for name, quotes in answer.quotes.items()]
        return Output(self._content(answer.content, answer.schema), basis, basis)

    def _content(self, content: JsonObject, schema: JsonObject | None) -> JsonObject:
        content = _enlarged(content, self.story.size)
        shown = compact(content) if self.story.json_text else content
        return {"type": "json", "content": shown, "output_schema": schema}

    def _element_bases(self, name: str, answer: Answer) -> list[JsonObject]:
        return [self._basis.entry(f"{name}.{place}", quotes) for place, quotes in enumerate(answer.elements)]

    def _tool_calls(self) -> list[JsonObject] | None:
        """Call one tool in all on `lite` and `core`, one of each reachable server otherwise (section 5.2)."""
        servers = [server for server in self.body.mcp_servers or [] if is_reachable(server)]
        if self.body.processor.removesuffix("-fast") in ("lite", "core"):
            servers = servers[:1]
        return [self._tool_call(server) for server in servers] or None

    def _tool_call(self, server: McpServer) -> JsonObject:
        return {
            "tool_call_id": f"call_{hex_token(self.dice, 24)}",
            "server_name": server.name,
            "tool_name": (server.allowed_tools or ["search"])[0],
            "arguments": compact({"query": self.research.queries[0]}),
            "content": f"No further results for {self.research.queries[0]}.",
            "error": "",
        }


def is_reachable(server: McpServer) -> bool:
    """Hosts under `.invalid` never answer; every other web address does."""
    host = server.url.partition("://")[2].split("/")[0].split(":")[0]
    return server.url.startswith(("http://", "https://")) and not host.endswith(".invalid")


def _wish(form: TextForm | AutoForm | JsonForm | str | None) -> str:
    if isinstance(form, TextForm):
        return form.description or ""
    return form if isinstance(form, str) else ""


def _enlarged(content: JsonObject, at_least_bytes: int) -> JsonObject:
    """Lengthen the first text of the content; content without one stays as it is."""
    missing = at_least_bytes - len(compact(content).encode())
    name = next((name for name, value in content.items() if isinstance(value, str) and value), None)
    if missing <= 0 or name is None:
        return content
    text = str(content[name])
    return content | {name: text + f" {text}" * -(-missing // len(f" {text}".encode()))}
