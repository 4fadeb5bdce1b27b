"""The web of the simulator: some forty short pages, written for it, on reserved domains."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TypedDict, cast
from urllib.parse import urlsplit

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")


class _StoredPage(TypedDict):
    url: str
    title: str | None
    publish_date: str | None
    paragraphs: list[str]


@dataclass(frozen=True)
class Page:
    """One web page."""

    url: str
    title: str | None
    publish_date: str | None
    paragraphs: tuple[str, ...]

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        return tuple(sentence for paragraph in self.paragraphs for sentence in _SENTENCE_END.split(paragraph))

    @property
    def name(self) -> str:
        """Return the title, or the host of a page without one."""
        return self.title or self.host

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def markdown(self) -> str:
        """Return the whole page, as `full_content` shows it."""
        heading = [f"# {self.title}"] if self.title else []
        return "\n\n".join([*heading, *self.paragraphs])


@dataclass(frozen=True)
class Corpus:
    """All pages, by position and by address."""

    pages: Sequence[Page]

    @cached_property
    def by_address(self) -> Mapping[str, Page]:
        return {address(page.url): page for page in self.pages}

    @cached_property
    def hosts(self) -> frozenset[str]:
        return frozenset(page.host for page in self.pages)


def address(url: str) -> str:
    """Reduce a URL to what identifies a page: host without `www.`, and path without a trailing slash."""
    parts = urlsplit(url)
    return (parts.hostname or "").removeprefix("www.") + parts.path.rstrip("/")


def load_corpus() -> Corpus:
    """Read the pages that ship with the package."""
    text = files("parallel_mcp.simulator").joinpath("corpus.json").read_text("utf-8")
    stored = cast("list[_StoredPage]", json.loads(text))
    pages = [Page(page["url"], page["title"], page["publish_date"], tuple(page["paragraphs"])) for page in stored]
    return Corpus(tuple(pages))
