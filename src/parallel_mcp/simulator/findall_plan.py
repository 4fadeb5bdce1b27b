"""What a FindAll run will come upon: candidates, their verdicts, and why it ends (API reference, section 16)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from parallel_mcp.simulator.stories import TerminationReason

CandidateStatus = Literal["generated", "matched", "unmatched", "discarded"]
LEFT_OVER = 2
GIVES_UP_AFTER = 10
CUT_SHORT: frozenset[TerminationReason] = frozenset({"error_occurred", "timeout", "insufficient_funds"})


@dataclass(frozen=True)
class Step:
    """A candidate gets a status. `share` is when, between the start of the search (0) and its end (1)."""

    share: float
    place: int
    status: CandidateStatus


@dataclass(frozen=True)
class Plan:
    """One stretch of searching: its steps in order of time, and the reason it ends for."""

    steps: list[Step]
    reason: TerminationReason
    next_place: int


@dataclass(frozen=True)
class Planner:
    """Draws plans.

    Attributes:
        most_candidates: How many candidates there are at all; None for endlessly many.
        most_matches: How many of them match at all.
        ends: A reason to end for, whatever is found.
    """

    match_share: float
    most_candidates: int | None
    most_matches: int | None
    ends: TerminationReason | None

    def plan(self, places: Iterator[int], dice: Random, *, wanted: int, generated: int, matched: int) -> Plan:
        """Plan the search for further matches.

        Args:
            places: The candidates still to come.
            dice: For the verdicts and the times.
            wanted: How many further matches to find.
            generated, matched: How many candidates and matches there are already.
        """
        verdicts, reason = self._verdicts(places, dice, wanted, generated, matched)
        if self.ends in CUT_SHORT:
            verdicts = verdicts[: len(verdicts) // 2]
        steps = [
            step for position, verdict in enumerate(verdicts) for step in _steps(verdict, position, verdicts, dice)
        ]
        if reason == "match_limit_met" and self.most_candidates is None and self.ends not in CUT_SHORT:
            steps += [
                step
                for place in (next(places) for _ in range(LEFT_OVER))
                for step in (Step(0.9, place, "generated"), Step(0.99, place, "discarded"))
            ]
        steps.sort(key=lambda step: step.share)
        return Plan(steps, self.ends or reason, next(places))

    def _verdicts(
        self, places: Iterator[int], dice: Random, wanted: int, generated: int, matched: int
    ) -> tuple[list[tuple[int, CandidateStatus]], TerminationReason]:
        verdicts: list[tuple[int, CandidateStatus]] = []
        found = in_vain = 0
        while found < wanted:
            if self.most_candidates is not None and generated + len(verdicts) >= self.most_candidates:
                return verdicts, "candidates_exhausted"
            if in_vain >= GIVES_UP_AFTER and self._has_no_more(matched + found):
                return verdicts, "low_match_rate"
            fits = dice.random() < self.match_share and not self._has_no_more(matched + found)
            verdicts.append((next(places), "matched" if fits else "unmatched"))
            found += fits
            in_vain = 0 if fits else in_vain + 1
        return verdicts, "match_limit_met"

    def _has_no_more(self, matched: int) -> bool:
        return self.most_matches is not None and matched >= self.most_matches


def _steps(
    verdict: tuple[int, CandidateStatus], position: int, verdicts: list[tuple[int, CandidateStatus]], dice: Random
) -> tuple[Step, Step]:
    """Spread the candidates over the first part of the search; each waits some time for its verdict."""
    place, status = verdict
    generated_at = 0.02 + 0.8 * position / len(verdicts)
    return Step(generated_at, place, "generated"), Step(generated_at + dice.uniform(0.03, 0.15), place, status)
