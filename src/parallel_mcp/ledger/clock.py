"""The time by which a ledger measures ages: it goes on across processes and restarts, and no clock setting moves it."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Reading:
    """The clocks of one machine. `uptime_s` is comparable among readings with the same `boot`."""

    boot: str
    uptime_s: float
    wall_s: float


class Clock(Protocol):
    """Reads the clocks; tests give their own."""

    def __call__(self) -> Reading: ...


def system_clock() -> Reading:
    """The clocks of this machine."""
    return Reading(_boot(), _uptime_s(), time.time())


def advanced(ledger_s: float, last: Reading, now: Reading) -> float:
    """The ledger's time after `last` was read at `ledger_s`.

    Within one boot only the uptime counts. Between boots, or machines, there is nothing but the wall clock to go by.
    """
    if now.boot == last.boot and now.uptime_s >= last.uptime_s:
        return ledger_s + now.uptime_s - last.uptime_s
    return ledger_s + max(0.0, now.wall_s - last.wall_s)


def _uptime_s() -> float:
    """Time since the machine was started. Asleep counts, or last night's spending would still fill today's budget."""
    with_sleep: int | None = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return time.monotonic() if with_sleep is None else time.clock_gettime(with_sleep)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()
