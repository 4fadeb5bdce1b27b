"""What a long document holds and where: its headings, or the fields of a JSON result."""

import re
from dataclasses import dataclass
from itertools import islice, pairwise

from parallel_mcp.render.documents import Format
from parallel_mcp.render.untrusted import one_line

MAX_SECTIONS = 40
_MAX_HEADING_CHARS = 80
_MOST_LOOKED_AT = 1_000
_DEEPEST_LEVEL = 3

_HEADING = re.compile(r"^(?P<level>#{1,3})[ \t]+(?P<name>\S.*)$", re.MULTILINE)
_FIELD = re.compile(r"^(?:- \*\*(?P<name>.+?)\*\*|(?P<level>##) (?P<evidence>\S.*)$)", re.MULTILINE)
_KEY = re.compile(r'^  "(?P<name>(?:[^"\\\n]|\\.)+)":', re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """One part of a document: `document[start:end]`. Its heading is somebody else's text."""

    heading: str
    start: int
    end: int


def outline_of(document: str, fmt: Format, *, has_fields: bool) -> list[Section]:
    """The sections in order, at most 40: of many headings the higher ones. A table has none."""
    if fmt == "csv":
        return []
    if has_fields:
        found = [
            (1, match["name"] if fmt == "json" else match["name"] or match["evidence"], match.start())
            for match in islice((_KEY if fmt == "json" else _FIELD).finditer(document), _MOST_LOOKED_AT)
        ]
    else:
        matches = islice(_HEADING.finditer(document), _MOST_LOOKED_AT) if fmt == "markdown" else ()
        found = [(len(match["level"]), match["name"], match.start()) for match in matches]
    return _sections(_higher_ones(found), len(document))


def _higher_ones(found: list[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
    for deepest in range(_DEEPEST_LEVEL, 0, -1):
        kept = [entry for entry in found if entry[0] <= deepest]
        if len(kept) <= MAX_SECTIONS:
            return kept or found[:MAX_SECTIONS]
    return found[:MAX_SECTIONS]


def _sections(found: list[tuple[int, str, int]], total: int) -> list[Section]:
    ends = [*(after[2] for _, after in pairwise(found)), total]
    return [
        Section(one_line(name, _MAX_HEADING_CHARS), start, end)
        for (_, name, start), end in zip(found, ends, strict=False)
    ]
