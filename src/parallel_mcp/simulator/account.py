"""Credit and quotas (API reference, sections 3.4, 5.1 and 5.3)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.config import SimulatorConfig
from parallel_mcp.simulator.errors import PAYMENT_REQUIRED, TOO_MANY, Refused

MILLS = 1000
MINUTE_S = 60.0
HOUR_S = 3600.0


class Quota:
    """So many POSTs a span of time, refused ones not counted; a POST that creates a thousand runs is one POST."""

    def __init__(self, most: int, clock: Clock, *, span_s: float = MINUTE_S, tells_when: bool) -> None:
        self._most = most
        self._span_s = span_s
        self._clock = clock
        self._tells_when = tells_when
        self._admitted: deque[float] = deque()

    def admit(self) -> None:
        """Count a request.

        Raises:
            Refused: 429, the quota is used up.
        """
        now = self._clock.now()
        span = self._clock.real_seconds(self._span_s)
        while self._admitted and self._admitted[0] <= now - span:
            self._admitted.popleft()
        if len(self._admitted) >= self._most:
            raise Refused(429, TOO_MANY, self._retry_after(now, span))
        self._admitted.append(now)

    def _retry_after(self, now: float, span: float) -> dict[str, str]:
        if not self._tells_when:
            return {}
        free_at = self._admitted[0] + span if self._admitted else now + span
        return {"Retry-After": str(max(1, math.ceil(free_at - now)))}


class Purchase(Protocol):
    """What is paid for: a run, or a part of a FindAll run."""

    @property
    def price_mills(self) -> int:
        """What it may cost at most; this is reserved. It never changes."""
        ...

    def is_active_at(self, moment: float) -> bool: ...

    def cost_mills_at(self, moment: float) -> int:
        """What it did cost, once it is no longer active."""
        ...


class Account:
    """Credit. The price of a run is reserved when it is created (checklist 10).

    What it did cost is charged at its end, unless `charge_completed` is off; the rest of the reservation is given back.
    """

    def __init__(self, config: SimulatorConfig, clock: Clock) -> None:
        self._clock = clock
        self._charges = config.charge_completed
        self._credit_mills = round(config.balance_usd * MILLS)
        self._reserved_mills = 0
        self._reserving: list[Purchase] = []

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

    def reserve(self, purchase: Purchase) -> None:
        self._reserved_mills += purchase.price_mills
        self._reserving.append(purchase)

    def _available(self) -> int:
        return self._credit_mills - self._reserved_mills

    def _release_ended(self) -> None:
        now = self._clock.now()
        reserving, self._reserving = self._reserving, []
        for purchase in reserving:
            if purchase.is_active_at(now):
                self._reserving.append(purchase)
                continue
            self._reserved_mills -= purchase.price_mills
            self._credit_mills -= purchase.cost_mills_at(now) if self._charges else 0
