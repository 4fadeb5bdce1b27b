"""How a candidate is written: its verdicts, its enrichments, and the basis of both (API reference, section 16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from parallel_mcp.simulator.basis import BasisWriter
from parallel_mcp.simulator.dossiers import Dossier
from parallel_mcp.simulator.entities import Entities
from parallel_mcp.simulator.fields import FieldWriter
from parallel_mcp.simulator.findall_bodies import EnrichRequest, FindAllRequest
from parallel_mcp.simulator.findall_plan import CandidateStatus
from parallel_mcp.simulator.identities import uuid_of
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.stories import Story

FAILED_CONDITION_SHARE = 0.5


@dataclass(frozen=True)
class CandidateState:
    """A candidate as of some moment: its place among the entities, its status, which enrichments it has."""

    place: int
    status: CandidateStatus
    enriched: tuple[int, ...] = ()


@dataclass(frozen=True)
class CandidateWriter:
    """Writes the candidates of one FindAll run, each time anew: what is kept of a candidate is its state."""

    findall_id: str
    body: FindAllRequest
    story: Story
    entities: Entities

    def write(self, state: CandidateState, enrichments: Sequence[EnrichRequest]) -> JsonObject:
        entity = self.entities[state.place]
        dossier = entity.dossier(self.body.objective)
        output: JsonObject = {}
        basis: list[JsonObject] = []
        if state.status in ("matched", "unmatched"):
            self._add_verdicts(state, dossier, output, basis)
        for number in state.enriched:
            self._add_enrichment(state.place, number, enrichments[number], dossier, output, basis)
        return {
            "candidate_id": f"candidate_{uuid_of(self._dice(state.place, 'id'))}",
            "name": entity.name,
            "url": entity.url,
            "description": entity.description,
            "match_status": state.status,
            "output": output or None,
            "basis": basis or None,
        }

    def _add_verdicts(
        self, state: CandidateState, dossier: Dossier, output: JsonObject, basis: list[JsonObject]
    ) -> None:
        dice = self._dice(state.place, "verdicts")
        basis_writer = BasisWriter(self.story, dice)
        failed = self._failed_conditions(dice) if state.status == "unmatched" else frozenset[int]()
        for number, condition in enumerate(self.body.match_conditions):
            is_matched = number not in failed
            value = "yes" if is_matched else "no"
            output[condition.name] = {"value": value, "type": "match_condition", "is_matched": is_matched}
            quotes = (dossier.quotes_about(condition.description) or dossier.quotes)[:2] if is_matched else ()
            basis.append(basis_writer.entry(condition.name, quotes))

    def _failed_conditions(self, dice: Random) -> frozenset[int]:
        """Choose which conditions an unmatched candidate fails: one at least."""
        numbers = range(len(self.body.match_conditions))
        failed = {number for number in numbers if dice.random() < FAILED_CONDITION_SHARE}
        return frozenset(failed or ({dice.choice(numbers)} if numbers else ()))

    def _add_enrichment(
        self,
        place: int,
        number: int,
        enrichment: EnrichRequest,
        dossier: Dossier,
        output: JsonObject,
        basis: list[JsonObject],
    ) -> None:
        dice = self._dice(place, f"enrichment {number}")
        answers = FieldWriter(dossier, enrichment.output_schema.json_schema, dice).write_fields()
        basis_writer = BasisWriter(self.story, dice)
        for name, answer in answers.items():
            output[name] = {"value": answer.value, "type": "enrichment"}
            basis.append(basis_writer.entry(name, answer.quotes))

    def _dice(self, place: int, purpose: str) -> Random:
        return Random(f"{self.findall_id}:{place}:{purpose}")
