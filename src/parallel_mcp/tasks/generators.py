"""What each generator of FindAll costs.

Source: the price table of Parallel's documentation as of May 2026 (API reference, other prices). How long a run takes
is not published.
"""

from dataclasses import dataclass
from typing import Literal

GeneratorName = Literal["preview", "base", "core", "pro"]
LEAST_MATCHES, MOST_MATCHES = 5, 1_000
USUAL_S = 3_600.0  # after which a run that nobody has looked at no longer counts as active


@dataclass(frozen=True)
class Generator:
    """The fixed price of a run, the price of each match, and the highest match limit."""

    name: str
    fixed_usd: float
    match_usd: float
    most_matches: int = MOST_MATCHES

    def most_usd(self, match_limit: int) -> float:
        """The most that a run with this limit costs."""
        return round(self.fixed_usd + self.match_usd * match_limit, 6)


GENERATORS: dict[str, Generator] = {
    generator.name: generator
    for generator in (
        Generator("preview", 0.10, 0.0, most_matches=10),
        Generator("base", 0.25, 0.03),
        Generator("core", 2.00, 0.15),
        Generator("pro", 10.00, 1.00),
    )
}
