"""Text outputs: Markdown reports of quoted sentences with links to their pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from parallel_mcp.simulator.corpus import Page
from parallel_mcp.simulator.research import Quote, Research

SENTENCES_PER_PAGE = 4


@dataclass(frozen=True)
class Report:
    """A text and what it quotes."""

    text: str
    quotes: Sequence[Quote]


def write_report(research: Research, wish: str, *, at_least_bytes: int = 0) -> Report:
    """Write the answer to a question.

    Args:
        research: The question and its pages.
        wish: The description of the requested text; "short" and "bullet" words in it are obeyed.
        at_least_bytes: The text is lengthened to this size.
    """
    if not research.pages:
        return Report(_lengthened(_nothing_found(research), at_least_bytes), ())
    if re.search(r"\b(short|brief|concise|(one|single)[ -](sentence|line|paragraph))\b", wish, re.IGNORECASE):
        return _short_report(research, at_least_bytes)
    as_list = re.search(r"\b(bullet|list)", wish, re.IGNORECASE) is not None
    return _full_report(research, at_least_bytes, as_list=as_list)


def _short_report(research: Research, at_least_bytes: int) -> Report:
    quotes = (research.quotes or research.quotes_from(research.pages[0], 1))[:1]
    text = " ".join(f"{quote.sentence} ({_link(quote.page)})" for quote in quotes)
    return Report(_lengthened(text, at_least_bytes), quotes)


def _full_report(research: Research, at_least_bytes: int, *, as_list: bool) -> Report:
    sections = [research.quotes_from(page, SENTENCES_PER_PAGE) for page in research.pages]
    parts = [f"# {_headline(research.question)}", _summary(research)]
    parts += [_section(quotes, as_list=as_list) for quotes in sections]
    quotes = [quote for section in sections for quote in section]
    return Report(_lengthened("\n\n".join(parts), at_least_bytes), quotes)


def _summary(research: Research) -> str:
    """Open with the best sentence of each of the three best pages, all of which the sections repeat in context."""
    leads = [research.quotes_from(page, 1)[0] for page in research.pages[:3]]
    return "## Summary\n\n" + " ".join(f"{lead.sentence} ({_link(lead.page)})" for lead in leads)


def _section(quotes: Sequence[Quote], *, as_list: bool) -> str:
    page = quotes[0].page
    if as_list:
        body = "\n".join(f"- {quote.sentence}" for quote in quotes)
    else:
        body = " ".join(quote.sentence for quote in quotes)
    return f"## {page.name}\n\n{body}\n\nSource: {_link(page)}"


def _nothing_found(research: Research) -> str:
    return (
        f"# {_headline(research.question)}\n\nLittle was found about this question. The searches "
        f'("{", ".join(research.queries)}") returned no page that answers it, so no statement is made here.'
    )


def _headline(question: str) -> str:
    line = " ".join(question.split()) or "Research report"
    return line if len(line) <= 100 else line[:99].rsplit(" ", 1)[0] + "…"


def _link(page: Page) -> str:
    return f"[{page.name}]({page.url})"


def _lengthened(text: str, at_least_bytes: int) -> str:
    missing = at_least_bytes - len(text.encode())
    if missing <= 0:
        return text
    block = f"\n\n## Appendix\n\n{text}"
    return text + block * -(-missing // len(block.encode()))
