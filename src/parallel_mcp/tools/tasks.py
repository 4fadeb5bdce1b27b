"""Starting research tasks."""

import re
from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import AfterValidator, BaseModel, Field

from parallel_mcp.api.models import TaskRunInput
from parallel_mcp.ledger import Intent
from parallel_mcp.render.untrusted import marked, one_line
from parallel_mcp.settings import Settings
from parallel_mcp.tasks.creating import Creation, create_run, fingerprint_of, priced
from parallel_mcp.tasks.handles import platform_link, run_handle
from parallel_mcp.tasks.processors import Processor, ProcessorName, processor_named
from parallel_mcp.tasks.specs import metadata, source_policy, task_input, task_spec
from parallel_mcp.tools.arguments import Arguments
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.reply import next_call, reply
from parallel_mcp.tools.search import Day, Domains

MAX_TITLE_CHARS = 120


def _key(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", text):
        raise ValueError("at most 64 letters, digits, _ or -")
    return text


class TaskRequest(Arguments):
    """What a research task is made of."""

    input: str = Field(
        "", max_length=25_000, description="What to research, self-contained: entity, scope, period. Or input_fields."
    )
    input_fields: dict[str, Any] = Field(
        {}, description='The input as named values instead, such as {"company": "Acme", "website": "acme.com"}.'
    )
    output: str = Field(
        "",
        max_length=15_000,
        description="What the report should contain and how. Left out: a Markdown report on the input.",
    )
    output_schema: dict[str, Any] = Field(
        {},
        description="Instead of output: a JSON Schema of the fields wanted (root object, flat, each with a "
        "description, no fields for sources: every result has them).",
    )
    processor: Annotated[ProcessorName | None, Field(description="Depth, price and time per run.")] = None
    include_domains: Domains = Field([], description="Only these domains. Set only if the user asks.")
    exclude_domains: Domains = Field([], description="Never these domains. Set only if the user asks.")
    after_date: Day = Field("", description="Only sources after this day, YYYY-MM-DD. Set only if the user asks.")
    previous_interaction_id: str = Field("", description="Id of a completed run whose context this one continues.")
    metadata: dict[str, Any] = Field(
        {}, description="Up to 16-character keys and 512-character values to keep with it."
    )
    idempotency_key: Annotated[str, AfterValidator(_key)] = Field(
        "", description="Same key, same run: makes repeating a call safe. Letters, digits, _ and -, at most 64."
    )
    force_new: bool = Field(False, description="Start another run although an equal one is active. It is billed again.")


class CreateTaskArguments(TaskRequest):
    """Arguments of `create_task`."""


class CreateTaskOutput(BaseModel):
    """Structured half of `create_task`."""

    run_id: str = Field(description="Handle of the run, valid for good and in other conversations. Keep it.")
    status: str
    processor: str
    price_usd: float = Field(description="What this call cost; 0 if the run existed already.")
    usual_duration: str
    deduplicated: bool = Field(description="True: an equal run existed and was returned; nothing was created.")
    link: str = Field(description="Page where the user sees the run.")
    next: str = Field(description="The next call.")
    untrusted_warnings: list[str] | None = Field(default=None, description="Remarks of the API on the request.")


async def create_task(request: CreateTaskArguments, call: Call) -> CallToolResult:
    """Start a research task on the web and get its run_id at once; the work goes on without you.

    Costs money for each new run. Usual choices: lite $0.005 (10 s to 60 s, a fact or two), core-fast $0.025 (under
    two minutes, default), pro-fast $0.10 (minutes, exploratory), ultra $0.30 (5 to 25 min, deep research); dearer ones
    exist. Then call watch_progress with the run_id, and get_result once it is ready. There is no cancel: a run
    that is started is billed. Try one run before starting many.
    """
    processor = _processor(request, call.settings)
    task = run_input(request, processor)
    creation = await create_run(
        call.api,
        call.app.ledger,
        call.settings,
        Intent(
            owner=call.owner,
            fingerprint=fingerprint_of(task),
            idempotency_key=request.idempotency_key,
            processor=processor.name,
            price_usd=priced(processor),
            title=title_of(request),
        ),
        task,
        force_new=request.force_new,
    )
    return _created_reply(creation, processor)


def run_input(request: TaskRequest, processor: Processor) -> TaskRunInput:
    """The run to ask the API for.

    Raises:
        InvalidArguments: The arguments contradict each other or exceed a limit of the API.
    """
    spec = task_spec(request.output, request.output_schema)
    previous = request.previous_interaction_id
    return TaskRunInput(
        processor=processor.name,
        input=task_input(request.input, request.input_fields, spec),
        task_spec=spec,
        metadata=metadata(request.metadata),
        source_policy=source_policy(request.include_domains, request.exclude_domains, request.after_date),
        previous_interaction_id=run_handle(previous, "previous_interaction_id") if previous else None,
        enable_events=True,  # cannot be switched on later, and somebody may want to watch
    )


def title_of(request: TaskRequest) -> str:
    """A short name of the task for lists."""
    values = (f"{name}: {value}" for name, value in request.input_fields.items())
    return one_line(request.input or ", ".join(values), MAX_TITLE_CHARS)


def _processor(request: TaskRequest, settings: Settings) -> Processor:
    processor = processor_named(request.processor or settings.default_processor)
    assert processor is not None  # both names were checked: one by its schema, one when the server was built
    return processor


def _created_reply(creation: Creation, processor: Processor) -> CallToolResult:
    run = creation.run
    structured = CreateTaskOutput(
        run_id=run.run_id,
        status=run.status,
        processor=run.processor or processor.name,
        price_usd=0 if creation.deduplicated else processor.price_usd,
        usual_duration=processor.usual_duration,
        deduplicated=creation.deduplicated,
        link=platform_link(run.run_id),
        next=next_call("watch_progress", id=run.run_id) if run.is_active else next_call("get_result", id=run.run_id),
        untrusted_warnings=[one_line(warning.message, 300) for warning in run.warnings] or None,
    )
    headline = (
        f"This is the run of an equal earlier call, not a new one: {run.run_id} ({run.status}). "
        "Nothing was created or charged; force_new=true starts another."
        if creation.deduplicated
        else f"Started {run.run_id} ({structured.processor}, {run.status}) for ${processor.price_usd:.3f}. "
        f"It usually takes {processor.usual_duration}."
    )
    warnings = [marked("\n".join(structured.untrusted_warnings))] if structured.untrusted_warnings else []
    lines = [headline, *warnings, f"The user can see it at {structured.link}", f"Next: {structured.next}"]
    return reply("\n".join(lines), structured)
