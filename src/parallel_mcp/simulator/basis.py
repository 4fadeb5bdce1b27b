"""The basis of an answer: reasoning, citations and confidence of each field (API reference, section 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from parallel_mcp.simulator.corpus import Page
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.research import Quote
from parallel_mcp.simulator.stories import Story

MOST_CITATIONS = 4
UNTITLED_SHARE = 0.08
UNQUOTED_SHARE = 0.06


@dataclass(frozen=True)
class BasisWriter:
    """Writes the entries of one answer."""

    story: Story
    dice: Random

    def entry(self, name: str, quotes: Sequence[Quote]) -> JsonObject:
        by_page: dict[str, list[Quote]] = {}
        for quote in quotes:
            by_page.setdefault(quote.page.url, []).append(quote)
        cited = [(group[0].page, [quote.sentence for quote in group]) for group in by_page.values()][:MOST_CITATIONS]
        return {
            "field": name,
            "reasoning": _reasoning(name, [page for page, _ in cited]),
            "citations": [self._citation(page, list(dict.fromkeys(sentences))) for page, sentences in cited],
            "confidence": self._confidence(len(cited)),
        }

    def _citation(self, page: Page, sentences: list[str]) -> JsonObject:
        untitled = self.story.null_titles or self.dice.random() < UNTITLED_SHARE
        unquoted = self.story.null_excerpts or self.dice.random() < UNQUOTED_SHARE
        return {
            "url": page.url,
            "title": None if untitled else page.title,
            "excerpts": None if unquoted else sentences,
        }

    def _confidence(self, pages: int) -> str | None:
        """High takes several pages; a single page is mostly medium; nothing found is low."""
        roll = self.dice.random()
        if self.story.no_confidence:
            return None
        if self.story.empty_confidence:
            return ""
        if pages == 0:
            return "low"
        if pages == 1:
            return "low" if roll < 0.25 else "medium" if roll < 0.75 else "high"
        return "medium" if roll < 0.3 else "high"


def _reasoning(name: str, pages: Sequence[Page]) -> str:
    if not pages:
        return f"No page was found that supports {name}."
    named = "; ".join(f'"{page.name}"' for page in pages)
    agreeing = "The pages agree: " if len(pages) > 1 else "Taken from "
    return f"{agreeing}{named}."
