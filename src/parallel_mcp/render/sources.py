"""The sources of a task output: numbered once, in the order in which the output's basis names them."""

from collections.abc import Sequence
from dataclasses import dataclass

from parallel_mcp.api.models import FieldBasis
from parallel_mcp.render.untrusted import one_line

MAX_DOUBTFUL = 20


@dataclass(frozen=True)
class Source:
    """A cited page with its number and everything quoted from it."""

    number: int
    url: str
    title: str
    excerpts: tuple[str, ...]


def sources_of(basis: Sequence[FieldBasis]) -> list[Source]:
    """Each cited page once, numbered from 1."""
    found: dict[str, Source] = {}
    for citation in (citation for entry in basis for citation in entry.citations if citation.url):
        known = found.get(citation.url)
        excerpts = tuple(dict.fromkeys((*(known.excerpts if known else ()), *citation.excerpts)))
        title = (known.title if known else "") or citation.title
        found[citation.url] = Source(known.number if known else len(found) + 1, citation.url, title, excerpts)
    return list(found.values())


def numbers_for(entry: FieldBasis, sources: Sequence[Source]) -> list[int]:
    """The numbers of the sources that a field rests on."""
    by_url = {source.url: source.number for source in sources}
    return sorted({by_url[citation.url] for citation in entry.citations if citation.url in by_url})


def check_these(basis: Sequence[FieldBasis]) -> list[str]:
    """The fields to check before relying on them, each with the reason: low confidence, or no source named."""
    remarks: list[str] = []
    for entry in basis:
        reasons = [
            *(["low confidence"] if entry.confidence.lower() == "low" else []),
            *(["no source"] if not entry.citations else []),
        ]
        if reasons:
            remarks.append(f"{one_line(entry.field or 'output', 80)} ({', '.join(reasons)})")
    more = len(remarks) - MAX_DOUBTFUL
    return [*remarks[:MAX_DOUBTFUL], *([f"and {more} more"] if more > 0 else [])]


def source_line(source: Source) -> str:
    """`1. Title - URL`, on one line."""
    title = one_line(source.title, 120)
    url = one_line(source.url, 2_000)
    return f"{source.number}. {title} - {url}" if title else f"{source.number}. {url}"


def with_excerpts(source: Source) -> str:
    """A source with everything quoted from it."""
    quotes = "\n".join(f"   > {one_line(excerpt, 1_000)}" for excerpt in source.excerpts)
    return f"{source_line(source)}\n{quotes}" if quotes else source_line(source)
