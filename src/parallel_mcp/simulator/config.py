"""Every setting of the simulator."""

from __future__ import annotations

import math
from dataclasses import dataclass

from parallel_mcp.simulator.stories import read_story


@dataclass(frozen=True)
class SimulatorConfig:
    """How a simulator behaves. A speed or a default story that makes no sense is a ValueError.

    Attributes:
        seed: Same seed, same requests in the same order: same ids, durations and texts.
        speed: 60 makes a simulated minute pass in a second: for all that runs, search, extract, the life of streams
            and the spans of the rate limits. A `timeout` sent by a caller is the caller's own time: real seconds.
        api_keys: Keys that are accepted; None accepts every non-empty one.
        balance_usd: Credit at the start.
        charge_completed: Completed runs use up credit. False gives the whole reservation back at the end.
        creates_per_minute: POSTs that create runs, single or in a group, before 429.
        searches_per_minute: Search POSTs before 429; extract POSTs are counted apart, with the same limit.
        findalls_per_hour: POSTs that create FindAll runs before 429; entity searches have the quota of searches.
        monitors_per_minute: POSTs that create monitors before 429.
        retry_after: Send `Retry-After` with 429. Off, as the API documents none.
        strict_beta: Answer 422 when a feature is used without its `parallel-beta` value (checklist 5).
        accept_bearer: Take the key from `Authorization: Bearer` as well (checklist 2).
        omit_nulls: Leave out optional nulls, as the samples of the OpenAPI document do (checklist 4).
        default_story: Story words for runs, FindAll runs and monitors that choose none; see `stories`.
    """

    seed: int = 0
    speed: float = 1.0
    api_keys: frozenset[str] | None = None
    balance_usd: float = 1000.0
    charge_completed: bool = True
    creates_per_minute: int = 2000
    searches_per_minute: int = 600
    findalls_per_hour: int = 300
    monitors_per_minute: int = 300
    retry_after: bool = False
    strict_beta: bool = False
    accept_bearer: bool = False
    omit_nulls: bool = False
    default_story: str = ""

    def __post_init__(self) -> None:
        if not (self.speed > 0 and math.isfinite(self.speed)):
            raise ValueError(f"speed must be a positive number, not {self.speed}")
        read_story(self.default_story)
