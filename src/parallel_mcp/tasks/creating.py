"""Creating a run so that nothing is bought twice: look into the ledger, reserve, send once, write the outcome down."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from parallel_mcp.api.models import TaskRun, TaskRunInput
from parallel_mcp.errors import IdempotencyConflict, OutcomeUnknown, OverBudget, ResearchError
from parallel_mcp.ledger import Entry, Intent, KeyConflict, Known, Ledger, LimitReached, Limits, New
from parallel_mcp.settings import Settings, env_name
from parallel_mcp.tasks.processors import Processor

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

_OWNER_SALT = b"parallel-mcp ledger owner v1"


@dataclass(frozen=True)
class Creation:
    """A run that exists, and whether this call created it."""

    run: TaskRun
    deduplicated: bool


def owner_of(key: SecretStr) -> str:
    """Who an entry belongs to: a hash of the API key, from which the key cannot be read back."""
    return hmac.new(_OWNER_SALT, key.get_secret_value().encode(), hashlib.sha256).hexdigest()[:32]


async def create_run(
    api: ParallelApi,
    ledger: Ledger,
    settings: Settings,
    intent: Intent,
    request: TaskRunInput,
    *,
    force_new: bool = False,
) -> Creation:
    """Create a run, or return the one that an earlier, equal create made.

    Equal is: the same idempotency key, for a day; without one, the same request within ten minutes, while its run is
    active. `force_new` sets the second rule aside.

    Raises:
        OverBudget: Before anything is sent.
        IdempotencyConflict: The key belongs to another request; nothing is sent.
        OutcomeUnknown: Sent, now or by the earlier equal create, with an answer that was lost.
        UpstreamError: Refused; nothing was created.
    """
    _check_price_of_call(intent, settings)
    limits = Limits(settings.max_usd_per_hour, settings.max_usd_per_day)
    passed_over: frozenset[str] = frozenset()
    while True:
        match await ledger.begin(intent, limits, ignore=passed_over):
            case New(entry_id=entry_id):
                return Creation(await _send(api, ledger, entry_id, request), deduplicated=False)
            case Known(entry=entry, by_key=by_key):
                if entry.state == "intent":
                    await ledger.settled(entry.entry_id)
                elif not by_key and force_new:
                    passed_over |= {entry.entry_id}
                elif (run := await _run_of(api, entry)) and (by_key or run.is_active):
                    return Creation(run, deduplicated=True)
                else:
                    passed_over |= {entry.entry_id}
            case KeyConflict():
                raise IdempotencyConflict("This idempotency_key was already used for another request")
            case LimitReached() as reached:
                raise _over_budget(intent, reached)


def fingerprint_of(request: TaskRunInput) -> str:
    """A digest of the request as it would be sent: equal requests, equal fingerprints."""
    canonical = json.dumps(request.body(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def priced(processor: Processor, count: int = 1) -> float:
    """The price of so many runs, in dollars."""
    return round(processor.price_usd * count, 6)


async def _send(api: ParallelApi, ledger: Ledger, entry_id: str, request: TaskRunInput) -> TaskRun:
    outcome, handle = "unknown", ""
    try:
        run = await api.create_run(request)
        outcome, handle = "created", run.run_id
        return run
    except OutcomeUnknown:
        raise
    except ResearchError:
        outcome = "failed"
        raise
    finally:
        await ledger.settle(entry_id, outcome, handle)


async def _run_of(api: ParallelApi, entry: Entry) -> TaskRun:
    if entry.state == "unknown":
        raise OutcomeUnknown("An equal create was sent before, and its outcome is unknown; nothing was sent now")
    return await api.retrieve_run(entry.handle)


def _check_price_of_call(intent: Intent, settings: Settings) -> None:
    if settings.max_usd_per_call and intent.price_usd > settings.max_usd_per_call:
        raise OverBudget(
            f"{intent.processor} costs ${intent.price_usd:.3f} a run, above the limit of "
            f"${settings.max_usd_per_call:.2f} for one call ({env_name('max_usd_per_call')}). Nothing was sent"
        )


def _over_budget(intent: Intent, reached: LimitReached) -> OverBudget:
    minutes = reached.frees_in_s / 60
    wait = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    return OverBudget(
        f"${intent.price_usd:.3f} more would exceed the limit of ${reached.limit_usd:.2f} per {reached.period} "
        f"({env_name(f'max_usd_per_{reached.period}')}): ${reached.spent_usd:.3f} are spent or reserved. "
        f"Nothing was sent. Room for it is free in {wait} at the earliest"
    )
