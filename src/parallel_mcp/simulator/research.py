"""Research: from the input of a run to the pages and sentences its answer is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from parallel_mcp.simulator.bodies import SourcePolicy
from parallel_mcp.simulator.corpus import Page
from parallel_mcp.simulator.library import Finding, Library, search_terms

MOST_CLAUSES = 20
WORTH_KEEPING = 0.08
RELATED_SHARE = 0.24
BETTER_PAGE_LEAD = 6
SPEAKS_FOR_ITSELF = 3
_CLAUSE_END = re.compile(r"(?<=[.!?;])\s+|\n+")


@dataclass(frozen=True)
class Quote:
    """A sentence, word for word, and the page it stands on."""

    page: Page
    sentence: str


@dataclass(frozen=True)
class Research:
    """What one run looks for and finds.

    Attributes:
        question: The input as text.
        context: The question of the interaction this run follows on, or nothing.
        most_pages: How many pages the processor reads.
    """

    library: Library
    question: str
    context: str = ""
    policy: SourcePolicy | None = None
    most_pages: int = 5

    @cached_property
    def pages(self) -> tuple[Page, ...]:
        """The pages read, best first; none when nothing in the corpus is about the question."""
        together = f"{self.context}\n{self.question}"
        needs_context = self.context and len(search_terms(self.question)) < SPEAKS_FOR_ITSELF
        return self._found(together) if needs_context else self._found(self.question) or self._found(together)

    def _found(self, question: str) -> tuple[Page, ...]:
        """Return the relevant pages and, when there are any, a few that are only related."""
        clauses = _clauses(question)
        relevant = self._best(self.library.find(clauses, self.policy), self.most_pages)
        if not relevant:
            return ()
        related = self._best(self.library.find(clauses, self.policy, share=RELATED_SHARE), self.most_pages)
        enough = max(len(relevant), self.most_pages // 2 + 1)
        return tuple(dict.fromkeys([*relevant, *related]))[:enough]

    def _best(self, findings: Sequence[Finding], most: int) -> list[Page]:
        return [finding.page for finding in findings if finding.score >= WORTH_KEEPING * findings[0].score][:most]

    @cached_property
    def queries(self) -> tuple[str, ...]:
        """The web searches made, as progress messages show them."""
        topic = search_terms(self.question)[:5] or search_terms(self.context)[:5]
        plain = " ".join(topic) or self.question[:60].strip()
        angles = [" ".join([*topic[:2], *search_terms(page.name)[:3]]) for page in self.pages]
        return tuple(dict.fromkeys([plain, *angles, f"{plain} latest figures"]))

    @cached_property
    def quotes(self) -> tuple[Quote, ...]:
        """Every sentence of the pages that is about the question, best first."""
        return self.quotes_about(f"{self.question}\n{self.context}")

    def quotes_about(self, subject: str) -> tuple[Quote, ...]:
        """Return the sentences of the pages that share words with a subject, best first.

        A sentence of a better page goes before somewhat better sentences of other pages.
        """
        ranked = enumerate(self.library.sentences(self.pages, subject))
        quotes = sorted(ranked, key=lambda item: item[0] + BETTER_PAGE_LEAD * self.pages.index(item[1][0]))
        return tuple(Quote(page, sentence) for _, (page, sentence) in quotes)

    def quotes_from(self, page: Page, most: int) -> list[Quote]:
        """Return the best sentences of one page, in the order of the page."""
        relevant = [quote.sentence for quote in self.quotes if quote.page is page]
        chosen = set([*relevant, *page.sentences][:most])
        return [Quote(page, sentence) for sentence in page.sentences if sentence in chosen]


def question_of(task_input: JsonValue) -> str:
    """Read the input of a run as a question: text as it is, an object as its values."""
    if isinstance(task_input, str):
        return task_input
    return "\n".join(_leaves(task_input))


def _leaves(value: JsonValue) -> list[str]:
    if isinstance(value, dict):
        return [leaf for member in value.values() for leaf in _leaves(member)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [str(value)]


def _clauses(question: str) -> Sequence[str]:
    """Split a question so that its subject is not drowned by its instructions."""
    clauses = [clause for clause in _CLAUSE_END.split(question) if clause.strip()]
    return list(dict.fromkeys([question, *clauses]))[:MOST_CLAUSES]
