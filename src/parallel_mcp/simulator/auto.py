"""Auto mode on the deeper processors: structured JSON whose schema the processor invents (section 9.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from parallel_mcp.simulator.corpus import Page
from parallel_mcp.simulator.payloads import Json, JsonObject
from parallel_mcp.simulator.research import Quote, Research

FACTS_PER_PAGE = 4


@dataclass(frozen=True)
class AutoAnswer:
    """Content, its invented schema, and the quotes behind each (nested, dotted) field."""

    content: JsonObject
    schema: JsonObject
    quotes: dict[str, list[Quote]]


def write_auto(research: Research) -> AutoAnswer:
    """Arrange what was found by page, under names made from the titles."""
    leads = [research.quotes_from(page, 1)[0] for page in research.pages[:3]]
    summary = " ".join(lead.sentence for lead in leads) or "Little was found about this question."
    content: dict[str, Json] = {"executive_summary": summary}
    members: dict[str, Json] = {"executive_summary": _text("Summary of the findings.")}
    quotes = {"executive_summary": leads}

    for name, page in _named(research.pages).items():
        facts = research.quotes_from(page, FACTS_PER_PAGE)
        content[name] = {"overview": facts[0].sentence, "key_facts": [fact.sentence for fact in facts[1:]]}
        members[name] = _section(page)
        quotes[f"{name}.overview"] = facts[:1]
        quotes[f"{name}.key_facts"] = facts[1:]

    content["open_questions"] = [f"What has changed since these pages about {research.queries[0]} were written?"]
    members["open_questions"] = {"type": "array", "items": {"type": "string"}}
    quotes["open_questions"] = []
    return AutoAnswer(content, _object(members), quotes)


def _named(pages: tuple[Page, ...]) -> dict[str, Page]:
    names: dict[str, Page] = {}
    for page in pages:
        words = re.findall(r"[a-z0-9]+", page.name.lower())
        names.setdefault("_".join(words[:6]), page)
    return names


def _section(page: Page) -> JsonObject:
    facts: JsonObject = {"type": "array", "items": {"type": "string"}, "description": "Further facts."}
    return {**_object({"overview": _text("The main point."), "key_facts": facts}), "description": page.name}


def _object(members: JsonObject) -> JsonObject:
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def _text(description: str) -> JsonObject:
    return {"type": "string", "description": description}
