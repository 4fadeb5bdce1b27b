"""What the ledger tests write down, and how they do it many times at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from parallel_mcp.ledger import HOUR_S, Begun, Entry, Intent, Known, Ledger, Limits, New, Spent

NO_LIMITS = Limits()

_T = TypeVar("_T")


def an_intent(
    request: str = "what is the tallest tree",
    *,
    owner: str = "owner-1",
    key: str = "",
    price_usd: float = 0.1,
    lasts_s: float = HOUR_S,
    title: str = "",
    runs: int = 1,
    group_id: str = "",
) -> Intent:
    """An intent to create; equal requests are the same request."""
    return Intent(
        owner=owner,
        fingerprint=f"fingerprint of {request}",
        idempotency_key=key,
        processor="core",
        price_usd=price_usd,
        lasts_s=lasts_s,
        title=title,
        runs=runs,
        group_id=group_id,
    )


async def begun(ledger: Ledger, intent: Intent, limits: Limits = NO_LIMITS) -> str:
    """The id of an entry that must be new."""
    answer = await ledger.begin(intent, limits)
    assert isinstance(answer, New), answer
    return answer.entry_id


async def created(ledger: Ledger, intent: Intent, handle: str) -> str:
    """The id of an entry whose run is known."""
    entry_id = await begun(ledger, intent)
    await ledger.settle(entry_id, "created", handle)
    return entry_id


def known(answer: Begun) -> Entry:
    """The earlier entry that answered."""
    assert isinstance(answer, Known), answer
    return answer.entry


async def spent(ledger: Ledger, owner: str = "owner-1") -> Spent:
    """What an owner spent, without the dust of adding binary fractions."""
    spent = await ledger.spent(owner)
    return Spent(round(spent.usd_last_hour, 9), round(spent.usd_last_day, 9))


async def at_once(calls: list[Callable[[], Awaitable[_T]]]) -> list[_T]:
    """The answers to calls that were all made before any was answered."""
    answers: list[_T] = []

    async def one(call: Callable[[], Awaitable[_T]]) -> None:
        answers.append(await call())

    async with anyio.create_task_group() as calling:
        for call in calls:
            calling.start_soon(one, call)
    return answers
