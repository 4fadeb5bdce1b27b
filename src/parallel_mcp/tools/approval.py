"""Asking the user before a create that costs more than one call may, where the client can ask."""

from __future__ import annotations

import anyio
from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit
from pydantic import BaseModel, Field

from parallel_mcp.errors import StillCreating
from parallel_mcp.settings import Settings, env_name
from parallel_mcp.tasks.creating import is_dear
from parallel_mcp.tasks.processors import Processor
from parallel_mcp.tools.call import App, Call, PriceApproval
from parallel_mcp.tools.groups import CreateTaskGroupArguments, prepared_group
from parallel_mcp.tools.tasks import TaskRequest, chosen_processor, intent_of, run_input

MODERN_ERA = "2026-07-28"
ASKING_S = 10.0  # for knowing whether to ask; the wait of the call itself comes after it


class Approval(BaseModel):
    """The user's answer."""

    approve: bool = Field(description="Start it at this price?")


class NotAsked(Approval):
    """In place of an answer, where there was no question."""

    approve: bool = False


async def ask_for_approval(
    request: TaskRequest | CreateTaskGroupArguments, context: Context[App]
) -> Approval | Elicit[Approval]:
    """The question, if the price calls for one and the client can be asked; otherwise no approval.

    Asking a client that cannot answer would fail the whole call. A request that is invalid, or that an earlier create
    answers, is no matter for the user.
    """
    if not can_be_asked(context):
        return NotAsked()
    call = Call(context.request_context.lifespan_context, context)
    is_group = isinstance(request, CreateTaskGroupArguments)
    dear = await (_dear_group(request, call) if is_group else _dear_run(request, call))
    if dear is None:
        return NotAsked()
    processor = chosen_processor(request, call.settings)
    return price_question(dear, processor, call.settings, a_row=is_group)


def price_question(dear: str, processor: Processor, settings: Settings, *, a_row: bool = False) -> Elicit[Approval]:
    """The question about a price: what would be started, and for how much."""
    return Elicit(
        f"{dear}? It is above the limit of ${settings.max_usd_per_call:.2f} for one call "
        f"({env_name('max_usd_per_call')}) and usually takes {processor.usual_duration}{' a row' if a_row else ''}. "
        "A started run cannot be cancelled.",
        Approval,
    )


def run_price(processor: Processor) -> str:
    """What a question about the price of one run begins with."""
    return f"Start a research task with {processor.name} for ${processor.price_usd:.2f}"


async def _dear_run(request: TaskRequest, call: Call) -> str | None:
    """What a task costs, if that is more than one call may."""
    processor = chosen_processor(request, call.settings)
    if not is_dear(processor.price_usd, call.settings):
        return None
    intent = intent_of(request, run_input(request, processor).run, processor, call)
    if not request.force_new and await call.app.creator.is_answered(call.api, intent):
        return None
    return run_price(processor)


async def _dear_group(request: CreateTaskGroupArguments, call: Call) -> str | None:
    """What the rows cost that an earlier call has not bought, if that is more than one call may."""
    processor = chosen_processor(request, call.settings)
    creating = prepared_group(request, call).creating
    if not is_dear(len(creating.order.inputs) * processor.price_usd, call.settings):
        return None
    price_usd: float | None = None
    with anyio.move_on_after(ASKING_S):
        price_usd = await creating.price_usd()
    if price_usd is None:
        raise StillCreating("An equal create is on its way; nothing was sent now")
    rows = round(price_usd / processor.price_usd)
    if not is_dear(price_usd, call.settings):
        return None
    return f"Start {rows:,} research tasks, one a row, with {processor.name} for ${price_usd:.2f} in all"


def approval_of(answer: ElicitationResult[Approval]) -> PriceApproval:
    """What the user said; dismissing the question is a no."""
    if not isinstance(answer, AcceptedElicitation):
        return "declined"
    if isinstance(answer.data, NotAsked):
        return "not asked"
    return "approved" if answer.data.approve else "declined"


def can_be_asked(context: Context[App]) -> bool:
    """Whether the client can put a question to the user."""
    capabilities = context.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    return (context.protocol_version or "") >= MODERN_ERA or context.session.can_send_request
