"""Asking the user before a create that costs more than one call may, where the client can ask."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import anyio
from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from parallel_mcp.errors import StillCreating
from parallel_mcp.ledger import Intent
from parallel_mcp.settings import Settings, env_name
from parallel_mcp.tasks.creating import is_dear, never_fits
from parallel_mcp.tasks.group_creating import GroupCreating
from parallel_mcp.tasks.processors import Processor
from parallel_mcp.tools.call import App, Call, Offer, PriceApproval
from parallel_mcp.tools.groups import CreateTaskGroupArguments, prepared_group
from parallel_mcp.tools.tasks import TaskRequest, chosen_processor, intent_of, run_input
from parallel_mcp.tools.waiting import allowed_wait_s

MODERN_ERA = "2026-07-28"
ASKING_S = 10.0


class Approval(BaseModel):
    """The user's answer."""

    approve: bool = Field(description="Start it at this price?")


class NotAsked(Approval):
    """In place of an answer, where there was no question."""

    approve: bool = False


def asking_about(
    offered: Callable[..., Awaitable[Offer]],
) -> Callable[[Offer], Awaitable[Approval | Elicit[Approval]]]:
    """The resolver that puts the question of an offer, which another resolver has made for it and for the call itself.

    A resolver runs once for both, so what the user approves is what the call goes by.
    """

    async def ask(offer: Annotated[Offer, Resolve(offered)]) -> Approval | Elicit[Approval]:
        return Elicit(offer.question, Approval) if offer.question else NotAsked()

    return ask


def asking_first(
    run: Callable[[Any, Call], Awaitable[CallToolResult]], offering: Callable[[Any, Call], Awaitable[Offer]]
) -> Callable[..., Awaitable[CallToolResult]]:
    """Calls `run` after the user was asked about the price, where that is needed and possible."""

    async def offered(request: object, context: Context[App]) -> Offer:
        return await offer_of(offering, request, context)

    async def call(
        request: object,
        context: Context[App],
        offer: Annotated[Offer, Resolve(offered)],
        answer: Annotated[ElicitationResult[Approval], Resolve(asking_about(offered))],
    ) -> CallToolResult:
        return await run(request, call_after(offer, answer, context))

    return call


async def offer_of(making: Callable[[Any, Call], Awaitable[Offer]], request: object, context: Context[App]) -> Offer:
    """What a tool offers in answer to a request."""
    began_at = anyio.current_time()
    offer = await making(request, Call(context.request_context.lifespan_context, context))
    return replace(offer, took_s=anyio.current_time() - began_at)


def call_after(offer: Offer, answer: ElicitationResult[Approval], context: Context[App]) -> Call:
    """The call, once the user has been asked where that was needed and possible."""
    return Call(context.request_context.lifespan_context, context, _approval_in(answer), offer)


async def offer_of_task(request: TaskRequest | CreateTaskGroupArguments, call: Call) -> Offer:
    """With a question, if the price calls for one and the client can be asked.

    Asking a client that cannot answer would fail the whole call. A request that is invalid, or that an earlier create
    answers, is no matter for the user.
    """
    if isinstance(request, CreateTaskGroupArguments):
        return await _offer_of_group(request, call)
    processor = chosen_processor(request, call.settings)

    def intent() -> Intent:
        return intent_of(request, run_input(request, processor).run, processor, call)

    return await offer_of_run(processor, intent, call, anew=request.force_new)


async def offer_of_run(processor: Processor, intent: Callable[[], Intent], call: Call, *, anew: bool = False) -> Offer:
    """As `offer_of_task`, for one run; one that is wanted `anew` no earlier create answers."""
    if not calls_for_question(processor.price_usd, call):
        return Offer()
    answered = partial(call.app.creator.is_answered, call.api, intent())
    question = _question(f"Start a research task with {processor.name} for ${processor.price_usd:.3f}", processor, call)
    return await offer_unless(partial(known_in_time, answered, call), question, processor.price_usd, call, anew=anew)


def calls_for_question(price_usd: float, call: Call) -> bool:
    """Whether a price needs the user's approval, the user can be asked for it, and it would be of use.

    What no budget has ever room for is refused in any case.
    """
    return is_dear(price_usd, call.settings) and can_be_asked(call.ctx) and not never_fits(price_usd, call.settings)


async def offer_unless(
    answered: Callable[[], Awaitable[bool]], question: str, price_usd: float, call: Call, *, anew: bool = False
) -> Offer:
    """With a question, unless an earlier create answers; one that is wanted `anew` none answers.

    The call that brings the user's answer does not look again: the question it belongs to would be gone, and a no
    passed over.
    """
    if not (anew or call.brings_answer) and await answered():
        return Offer()
    return Offer(question, price_usd)


def above_limit(settings: Settings) -> str:
    """Why the user is asked, for the question."""
    return f"above the limit of ${settings.max_usd_per_call:.2f} for one call ({env_name('max_usd_per_call')})"


def _question(what: str, processor: Processor, call: Call, *, a_row: bool = False) -> str:
    return (
        f"{what}? It is {above_limit(call.settings)} and usually takes {processor.usual_duration}"
        f"{' a row' if a_row else ''}. A started run cannot be cancelled."
    )


async def _offer_of_group(request: CreateTaskGroupArguments, call: Call) -> Offer:
    """About the most that the call can cost, so that the call that brings the answer puts the same question.

    What an earlier call has bought is not bought again, whatever is approved.
    """
    if not can_be_asked(call.ctx):
        return Offer()
    processor = chosen_processor(request, call.settings)
    creating = prepared_group(request, call).creating
    count = len(creating.order.inputs)
    most_usd = count * processor.price_usd
    if not is_dear(most_usd, call.settings):
        return Offer()
    if never_fits(most_usd, call.settings) and not creating.group_id:  # an addition may cost less
        return Offer()
    rows, price = f"{count:,} research tasks, one a row, with {processor.name}", f"${most_usd:.3f} in all"
    what = f"Start {rows} for {price}"
    if creating.group_id:
        what = f"Start up to {rows} for at most {price}, less what the group has already"
    question = _question(what, processor, call, a_row=True)
    return await offer_unless(partial(_needs_no_question, creating, call), question, most_usd, call)


async def _needs_no_question(creating: GroupCreating, call: Call) -> bool:
    """Whether the rows that no earlier call has bought are cheap, or never fit; no if that cannot be said in time.

    Raises:
        StillCreating: It cannot, because they are just being bought.
    """
    with anyio.move_on_after(asking_s(call)):
        price_usd = await creating.price_usd()
        return not is_dear(price_usd, call.settings) or bool(never_fits(price_usd, call.settings))
    if creating.is_on_its_way:
        raise StillCreating("An equal create is on its way, and not answered yet; nothing was sent now")
    return False


async def known_in_time(answered: Callable[[], Awaitable[bool]], call: Call) -> bool:
    """Whether an earlier create answers; no if that cannot be said in time.

    Then the user is asked, perhaps for nothing: what exists is found all the same.
    """
    with anyio.move_on_after(asking_s(call)):
        return await answered()
    return False


def asking_s(call: Call) -> float:
    """How long may be spent on knowing whether to ask."""
    return min(ASKING_S, allowed_wait_s(None, call) / 2)


def _approval_in(answer: ElicitationResult[Approval]) -> PriceApproval:
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
