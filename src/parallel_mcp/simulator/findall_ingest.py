"""From an objective in words to the entity type and the conditions of a FindAll run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from parallel_mcp.simulator.payloads import JsonObject

_ASKING = re.compile(
    r"^\s*(please\s+)?(find|list|show|get|give|identify|search|discover)?\s*(me|for)?\s*(a list of|all|every|the)?\s*"
    r"(of )?(the )?",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"\b(?:that|which|who|whose|with|in|from|based|founded|located|offering|using|working|for|near|where|and)\b",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r"^(?:that|which|who)\s+", re.IGNORECASE)
_NEXT_CONDITION = re.compile(
    r"(?:\s*,\s*(?:and\s+)?|\s+and\s+)(?=(?:that|which|who|whose|with|have|has|are|is|raised)\b)"
    r"|\s+(?=(?:that|which|who)\b)"
)
WORDS_IN_A_NAME = 5


def ingested(objective: str) -> JsonObject:
    """Write the `FindAllSchema` for an objective."""
    text = _ASKING.sub("", objective.strip().rstrip(".?!"), count=1) or objective.strip()
    split = _CLAUSE.search(text)
    subject, clauses = (text[: split.start()], text[split.start() :]) if split else (text, "")
    words = subject.split()
    entity_type = words[-1].lower() if words else "entities"
    conditions = [*_subject_conditions(words, entity_type), *_clause_conditions(clauses, entity_type)]
    return {
        "objective": objective,
        "entity_type": entity_type,
        "match_conditions": conditions or [_condition(entity_type, f"fit the objective: {text}", "objective")],
        "enrichments": None,
        "generator": "core",
        "match_limit": None,
    }


def _subject_conditions(words: list[str], entity_type: str) -> Iterator[JsonObject]:
    """Make a condition of what stands before the noun, such as "AI" in "AI companies"."""
    if len(words) > 1:
        described = " ".join(words[:-1])
        yield _condition(entity_type, f"be described as: {described}", described)


def _clause_conditions(clauses: str, entity_type: str) -> Iterator[JsonObject]:
    for clause in _NEXT_CONDITION.split(clauses):
        demand = _RELATIVE.sub("", clause.strip())
        if demand:
            yield _condition(entity_type, f"satisfy: {demand}", demand)


def _condition(entity_type: str, demand: str, named_after: str) -> JsonObject:
    words = re.findall(r"[a-z0-9]+", named_after.lower())[:WORDS_IN_A_NAME]
    name = "_".join([*words, "check"])
    return {"name": name, "description": f"Each of the {entity_type} must {demand}"}
