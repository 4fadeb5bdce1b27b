"""Credit and quotas (API reference, sections 3.4 and 5.1)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.config import SimulatorConfig
from parallel_mcp.simulator.errors import PAYMENT_REQUIRED, TOO_MANY, Refused
from parallel_mcp.simulator.runs import Run

MILLS = 1000
MINUTE_S = 60.0


class Quota:
    """So many POSTs a minute, refused ones not counted; a POST that creates a thousand runs is one POST."""

    def __init__(self, per_minute: int, clock: Clock, *, tells_when: bool) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._tells_when = tells_when
        self._admitted: deque[float] = deque()

    def admit(self) -> None:
        """Count a request.

        Raises:
            Refused: 429, the quota of this minute is used up.
        """
        now = self._clock.now()
        minute = self._clock.real_seconds(MINUTE_S)
        while self._admitted and self._admitted[0] <= now - minute:
            self._admitted.popleft()
        if len(self._admitted) >= self._per_minute:
            raise Refused(429, TOO_MANY, self._retry_after(now, minute))
        self._admitted.append(now)

    def _retry_after(self, now: float, minute: float) -> dict[str, str]:
        if not self._tells_when:
            return {}
        free_at = self._admitted[0] + minute if self._admitted else now + minute
        return {"Retry-After": str(max(1, math.ceil(free_at - now)))}


class Account:
    """Credit. The price of a run is reserved when it is created (checklist 10).

    A run that completes uses its reservation up, unless `charge_completed` is off; any other end gives it back.
    """

    def __init__(self, config: SimulatorConfig, clock: Clock) -> None:
        self._clock = clock
        self._charges = config.charge_completed
        self._credit_mills = round(config.balance_usd * MILLS)
        self._reserved_mills = 0
        self._reserving: list[Run] = []

    def require(self, prices_mills: Sequence[int]) -> None:
        """Make sure that the credit covers these prices on top of what is reserved.

        Raises:
            Refused: 402, it does not.
        """
        needed = sum(prices_mills)
        if needed > self._available():
            self._release_ended()
        if needed > self._available():
            raise Refused(402, PAYMENT_REQUIRED)

    def reserve(self, run: Run) -> None:
        self._reserved_mills += run.processor.price_mills
        self._reserving.append(run)

    def _available(self) -> int:
        return self._credit_mills - self._reserved_mills

    def _release_ended(self) -> None:
        now = self._clock.now()
        for run in self._reserving:
            if not run.is_active_at(now):
                self._reserved_mills -= run.processor.price_mills
                if self._charges and run.status_at(now) == "completed":
                    self._credit_mills -= run.processor.price_mills
        self._reserving = [run for run in self._reserving if run.is_active_at(now)]
