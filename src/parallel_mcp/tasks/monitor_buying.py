"""Starting monitors, each once. A monitor costs until it is cancelled; here its price is that of its first 30 days."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import TYPE_CHECKING, Literal

from parallel_mcp.api.monitor_models import Monitor, MonitorInput
from parallel_mcp.errors import InvalidArguments, OutcomeUnknown, UpstreamError
from parallel_mcp.ledger import Entry, Intent
from parallel_mcp.tasks.buying import Found, Purchase, fingerprint, is_gone
from parallel_mcp.tasks.creating import Outcome, at_once

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi
    from parallel_mcp.api.monitors import MonitorApi

MonitorProcessor = Literal["lite", "base"]
# Source: the price table of Parallel's documentation as of May 2026 (API reference, other prices).
EXECUTION_USD: dict[str, float] = {"lite": 0.003, "base": 0.010}
LEDGER_NAME = "monitor {}"

_HOURS = {"h": 1, "d": 24, "w": 168}
_LONGEST_H = 30 * 24


def hours_of(frequency: str) -> int:
    """The hours between two executions.

    Raises:
        InvalidArguments: Not a number and h, d or w, or not between 1h and 30d.
    """
    form = re.fullmatch(r"([0-9]{1,3})([hdw])", frequency)
    hours = int(form[1]) * _HOURS[form[2]] if form else 0
    if not 1 <= hours <= _LONGEST_H:
        raise InvalidArguments("`frequency`: a number and h, d or w, from 1h to 30d, such as 12h, 1d or 2w.")
    return hours


def month_usd(processor: str, frequency: str) -> float | None:
    """What a monitor costs in 30 days; None if that is not known."""
    try:
        executions = math.ceil(_LONGEST_H / hours_of(frequency))
    except InvalidArguments:
        return None
    return round(executions * EXECUTION_USD[processor], 6) if processor in EXECUTION_USD else None


def new_monitor(
    api: ParallelApi, monitor: MonitorInput, *, owner: str, idempotency_key: str = "", title: str = ""
) -> Purchase[Monitor]:
    """A monitor, which counts for what it costs in 30 days.

    Raises:
        InvalidArguments: The frequency is none.
    """
    hours_of(monitor.frequency)
    price_usd = month_usd(monitor.processor, monitor.frequency)
    assert price_usd is not None  # the frequency is checked here, the processor by the schema of the tool
    intent = Intent(
        owner=owner,
        fingerprint=fingerprint("monitor", monitor.body()),
        idempotency_key=idempotency_key,
        processor=LEDGER_NAME.format(monitor.processor),
        price_usd=price_usd,
        lasts_s=0,
        title=title,
        runs=0,  # the limit of active runs is about runs
    )
    what = f"A monitor with {monitor.processor} every {monitor.frequency}, reckoned for 30 days,"
    send = partial(_started, api.monitors, monitor)
    return Purchase(intent, what, at_once(send), partial(_found, api.monitors))


async def _started(api: MonitorApi, monitor: MonitorInput) -> Outcome[Monitor]:
    try:
        made = await api.create(monitor)
    except OutcomeUnknown as error:
        raise OutcomeUnknown(
            f"{error} list_monitors shows it if it was created", quote=error.quote, ref_id=error.ref_id
        ) from error
    return Outcome(made, made.monitor_id)


async def _found(api: MonitorApi, entry: Entry) -> Found[Monitor]:
    """A monitor that is known to have been made. One that cannot be read just now counts as active."""
    try:
        monitor = await api.retrieve(entry.handle)
    except UpstreamError as error:
        monitor = Monitor(monitor_id=entry.handle, status="not_found" if is_gone(entry, error) else "unknown")
    return Found(monitor, monitor.is_active)
