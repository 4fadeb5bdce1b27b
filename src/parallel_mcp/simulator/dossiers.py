"""Dossiers: a few pages on one thing, read by shared words rather than through the index."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from parallel_mcp.simulator.corpus import Page
from parallel_mcp.simulator.library import search_terms
from parallel_mcp.simulator.research import Quote

STEM = 5


@dataclass(frozen=True)
class Dossier:
    """Pages that need not be in the corpus, as the evidence for fields."""

    question: str
    pages: tuple[Page, ...]

    @cached_property
    def quotes(self) -> tuple[Quote, ...]:
        """Every sentence that shares words with the question, best first."""
        return self.quotes_about(self.question)

    def quotes_about(self, subject: str) -> tuple[Quote, ...]:
        """Return the sentences that share words with a subject, best first; words match by their first letters."""
        wanted = _stems(subject)
        ranked = [
            (len(wanted & _stems(sentence)), Quote(page, sentence))
            for page in self.pages
            for sentence in page.sentences
        ]
        return tuple(quote for shared, quote in sorted(ranked, key=lambda item: -item[0]) if shared)


def _stems(text: str) -> set[str]:
    return {word[:STEM] for word in search_terms(text)}
