"""The processors and what is published about them (API reference, section 5.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType


@dataclass(frozen=True)
class Processor:
    """One processor.

    Attributes:
        shortest_s: Lower end of its latency, in simulated seconds.
        longest_s: Upper end of its latency.
        most_fields: Output fields beyond which a warning is given.
        price_mills: Price of a run in thousandths of a dollar.
        researches_deeply: `pro` and above: events on by default, structured answers in auto mode.
        most_messages: How many progress messages its event stream has at most (checklist 23).
    """

    name: str
    shortest_s: float
    longest_s: float
    most_fields: int
    price_mills: int
    researches_deeply: bool
    most_messages: int

    def latency_s(self, dice: Random) -> float:
        """Draw a latency, log-uniformly, in simulated seconds."""
        return math.exp(dice.uniform(math.log(self.shortest_s), math.log(self.longest_s)))


_MINUTE = 60.0
_HOUR = 3600.0

# name, latency, latency of the -fast variant, soft maximum of fields, dollars per 1,000 runs
_PUBLISHED: tuple[tuple[str, tuple[float, float], tuple[float, float], int, int], ...] = (
    ("lite", (10, _MINUTE), (10, 20), 2, 5),
    ("base", (15, 100), (15, 50), 5, 10),
    ("core", (_MINUTE, 5 * _MINUTE), (15, 100), 10, 25),
    ("core2x", (_MINUTE, 10 * _MINUTE), (15, 3 * _MINUTE), 10, 50),
    ("pro", (2 * _MINUTE, 10 * _MINUTE), (30, 5 * _MINUTE), 20, 100),
    ("ultra", (5 * _MINUTE, 25 * _MINUTE), (_MINUTE, 10 * _MINUTE), 20, 300),
    ("ultra2x", (5 * _MINUTE, 50 * _MINUTE), (_MINUTE, 20 * _MINUTE), 25, 600),
    ("ultra4x", (5 * _MINUTE, 90 * _MINUTE), (_MINUTE, 40 * _MINUTE), 25, 1200),
    ("ultra8x", (5 * _MINUTE, 2 * _HOUR), (_MINUTE, _HOUR), 25, 2400),
)
_MOST_MESSAGES = {"lite": 0, "base": 3}


def _table() -> Mapping[str, Processor]:
    processors: dict[str, Processor] = {}
    for name, latency, fast_latency, fields, price in _PUBLISHED:
        deep = name.startswith(("pro", "ultra"))
        most_messages = _MOST_MESSAGES.get(name, 1000)
        for variant, (shortest, longest) in ((name, latency), (f"{name}-fast", fast_latency)):
            processors[variant] = Processor(variant, shortest, longest, fields, price, deep, most_messages)
    return MappingProxyType(processors)


PROCESSORS: Mapping[str, Processor] = _table()
