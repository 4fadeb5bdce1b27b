"""The generators of FindAll and what is published about them (API reference, sections 5.3 and 16)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Literal

GeneratorName = Literal["base", "core", "pro", "preview"]
LEAST_MATCHES, MOST_MATCHES = 5, 1000


@dataclass(frozen=True)
class Generator:
    """One generator.

    Attributes:
        price_mills: Price of a run in thousandths of a dollar, however much it finds.
        match_mills: Price of each match.
        most_matches: The highest match limit.
        most_candidates: How many candidates it looks at, None for as many as it takes.
        is_final: A run cannot be enriched, extended or cancelled.
        shortest_s, longest_s: How long a run takes, in simulated seconds. Not published.
        match_share: The share of candidates that match. Not published.
    """

    price_mills: int
    match_mills: int
    shortest_s: float
    longest_s: float
    match_share: float
    most_matches: int = MOST_MATCHES
    most_candidates: int | None = None
    is_final: bool = False

    def latency_s(self, dice: Random) -> float:
        """Draw how long a run takes, log-uniformly, in simulated seconds."""
        return math.exp(dice.uniform(math.log(self.shortest_s), math.log(self.longest_s)))


GENERATORS: Mapping[GeneratorName, Generator] = MappingProxyType(
    {
        "preview": Generator(100, 0, 20, 60, 0.6, most_matches=10, most_candidates=10, is_final=True),
        "base": Generator(250, 30, 60, 300, 0.45),
        "core": Generator(2_000, 150, 120, 600, 0.5),
        "pro": Generator(10_000, 1_000, 300, 1_800, 0.55),
    }
)
