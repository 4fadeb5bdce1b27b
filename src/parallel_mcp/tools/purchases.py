"""Buying other things than runs and groups in a call: asked about first where the price calls for it."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from parallel_mcp.tasks.buying import Bought, Purchase, bought, is_answered
from parallel_mcp.tools.approval import calls_for_question, known_in_time, offer_unless
from parallel_mcp.tools.call import Call, Offer
from parallel_mcp.tools.tasks import bought_by

_Made = TypeVar("_Made")


async def offer_of_purchase(purchase: Purchase[Any], question: str, call: Call, *, anew: bool = False) -> Offer:
    """With a question, if the price calls for one, the client can be asked, and no earlier purchase answers."""
    price_usd = purchase.intent.price_usd
    if not calls_for_question(price_usd, call):
        return Offer()
    answered = partial(known_in_time, partial(is_answered, call.app.creator, purchase), call)
    return await offer_unless(answered, question, price_usd, call, anew=anew)


async def purchased_by(
    deadline: float, purchase: Purchase[_Made], call: Call, *, force_new: bool = False
) -> Bought[_Made]:
    """What a call buys, or finds bought; raises as `bought_by` and `bought`."""
    buy = partial(bought, call.app.creator, purchase, force_new=force_new, approved_usd=call.approved_usd)
    return await bought_by(deadline, buy, purchase.intent.price_usd, call)
