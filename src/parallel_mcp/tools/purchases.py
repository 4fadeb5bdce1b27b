"""Buying other things than runs and groups in a call: asked about first where the price calls for it."""

from __future__ import annotations

from functools import partial
from typing import Any

from parallel_mcp.tasks.buying import Purchase, is_answered
from parallel_mcp.tools.approval import calls_for_question, known_in_time, offer_unless
from parallel_mcp.tools.call import Call, Offer


async def offer_of_purchase(purchase: Purchase[Any], question: str, call: Call, *, anew: bool = False) -> Offer:
    """With a question, if the price calls for one, the client can be asked, and no earlier purchase answers."""
    price_usd = purchase.intent.price_usd
    if not calls_for_question(price_usd, call):
        return Offer()
    answered = partial(known_in_time, partial(is_answered, call.app.creator, purchase), call)
    return await offer_unless(answered, question, price_usd, call, anew=anew)
