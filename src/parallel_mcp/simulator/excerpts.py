"""Excerpts: which sentences of a page answer, and how much of them fits (checklist 33)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from parallel_mcp.simulator.corpus import Page
from parallel_mcp.simulator.library import Library

MOST_EXCERPTS = 5


def focused_excerpts(library: Library, page: Page, focus: str) -> list[str]:
    """Return the sentences of a page that are about the focus, best first; the opening when none is."""
    sentences = [sentence for _, sentence in library.sentences([page], focus)]
    return sentences[:MOST_EXCERPTS] or list(page.paragraphs[:1])


def within(excerpts: Iterable[str], most_chars: int | None) -> list[str]:
    """Keep excerpts while they fit; the first that does not is cut, so every excerpt stays verbatim from its start."""
    if most_chars is None:
        return list(excerpts)
    kept: list[str] = []
    left = most_chars
    for excerpt in excerpts:
        if left <= 0:
            break
        kept.append(excerpt[:left])
        left -= len(kept[-1])
    return kept


def within_total(pages: Sequence[list[str]], most_chars: int | None) -> list[list[str]]:
    """Spend a total on pages in order; later pages may be left without excerpts."""
    if most_chars is None:
        return list(pages)
    shared: list[list[str]] = []
    left = most_chars
    for excerpts in pages:
        shared.append(within(excerpts, left) if left > 0 else [])
        left -= sum(map(len, shared[-1]))
    return shared
