"""Buying other things than task runs, by the same rules: look into the ledger, reserve, send once, write down."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

from parallel_mcp.errors import NotFound, OutcomeUnknown, StillChanging, StillCreating, UpstreamError
from parallel_mcp.ledger import Entry, Intent, KeyConflict, Known, New
from parallel_mcp.tasks.creating import LONGEST_CREATE_S, NOTHING_NEW, SHOWN_WITHIN_S, Creator, Prepare, Send
from parallel_mcp.tasks.turns import LONGEST_ADDITION_S, check_age, open_in_turn

_Made = TypeVar("_Made")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found(Generic[_Made]):
    """What an earlier purchase made, and whether it is still active, so that an equal request means it."""

    made: _Made
    is_active: bool


@dataclass(frozen=True)
class Purchase(Generic[_Made]):
    """Something to be bought: `what` it is in words, how to order it, how to `find` what an entry of an equal one made.

    Those whose intents name the same `group_id` are sent one after the other.
    """

    intent: Intent
    what: str
    prepare: Prepare[_Made]
    find: Callable[[Entry], Awaitable[Found[_Made]]]


@dataclass(frozen=True)
class Bought(Generic[_Made]):
    """What there is now, whether an earlier purchase made it, and if so, whether the idempotency key has led to it."""

    made: _Made
    deduplicated: bool
    by_key: bool = False


def fingerprint(kind: str, request: Mapping[str, Any]) -> str:
    """A digest of a request: equal requests of a kind, equal fingerprints."""
    canonical = json.dumps({"kind": kind, **request}, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


async def bought(
    creator: Creator, purchase: Purchase[_Made], *, force_new: bool = False, approved_usd: float = 0
) -> Bought[_Made]:
    """Buy something, or give what an earlier, equal purchase made; equal is as in `Creator.create`.

    Raises:
        ResearchError: As `Creator.create`.
    """
    intent = purchase.intent
    limits = creator.limits(intent.price_usd, approved_usd=approved_usd)
    passed_over: frozenset[str] = frozenset()
    while True:
        match await creator.begun(intent, limits, passed_over):
            case New(entry_id=entry_id):
                in_turn = partial(_prepared_in_turn, creator, purchase, entry_id)
                made = await creator.send_once(entry_id, in_turn if intent.group_id else purchase.prepare)
                return Bought(made, deduplicated=False)
            case Known(entry=entry, by_key=by_key):
                if by_key or not force_new:
                    found = await _found(creator, purchase, entry)
                    if found is None:  # it failed
                        continue
                    if by_key or found.is_active:
                        return Bought(found.made, deduplicated=True, by_key=by_key)
                passed_over |= {entry.entry_id}
            case no:
                raise creator.refusal(no, intent, limits, purchase.what)


def is_gone(entry: Entry, error: UpstreamError) -> bool:
    """Whether what cannot be read exists no more. What the API does not show yet, or not just now, is not lost."""
    logger.info("What an earlier call has made could not be read: %s", error)
    return isinstance(error, NotFound) and entry.age_s > SHOWN_WITHIN_S


async def is_answered(creator: Creator, purchase: Purchase[_Made]) -> bool:
    """Whether an earlier purchase answers this one, so that nothing will be bought."""
    match await creator.begun(purchase.intent, NOTHING_NEW, frozenset()):
        case Known(entry=entry, by_key=False) if entry.state == "created":
            return (await purchase.find(entry)).is_active
        case begun:
            return isinstance(begun, Known | KeyConflict)


async def _prepared_in_turn(creator: Creator, purchase: Purchase[_Made], entry_id: str) -> Send[_Made]:
    """Prepare an addition once what was begun before it is answered: that decides what it adds and costs.

    The ledger has announced it to those that come after, and knows the order, so of two processes one always goes on.

    Raises:
        StillChanging: Another process is adding to it, or an answer was lost so lately that it may still change.
    """
    intent = purchase.intent
    still_open = await open_in_turn(creator, intent.owner, intent.group_id, entry_id)
    if any(entry.age_s < LONGEST_ADDITION_S for entry in still_open):
        raise StillChanging("Another addition to it was sent just now, and its outcome is not known yet")
    send = await purchase.prepare()
    await check_age(creator, entry_id)
    return send


async def _found(creator: Creator, purchase: Purchase[_Made], entry: Entry) -> Found[_Made] | None:
    """What an earlier purchase made; None if that turned out to have failed.

    Raises:
        OutcomeUnknown: Nobody knows whether it made anything.
    """
    if made := creator.on_its_way(entry.entry_id):
        return Found(cast("_Made", await made()), is_active=True)  # equal requests make the same kind of thing
    settled = await creator.settled_elsewhere(entry)
    if settled is None or settled.state == "failed":
        return None
    if settled.state == "created":
        return await purchase.find(settled)
    if settled.state == "intent" and settled.age_s < LONGEST_CREATE_S:
        raise StillCreating("An equal create is on its way in another process; nothing was sent now")
    raise OutcomeUnknown("An equal create was sent before, and its outcome is unknown; nothing was sent now")
