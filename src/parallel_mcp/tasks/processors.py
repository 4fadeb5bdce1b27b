"""What each processor costs, usually takes, and how many fields it handles.

Source: the price and latency tables of Parallel's documentation as of May 2026 (API reference, task processors).
"""

from dataclasses import dataclass
from typing import Literal, get_args

ProcessorName = Literal[
    "lite",
    "lite-fast",
    "base",
    "base-fast",
    "core",
    "core-fast",
    "core2x",
    "core2x-fast",
    "pro",
    "pro-fast",
    "ultra",
    "ultra-fast",
    "ultra2x",
    "ultra2x-fast",
    "ultra4x",
    "ultra4x-fast",
    "ultra8x",
    "ultra8x-fast",
]


@dataclass(frozen=True)
class Processor:
    """Price of a run, the range in which runs usually end, and about how many output fields it handles."""

    name: str
    price_usd: float
    fastest_s: int
    slowest_s: int
    most_fields: int

    @property
    def usual_duration(self) -> str:
        """For a reader: `10 s to 60 s`."""
        return f"{_duration(self.fastest_s)} to {_duration(self.slowest_s)}"


_FAMILIES: dict[str, tuple[float, tuple[int, int], tuple[int, int], int]] = {
    # name: price in dollars, usual seconds, usual seconds of the -fast variant (same price), output fields
    "lite": (0.005, (10, 60), (10, 20), 2),
    "base": (0.010, (15, 100), (15, 50), 5),
    "core": (0.025, (60, 300), (15, 100), 10),
    "core2x": (0.050, (60, 600), (15, 180), 10),
    "pro": (0.100, (120, 600), (30, 300), 20),
    "ultra": (0.300, (300, 1_500), (60, 600), 20),
    "ultra2x": (0.600, (300, 3_000), (60, 1_200), 25),
    "ultra4x": (1.200, (300, 5_400), (60, 2_400), 25),
    "ultra8x": (2.400, (300, 7_200), (60, 3_600), 25),
}


def processor_named(name: str) -> Processor | None:
    """The processor of that name, or None."""
    family, _, variant = name.partition("-")
    if name not in get_args(ProcessorName):
        return None
    price_usd, usual, usual_fast, most_fields = _FAMILIES[family]
    return Processor(name, price_usd, *(usual_fast if variant else usual), most_fields)


def enough_for(fields: int) -> str:
    """The cheapest processor that handles so many output fields; empty if none does."""
    return next((name for name, (*_, most_fields) in _FAMILIES.items() if most_fields >= fields), "")


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7_200 else f"{seconds // 3_600} h"
