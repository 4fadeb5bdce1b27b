"""Entities that a search finds: companies the corpus has a profile of, then invented ones.

Which entities there are for an objective follows from its words alone, so every search for it finds the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

from parallel_mcp.simulator.corpus import Page
from parallel_mcp.simulator.dossiers import Dossier
from parallel_mcp.simulator.library import Library
from parallel_mcp.simulator.profiles import HOW_MANY, ProfileWriter, company, person, thing

PROFILE = "Company profile: "
_PEOPLE = re.compile(
    r"people|persons?\b|founder|ceo|executive|engineer|researcher|author|scientist|investor|leader", re.IGNORECASE
)
_COMPANIES = re.compile(
    r"compan|startup|business|firm|organi[sz]ation|vendor|supplier|employer|brand|manufacturer", re.IGNORECASE
)


@dataclass(frozen=True)
class Entity:
    """A company, a person or something else, and the page about it."""

    name: str
    page: Page

    @property
    def url(self) -> str:
        return self.page.url

    @property
    def description(self) -> str:
        return self.page.sentences[0]

    def dossier(self, objective: str) -> Dossier:
        return Dossier(f"{self.name}\n{objective}", (self.page,))


class Entities:
    """All entities for an objective, by place; they are made when asked for, and not kept."""

    def __init__(self, library: Library, entity_type: str, objective: str) -> None:
        of_companies = _COMPANIES.search(entity_type) is not None
        self._write = _writer(entity_type, of_companies=of_companies)
        self._known: Sequence[Entity] = _profiled(library, objective) if of_companies else []
        dice = Random(f"entities:{entity_type}:{objective}")
        self._start = dice.randrange(HOW_MANY)
        self._stride = _coprime_to(HOW_MANY, dice.randrange(1, HOW_MANY))

    def __getitem__(self, place: int) -> Entity:
        if place < len(self._known):
            return self._known[place]
        page = self._write((self._start + place * self._stride) % HOW_MANY)
        return Entity(page.name, page)

    def places_without(self, names: frozenset[str], addresses: frozenset[str], start: int = 0) -> Iterator[int]:
        """Give the places of all entities from one on that bear none of these names and addresses.

        Args:
            names: In lower case.
            addresses: As `bare_address` writes them.
            start: The first place that counts.
        """
        for place in count(start):
            if not names and not addresses:
                yield place
                continue
            entity = self[place]
            if entity.name.lower() not in names and not addresses & _addresses(entity.url):
                yield place


def bare_address(url: str) -> str:
    """Reduce a URL to what it names: without scheme, `www.` and final slash."""
    return re.sub(r"^[a-z]+://", "", url.strip().lower()).removeprefix("www.").rstrip("/")


def _addresses(url: str) -> set[str]:
    """Return the address of a page, and of the site when the site is that of the entity alone."""
    address = bare_address(url)
    return {address, address.removesuffix("/about")}


def _writer(entity_type: str, *, of_companies: bool) -> ProfileWriter:
    if _PEOPLE.search(entity_type):
        return person
    return company if of_companies else thing(entity_type)


def _profiled(library: Library, objective: str) -> Sequence[Entity]:
    pages = [finding.page for finding in library.find([objective])]
    return [Entity(page.name.removeprefix(PROFILE), page) for page in pages if page.name.startswith(PROFILE)]


def _coprime_to(total: int, start: int) -> int:
    """Return the next number that steps through all of the total before it meets a place again."""
    return next(number for number in count(start) if math.gcd(number, total) == 1)
