"""A long document in pages that lose nothing: joined, they are the document."""

import base64
import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

MIN_PAGE_CHARS = 500
MAX_PAGE_CHARS = 40_000

_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,40}")
_DIGEST_BYTES = 6
_JOINER = "\u200d"
_LONGEST_CHARACTER = 32


@dataclass(frozen=True)
class Page:
    """One page: `document[start:end]`. `next_cursor` is empty on the last one."""

    text: str
    start: int
    end: int
    total: int
    next_cursor: str

    @property
    def is_first(self) -> bool:
        """Whether it begins the document."""
        return self.start == 0

    @property
    def is_whole(self) -> bool:
        """Whether there is no other page."""
        return self.start == 0 and self.end == self.total


class Paging:
    """A document to be read page by page, by anybody who makes the same document again."""

    def __init__(self, document: str) -> None:
        self.document = document

    def position_of(self, cursor: str) -> int | None:
        """Where a cursor points to, the start without one; None if it is of another document."""
        if not cursor:
            return 0
        if not _CURSOR.fullmatch(cursor):
            return None
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except ValueError:
            return None
        position = int.from_bytes(raw[:4])
        return position if raw[4:] == self._digest and position < len(self.document) else None

    def cursor_at(self, position: int) -> str:
        """A cursor to that character."""
        return base64.urlsafe_b64encode(position.to_bytes(4) + self._digest).decode().rstrip("=")

    def page_at(self, start: int, max_chars: int) -> Page:
        """The page from `start` on, of 1 to `max_chars` characters unless the document is empty.

        It ends at the end of a paragraph, else of a line, else at a blank, if there is one in its second half.
        """
        end = _end_of_page(self.document, start, max(1, max_chars))
        total = len(self.document)
        return Page(self.document[start:end], start, end, total, self.cursor_at(end) if end < total else "")

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.sha256(self.document.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES]


def page_of(document: str, max_chars: int, cursor: str = "") -> Page | None:
    """The page of at most `max_chars` that a cursor points to, or the first; None if it is of another document."""
    paging = Paging(document)
    start = paging.position_of(cursor)
    return None if start is None else paging.page_at(start, max(MIN_PAGE_CHARS, min(max_chars, MAX_PAGE_CHARS)))


def _end_of_page(document: str, start: int, size: int) -> int:
    latest = start + size
    if latest >= len(document):
        return len(document)
    for boundary in ("\n\n", "\n", " "):
        found = document.rfind(boundary, start + size // 2, latest)
        if found >= 0 and found + len(boundary) <= latest:
            return found + len(boundary)
    return _between_characters(document, start, latest)


def _between_characters(document: str, start: int, latest: int) -> int:
    """The last place that parts no letter from its accents and no emoji from what it is joined to."""
    for place in range(latest, max(start, latest - _LONGEST_CHARACTER), -1):
        if not _continues(document[place]) and document[place - 1] != _JOINER:
            return place
    return latest


def _continues(character: str) -> bool:
    """Whether a character belongs to the one before it: accents, joiners, variants, skin tones."""
    return (
        unicodedata.category(character) in ("Mn", "Me", "Mc")
        or character == _JOINER
        or ("\U0001f3fb" <= character <= "\U0001f3ff")
    )
