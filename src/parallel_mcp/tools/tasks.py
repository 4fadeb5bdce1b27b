"""Starting research tasks."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Protocol, TypeVar, get_args

import anyio
from mcp.types import CallToolResult
from pydantic import AfterValidator, Field

from parallel_mcp.api.models import TaskRun, TaskRunInput
from parallel_mcp.errors import InvalidArguments, OverBudget, StillCreating
from parallel_mcp.ledger import Intent
from parallel_mcp.render.untrusted import marked, one_line
from parallel_mcp.settings import Settings
from parallel_mcp.tasks.creating import intent_for
from parallel_mcp.tasks.handles import platform_link, run_handle
from parallel_mcp.tasks.processors import Processor, ProcessorName, processor_named
from parallel_mcp.tasks.specs import Day, Domains, metadata, source_policy, task_input, task_spec
from parallel_mcp.tools.arguments import Arguments
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.reply import Output, reply
from parallel_mcp.tools.status import next_for
from parallel_mcp.tools.waiting import allowed_wait_s

MAX_TITLE_CHARS = 120

_Bought = TypeVar("_Bought")


def _key(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", text):
        raise ValueError("at most 64 letters, digits, _ or -")
    return text


IdempotencyKey = Annotated[str, AfterValidator(_key)]


class TaskRequest(Arguments):
    """What a research task is made of."""

    input: str = Field(
        default="",
        max_length=25_000,
        description="What to research, self-contained: entity, scope, period.",
    )
    input_fields: dict[str, Any] = Field(
        default={}, description='Instead of input: named values, as {"company": "Acme"}.'
    )
    output: str = Field(
        default="", max_length=15_000, description="What the report should contain; Markdown if left out."
    )
    output_schema: dict[str, Any] = Field(
        default={},
        description="Instead of output: flat JSON Schema (object) of described fields; sources come anyway.",
    )
    processor: ProcessorName | None = None
    include_domains: Domains = Field(default=[], description="Only if the user asks.")
    exclude_domains: Domains = Field(default=[], description="Only if the user asks.")
    after_date: Day = Field(default="", description="YYYY-MM-DD; only if the user asks.")
    previous_interaction_id: str = Field(default="", description="run_id of a completed run to build on.")
    metadata: dict[str, Any] = Field(default={}, description="Labels.")
    idempotency_key: IdempotencyKey = Field(default="", description="Same key, same run.")
    force_new: bool = Field(default=False, description="Even if an equal run is active.")


class CreateTaskArguments(TaskRequest):
    """Arguments of `create_task`."""


class CreateTaskOutput(Output):
    """Structured half of `create_task`."""

    run_id: str = Field(description="Handle of the run, valid for good and in other conversations. Keep it.")
    status: str
    processor: str
    price_usd: float = Field(description="What this call cost; 0 if the run existed already.")
    usual_duration: str
    deduplicated: bool = Field(description="True: an equal run existed and was returned; nothing was created.")
    link: str = Field(description="Page where the user sees the run.")
    next: str = Field(description="The next call.")
    warnings: list[str] | None = Field(default=None, description="What could be better about output_schema.")
    untrusted_warnings: list[str] | None = Field(default=None, description="Remarks of the API on the request.")


async def create_task(request: CreateTaskArguments, call: Call) -> CallToolResult:
    """Start a research task on the web; gives its run_id at once and goes on without you.

    Costs money: lite $0.005 (seconds, a fact or two), core-fast $0.025 (under 2 min, default), pro-fast $0.10
    (minutes), ultra $0.30 (5 to 25 min, deep research); others up to $2.40. There is no cancel. Next: watch_progress,
    then get_result.
    """
    started = await start(request, call, by=anyio.current_time() + allowed_wait_s(None, call))
    return _created_reply(started)


def schema_remarks(warnings: list[str]) -> str:
    """What could be better about a schema, on lines of their own; empty if nothing could."""
    return "\n".join(["About output_schema:", *(f"- {warning}" for warning in warnings)]) if warnings else ""


def what_starts_another(*, by_key: bool) -> str:
    """What to change in a call that an earlier one answers: the same key gives the same, whatever else is asked for."""
    return f"{'another idempotency_key' if by_key else 'force_new=true'} starts another"


@dataclass(frozen=True)
class Started:
    """A run that a call has started or found."""

    run: TaskRun
    processor: Processor
    deduplicated: bool
    warnings: list[str]
    by_key: bool = False

    @property
    def headline(self) -> str:
        """What happened, and what it cost."""
        run = self.run
        if self.deduplicated:
            return (
                f"This is the run of an equal earlier call, not a new one: {run.run_id} ({run.status}). "
                f"Nothing was created or charged; {what_starts_another(by_key=self.by_key)}."
            )
        return (
            f"Started {run.run_id} ({run.processor or self.processor.name}, {run.status}) for "
            f"${self.processor.price_usd:.3f}. It usually takes {self.processor.usual_duration}."
        )

    @property
    def remarks(self) -> str:
        """What could be better about the schema, on lines of their own."""
        return schema_remarks(self.warnings)


@dataclass(frozen=True)
class PreparedRun:
    """A run to ask the API for, and what could be better about its schema."""

    run: TaskRunInput
    warnings: list[str]


# Words that say that something is wanted, and not what. Of other languages none is known, so nothing is refused.
_WISHES = (
    "a about an any anything deep do find for help i info information is it me more need now on out please query "
    "question report research run search some something start task test that the this to topic want"
)
_EMPTY_WORDS = frozenset(_WISHES.split())


def says_nothing(request: TaskRequest) -> bool:
    """Whether a request leaves open what to research: its input is empty, or made of words such as "do research".

    One that says more elsewhere (fields, the wished output, an earlier run to build on) is never taken for that.
    """
    if request.input_fields or request.output or request.output_schema or request.previous_interaction_id:
        return False
    words = re.findall(r"\w+", request.input.lower())
    return all(word in _EMPTY_WORDS for word in words)


async def start(request: TaskRequest, call: Call, *, by: float) -> Started:
    """Create the run that a request asks for, or find the one that an equal request made.

    Raises:
        StillCreating: The create was not answered by then; it goes on.
        ResearchError: See `Creator.create`, `run_input`.
    """
    if says_nothing(request) and request.input.strip():
        raise InvalidArguments("`input` does not say what to research: name the question, the subject and the period")
    processor = chosen_processor(request, call.settings)
    prepared = run_input(request, processor)
    intent = intent_of(request, prepared.run, processor, call)
    return await start_prepared(prepared, intent, processor, call, by=by, force_new=request.force_new)


async def start_prepared(
    prepared: PreparedRun, intent: Intent, processor: Processor, call: Call, *, by: float, force_new: bool = False
) -> Started:
    """Create a run that is ready to be sent, or find the one that an equal request made.

    Raises:
        StillCreating: The create was not answered by then; it goes on.
        ResearchError: See `Creator.create`.
    """
    create = partial(call.app.creator.create, call.api, intent, prepared.run, force_new=force_new)
    creation = await bought_by(by, partial(create, approved_usd=call.approved_usd), processor.price_usd, call)
    return Started(creation.run, processor, creation.deduplicated, prepared.warnings, creation.by_key)


async def bought_by(deadline: float, buy: Callable[[], Awaitable[_Bought]], price_usd: float, call: Call) -> _Bought:
    """What a call buys, or finds bought.

    Raises:
        OverBudget: The user was asked, and declined.
        StillCreating: It was not answered by the deadline; it goes on.
    """
    if call.approval == "declined":
        raise OverBudget(f"The user was asked and declined ${price_usd:.3f} for this. Nothing was sent")
    with anyio.CancelScope(deadline=deadline):
        return await buy()
    raise StillCreating("The create is on its way, and the API has not answered yet")


def intent_of(request: TaskRequest, task: TaskRunInput, processor: Processor, call: Call) -> Intent:
    """What the ledger is told of a create."""
    return intent_for(
        task,
        processor,
        owner=call.owner,
        idempotency_key=request.idempotency_key,
        title=title_of(request) if call.settings.ledger_titles else "",
    )


def run_input(request: TaskRequest, processor: Processor) -> PreparedRun:
    """The run to ask the API for.

    Raises:
        InvalidArguments: The arguments contradict each other or exceed a limit of the API.
    """
    prepared = task_spec(request.output, request.output_schema, processor)
    previous = request.previous_interaction_id
    run = TaskRunInput(
        processor=processor.name,
        input=task_input(request.input, request.input_fields, prepared.spec),
        task_spec=prepared.spec,
        metadata=metadata(request.metadata),
        source_policy=source_policy(request.include_domains, request.exclude_domains, request.after_date),
        previous_interaction_id=run_handle(previous, "previous_interaction_id") if previous else None,
        enable_events=True,  # cannot be switched on later, and somebody may want to watch
    )
    return PreparedRun(run, prepared.warnings)


def title_of(request: TaskRequest) -> str:
    """A short name of the task for lists."""
    values = (f"{name}: {value}" for name, value in request.input_fields.items())
    return one_line(request.input or ", ".join(values), MAX_TITLE_CHARS)


class ChoosesProcessor(Protocol):
    """A request that may name a processor."""

    @property
    def processor(self) -> str | None: ...


def chosen_processor(request: ChoosesProcessor, settings: Settings) -> Processor:
    """The processor of a request, or the default one.

    Raises:
        InvalidArguments: There is none of that name.
    """
    processor = processor_named(request.processor or settings.default_processor)
    if processor is None:  # not the default one, which was checked when the server was built
        raise InvalidArguments(f"`processor`: one of {', '.join(get_args(ProcessorName))}")
    return processor


def _created_reply(started: Started) -> CallToolResult:
    run, processor = started.run, started.processor
    structured = CreateTaskOutput(
        run_id=run.run_id,
        status=run.status,
        processor=run.processor or processor.name,
        price_usd=0 if started.deduplicated else processor.price_usd,
        usual_duration=processor.usual_duration,
        deduplicated=started.deduplicated,
        link=platform_link(run.run_id),
        next=next_for(run),
        warnings=started.warnings or None,
        untrusted_warnings=[one_line(warning.message, 300) for warning in run.warnings] or None,
    )
    ours = [started.remarks] if started.warnings else []
    remarks = structured.untrusted_warnings
    theirs = ["The API remarks on the request:", marked("\n".join(remarks))] if remarks else []
    lines = [started.headline, *ours, *theirs, f"The user can see it at {structured.link}", f"Next: {structured.next}"]
    return reply("\n".join(lines), structured)
