"""A long document in pages that lose nothing: joined, they are the document."""

import base64
import hashlib
import re
from dataclasses import dataclass

MIN_PAGE_CHARS = 500
MAX_PAGE_CHARS = 40_000

_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,40}")
_DIGEST_BYTES = 6


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


def page_of(document: str, max_chars: int, cursor: str = "") -> Page | None:
    """The page of at most `max_chars` that a cursor points to, or the first; None if the cursor is of another document.

    A page ends at the end of a paragraph, else of a line, else at a blank, if there is one in its second half.
    """
    size = max(MIN_PAGE_CHARS, min(max_chars, MAX_PAGE_CHARS))
    start = _start_of(document, cursor) if cursor else 0
    if start is None:
        return None
    end = _end_of_page(document, start, size)
    next_cursor = _cursor_at(document, end) if end < len(document) else ""
    return Page(document[start:end], start, end, len(document), next_cursor)


def _end_of_page(document: str, start: int, size: int) -> int:
    latest = start + size
    if latest >= len(document):
        return len(document)
    for boundary in ("\n\n", "\n", " "):
        found = document.rfind(boundary, start + size // 2, latest)
        if found >= 0:
            return found + len(boundary)
    return latest


def _cursor_at(document: str, position: int) -> str:
    raw = position.to_bytes(4) + _digest(document)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _start_of(document: str, cursor: str) -> int | None:
    if not _CURSOR.fullmatch(cursor):
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        return None
    position = int.from_bytes(raw[:4])
    return position if raw[4:] == _digest(document) and position < len(document) else None


def _digest(document: str) -> bytes:
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES]
