"""What FindAll costs, as purchases of an account (API reference, section 5.3)."""

from __future__ import annotations

from dataclasses import dataclass

from parallel_mcp.simulator.findall import FindAll


@dataclass(frozen=True)
class Search:
    """A search for so many matches, behind the first `after`. A failed one costs nothing."""

    findall: FindAll
    fixed_mills: int
    match_mills: int
    after: int
    most: int

    @property
    def price_mills(self) -> int:
        return self.fixed_mills + self.match_mills * self.most

    def is_active_at(self, moment: float) -> bool:
        return self.findall.is_active

    def cost_mills_at(self, moment: float) -> int:
        if self.findall.status == "failed":
            return 0
        found = min(max(self.findall.matched - self.after, 0), self.most)
        return self.fixed_mills + self.match_mills * found


@dataclass(frozen=True)
class Enrichment:
    """An enrichment of every match, at the price of a task run each."""

    findall: FindAll
    number: int
    run_mills: int
    most: int

    @property
    def price_mills(self) -> int:
        return self.run_mills * self.most

    def is_active_at(self, moment: float) -> bool:
        return self.findall.is_active

    def cost_mills_at(self, moment: float) -> int:
        return self.run_mills * self.findall.enriched_with(self.number)
