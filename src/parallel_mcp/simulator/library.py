"""Finding pages and sentences: SQLite FTS5 with Porter stemming over the corpus.

A page is relevant when it holds enough of what is rare in a question; nothing is returned just because it is there.
"""

from __future__ import annotations

import math
import re
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from parallel_mcp.simulator.bodies import SourcePolicy
from parallel_mcp.simulator.corpus import Corpus, Page, load_corpus

ENOUGH_SHARE = 0.38
ENOUGH_WEIGHT = 11.0
UNKNOWN_WEIGHT = 7.0
MOST_TERMS = 48
MOST_REMEMBERED = 2000
_WORD = re.compile(r"[^\W_]+")
_STOPWORDS_TEXT = """
a about above after again all also am an and any are as at be because been before being below best between both but by
can compare compared comparison concise could current currently describe detail detailed did do does doing down during
each english etc explain fact facts few find focus following for from further get give had has have having he her here
hers him his how i if in include including information into is it its itself just know last latest least less list
long main make many may me mean might more most much must my need new news no nor not now of off on once one only or
other our out over overview own per please prefer provide question recent recently report research same she should
show since so some source sources state such summarise summarize summary tell than that the their them then there
these they this those through to today too top under until up us use used using very via was we well were what when
where which while who whom whose why will with within without would write year years you your
"""
_STOPWORDS = frozenset(_STOPWORDS_TEXT.split())


@dataclass(frozen=True)
class Finding:
    """A page and how well it answers."""

    page: Page
    score: float


class Library:
    """The indexed corpus. Safe to use from several threads."""

    def __init__(self, corpus: Corpus | None = None) -> None:
        self.corpus = corpus or load_corpus()
        self._lock = threading.Lock()
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        weakref.finalize(self, self._index.close)
        self._remembered: dict[tuple[str, str], list[tuple[float, ...]]] = {}
        self._fill()

    def find(
        self, queries: Iterable[str], policy: SourcePolicy | None = None, *, share: float = ENOUGH_SHARE
    ) -> list[Finding]:
        """Return the pages relevant to any of the queries, best first.

        `share` is the part of what is rare in a query that a page has to hold.
        """
        scores: dict[int, float] = {}
        for query in queries:
            for position, score in self._relevant(search_terms(query), share).items():
                scores[position] = scores.get(position, 0.0) + score
        findings = [Finding(self.corpus.pages[position], score) for position, score in scores.items()]
        allowed = [finding for finding in findings if is_allowed(finding.page, policy)]
        return sorted(allowed, key=lambda finding: -finding.score)

    def sentences(self, pages: Sequence[Page], query: str) -> list[tuple[Page, str]]:
        """Return the sentences of these pages that share words with the query, best first."""
        terms = search_terms(query)
        if not terms or not pages:
            return []
        wanted = {page.url: page for page in pages}
        rows = self._select(
            "SELECT page, place FROM sentences WHERE sentences MATCH ? ORDER BY bm25(sentences), rowid", _any_of(terms)
        )
        located = [(self.corpus.pages[int(position)], int(place)) for position, place in rows]
        return [(page, page.sentences[place]) for page, place in located if page.url in wanted]

    def _relevant(self, terms: Sequence[str], share: float) -> dict[int, float]:
        """Return the positions of relevant pages with their scores."""
        if not terms:
            return {}
        holders = {term: self._holders(term) for term in terms}
        weights = {term: self._rarity(len(pages)) for term, pages in holders.items() if not term.isdigit() or pages}
        enough = min(share * sum(weights.values()), ENOUGH_WEIGHT)
        found = {position for pages in holders.values() for position in pages}
        matched = {at: sum(weights[term] for term in weights if at in holders[term]) for at in found}
        ranks = self._ranks(terms)
        return {at: ranks[at] * weight for at, weight in matched.items() if weight >= enough}

    def _holders(self, term: str) -> frozenset[int]:
        rows = self._select("SELECT rowid FROM pages WHERE pages MATCH ?", _any_of([term]))
        return frozenset(int(position) for (position,) in rows)

    def _ranks(self, terms: Sequence[str]) -> dict[int, float]:
        rows = self._select("SELECT rowid, -bm25(pages, 3.0, 1.0) FROM pages WHERE pages MATCH ?", _any_of(terms))
        return {int(position): max(float(rank), 1e-6) for position, rank in rows}

    def _rarity(self, holders: int) -> float:
        """Return the weight of a word; one that no page knows is probably what the question is about."""
        return UNKNOWN_WEIGHT if not holders else math.log((len(self.corpus.pages) + 1) / (holders + 0.5))

    def _select(self, sql: str, match: str) -> Sequence[tuple[float, ...]]:
        """Run a query, or remember its rows: SQLite gives up the interpreter lock each time, which costs under load."""
        with self._lock:
            rows = self._remembered.get((sql, match))
            if rows is None:
                rows = self._index.execute(sql, (match,)).fetchall()
                self._remember((sql, match), rows)
        return rows

    def _remember(self, key: tuple[str, str], rows: list[tuple[float, ...]]) -> None:
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = rows

    def _fill(self) -> None:
        with self._lock, self._index as index:
            index.execute("CREATE VIRTUAL TABLE pages USING fts5(title, body, tokenize='porter unicode61')")
            index.execute(
                "CREATE VIRTUAL TABLE sentences USING fts5(text, page UNINDEXED, place UNINDEXED,"
                " tokenize='porter unicode61')"
            )
            for position, page in enumerate(self.corpus.pages):
                index.execute(
                    "INSERT INTO pages(rowid, title, body) VALUES (?, ?, ?)",
                    (position, page.title or "", "\n".join(page.paragraphs)),
                )
                index.executemany(
                    "INSERT INTO sentences(text, page, place) VALUES (?, ?, ?)",
                    [(sentence, position, place) for place, sentence in enumerate(page.sentences)],
                )


def search_terms(text: str) -> list[str]:
    """Return the distinct words of a text that say what it is about, in order."""
    words = dict.fromkeys(word.lower() for word in _WORD.findall(text))
    return [word for word in words if word not in _STOPWORDS and (len(word) > 1 or word.isdigit())][:MOST_TERMS]


def is_allowed(page: Page, policy: SourcePolicy | None) -> bool:
    """Apply a source policy (section 6.4): a non-empty allow list makes the deny list irrelevant."""
    if policy is None:
        return True
    if policy.after_date and not _published_since(page, date.fromisoformat(policy.after_date)):
        return False
    if policy.include_domains:
        return any(_covers(entry, page) for entry in policy.include_domains)
    return not any(_covers(entry, page) for entry in policy.exclude_domains)


def _published_since(page: Page, day: date) -> bool:
    return page.publish_date is not None and date.fromisoformat(page.publish_date) >= day


def _covers(entry: str, page: Page) -> bool:
    """Whether an entry (`example.com`, `.gov`, `example.com/docs`) covers the page."""
    domain, _, path = entry.partition("/")
    domain = domain.lower()
    host_matches = page.host.endswith(domain) if domain.startswith(".") else f".{page.host}".endswith(f".{domain}")
    page_path = page.url.partition(page.host)[2]
    return host_matches and (not path or (page_path + "/").startswith(f"/{path.rstrip('/')}/"))


def _any_of(terms: Sequence[str]) -> str:
    return " OR ".join(f'"{term}"' for term in terms)
