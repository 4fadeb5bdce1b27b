"""Tools made from task specs: each starts its own kind of research, waits as `run_task` does, and checks the answer.

Imported only where a directory of specs is set.
"""

import copy
import json
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import JsonValue

from parallel_mcp.api.models import TaskRun, TaskRunInput
from parallel_mcp.ledger import Intent
from parallel_mcp.render.budget import MAX_RESULT_BYTES
from parallel_mcp.render.untrusted import one_line
from parallel_mcp.settings import Settings
from parallel_mcp.tasks.creating import intent_for
from parallel_mcp.tasks.spec_files import Spec, fingerprint, read_specs
from parallel_mcp.tasks.spec_schemas.publishing import published_output, without_nulls
from parallel_mcp.tasks.specs import TOOL_LABEL, task_input
from parallel_mcp.tools.approval import asking_first, offer_of_run
from parallel_mcp.tools.arguments import Arguments
from parallel_mcp.tools.call import Call, Offer
from parallel_mcp.tools.definition import ON_PAGE, PUBLISHED, served
from parallel_mcp.tools.reply import next_call, reply, result_bytes
from parallel_mcp.tools.result_pages import ROOM_BYTES
from parallel_mcp.tools.results import ResultAnswer
from parallel_mcp.tools.run_task import answer_by, finished_output, output_of
from parallel_mcp.tools.spec_arguments import fits, read_spec_arguments
from parallel_mcp.tools.task_states import started_task
from parallel_mcp.tools.tasks import MAX_TITLE_CHARS, PreparedRun, Started, start_prepared
from parallel_mcp.tools.waiting import allowed_wait_s
from parallel_mcp.tools.watching import LAST_LOOK_S

LOOK_EVERY_S = 1.0
MAX_DESCRIPTION_CHARS = 1_000
_MISFIT = "The result does not fit the output schema of this tool, so it is given as text."
_LONG_MISFIT = "The result does not fit the output schema of this tool: get_result gives it exactly."

_Value = TypeVar("_Value")

logger = logging.getLogger(__name__)


# ---- a directory


class SpecTools:
    """The tools of a directory of task specs, as it is now. Files that are no good are reported in the log."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory = directory
        self._settings = settings
        self._loaded: tuple[object, ...] = ()
        self._specs: dict[str, Spec] = {}

    def load(self) -> list[Tool]:
        """Read the directory; never raises."""
        self._loaded = fingerprint(self._directory)  # before it is read, so that what changes meanwhile is seen
        reports = read_specs(
            self._directory, default_processor=self._settings.default_processor, taken=names_of_own_tools()
        )
        for report in reports:
            if report.spec is None:
                logger.warning("The task spec %s is left out: %s", report.file, "; ".join(report.errors))
            for warning in report.warnings:
                logger.info("The task spec %s could be better: %s", report.file, warning)
        self._specs = {report.spec.name: report.spec for report in reports if report.spec is not None}
        return [spec_tool(spec) for spec in self._specs.values()]

    def finished_reply(self, run: TaskRun, answer: ResultAnswer) -> CallToolResult | None:
        """The answer about a finished run as its tool gives it; None if no spec that is there now has started it."""
        spec = self._specs.get(str(run.metadata.get(TOOL_LABEL)))
        return finished_spec_reply(spec, answer) if spec else None

    async def changes(self) -> AsyncGenerator[list[Tool]]:
        """The tools anew whenever a file has changed, and has then been left alone for a second: it may be half
        written.
        """
        known = seen = self._loaded
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            now = await _in_thread(partial(fingerprint, self._directory))
            if now == seen and now != known:
                known = now
                yield await _in_thread(self.load)
            seen = now


def names_of_own_tools() -> frozenset[str]:
    """The names that no spec may have, also those of tools that are switched off now."""
    return frozenset(path.stem for path in PUBLISHED.glob("*.json"))


async def _in_thread(work: Callable[[], _Value]) -> _Value:
    """The directory may be on a disk that does not answer; then neither a call nor the end waits for it."""
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


# ---- a tool


@dataclass(frozen=True)
class SpecRequest:
    """One checked call of the tool of a spec."""

    spec: Spec
    input: dict[str, JsonValue]

    @cached_property
    def run(self) -> TaskRunInput:
        """The run to ask the API for.

        Raises:
            InvalidArguments: Input and schemas together are too long.
        """
        task_spec = self.spec.task_spec
        return TaskRunInput(
            processor=self.spec.processor.name,
            input=task_input("", self.input, task_spec),
            task_spec=task_spec,
            source_policy=self.spec.sources,
            metadata={TOOL_LABEL: self.spec.name},
            enable_events=True,
        )

    def intent(self, call: Call) -> Intent:
        """What the ledger is told."""
        values = ", ".join(f"{name}: {value}" for name, value in self.input.items())
        title = one_line(f"{self.spec.title}: {values}", MAX_TITLE_CHARS) if call.settings.ledger_titles else ""
        return intent_for(self.run, self.spec.processor, owner=call.owner, title=title)


def spec_tool(spec: Spec) -> Tool:
    """The tool of a spec as the SDK serves it; the hints are those of every tool that creates."""
    return served(
        asking_first(run_spec, _offer_of_spec),
        _SpecArguments(arg_model=Arguments, output_schema=output_schema_of(spec), spec=spec),
        name=spec.name,
        title=spec.title,
        description=description_of(spec),
        parameters=spec.input_schema,
        hints=ToolAnnotations(
            read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
        ),
        meta=ON_PAGE,
    )


def description_of(spec: Spec) -> str:
    """The spec's own description, and what every caller must know of a tool that costs money and time."""
    processor = spec.processor
    facts = (
        f"Web research with {processor.name}: ${processor.price_usd:.3f} for each new run, usually "
        f"{processor.usual_duration}; waits for the cited result. If it takes longer you get the run's id: go on with "
        "watch_progress and get_result, do not call this again. There is no cancel."
    )
    return f"{spec.description.strip()}\n\n{facts}"[:MAX_DESCRIPTION_CHARS]


def output_schema_of(spec: Spec) -> dict[str, Any]:
    """The output schema of `run_task` with the spec's own in the place of `untrusted.output`."""
    published = json.loads((PUBLISHED / "run_task.json").read_text(encoding="utf-8"))
    schema = cast("dict[str, Any]", copy.deepcopy(published["outputSchema"]))
    schema["properties"]["warnings"]["description"] = "Remarks on the result."
    content = schema["properties"]["untrusted"]["properties"]
    content["output"] = published_output(spec.output_schema)
    return schema


class _SpecArguments(FuncMetadata):
    """Checks the arguments of a call against the spec's input schema."""

    spec: Spec

    def validate_arguments(self, arguments_to_validate: dict[str, Any]) -> dict[str, Any]:
        """See `read_spec_arguments` for the rules."""
        read = read_spec_arguments(self.spec.input_schema, arguments_to_validate)
        return {"request": SpecRequest(self.spec, read)}


async def _offer_of_spec(request: SpecRequest, call: Call) -> Offer:
    return await offer_of_run(request.spec.processor, partial(request.intent, call), call)


async def run_spec(request: SpecRequest, call: Call) -> CallToolResult:
    """Start the research of a spec, wait as long as spec and client allow, and give the result or the handle."""
    deadline = anyio.current_time() + allowed_wait_s(request.spec.timeout_s, call)
    prepared = PreparedRun(request.run, warnings=[])
    started = await start_prepared(
        prepared, request.intent(call), request.spec.processor, call, by=deadline + LAST_LOOK_S
    )
    if call.takes_tasks and started.run.is_active:
        return started_task(started)
    answer, remarks = _fitted(await answer_by(deadline, started.run, call), request.spec)
    return reply("\n".join([_headline(started), *remarks, answer.text]), output_of(started, answer, remarks))


def finished_spec_reply(spec: Spec, answer: ResultAnswer) -> CallToolResult:
    """The answer about a run that an earlier call of the tool has started."""
    answer, remarks = _fitted(answer, spec)
    return reply("\n".join([*remarks, answer.text]), finished_output(answer, remarks))


def _headline(started: Started) -> str:
    if not started.deduplicated:
        return started.headline
    return f"This is the run of an equal earlier call: {started.run.run_id}. Nothing was created or charged."


def _fitted(answer: ResultAnswer, spec: Spec) -> tuple[ResultAnswer, list[str]]:
    """The answer with an output that fits what the tool has published; one that does not fit becomes text.

    Clients check structured content against the published schema, and fail the whole call if it does not fit. JSON as
    a text is escaped once more, and may be too long by that: then the structured half leads to `get_result`.
    """
    content = answer.structured.untrusted
    if content is None or content.output is None:
        return answer, []
    if fits(spec.output_schema, content.output):
        return _with_content(answer, output=without_nulls(content.output, spec.output_schema)), []
    as_text = _with_content(answer, output=None, content=json.dumps(content.output, ensure_ascii=False))
    if result_bytes(reply(as_text.text, as_text.structured)) <= MAX_RESULT_BYTES - ROOM_BYTES:
        return as_text, [_MISFIT]
    left_out = _with_content(answer, output=None).structured
    look = next_call("get_result", id=left_out.id)
    return ResultAnswer(answer.text, left_out.model_copy(update={"next": look})), [_LONG_MISFIT]


def _with_content(answer: ResultAnswer, **update: JsonValue) -> ResultAnswer:
    content = answer.structured.untrusted
    changed = content.model_copy(update=update) if content else None
    return ResultAnswer(answer.text, answer.structured.model_copy(update={"untrusted": changed}))
