"""How much a result may hold, and how that is shared among its parts."""

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

MAX_TEXT_CHARS = 25_000
MAX_RESULT_BYTES = 98_000
"""Both halves of a result as JSON in UTF-8, with room to 100,000 for what is added on the way."""

_Item = TypeVar("_Item")


def json_bytes(value: object) -> int:
    """The size of a value in a result."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode("utf-8", "surrogatepass"))


def first_bytes(text: str, max_bytes: int) -> str:
    """As much of the start of a text as is within so many bytes of a result."""
    start = text[:max_bytes]
    while start and (size := json_bytes(start)) > max_bytes:
        start = start[: min(len(start) - 1, len(start) * max_bytes // size)]
    return start


def as_many_as_fit(items: Sequence[_Item], max_bytes: int, size: Callable[[_Item], int] = json_bytes) -> list[_Item]:
    """The first items, as many as are together within so many bytes."""
    left = max_bytes
    for position, item in enumerate(items):
        left -= size(item) + 1
        if left < 0:
            return list(items[:position])
    return list(items)


def shared_out(texts: Sequence[Sequence[str]], budget: int) -> list[list[str]]:
    """Each page's texts, cut so that all together keep within the budget; a page's first text stays, if only empty.

    What a short page leaves over is shared among the longer ones.
    """
    allowances = _allowances([sum(map(len, page)) for page in texts], budget)
    return [_cut(page, allowance) for page, allowance in zip(texts, allowances, strict=True)]


def _allowances(sizes: Sequence[int], budget: int) -> list[int]:
    allowances = [0] * len(sizes)
    left = budget
    by_size = sorted(range(len(sizes)), key=lambda index: sizes[index])
    for done, index in enumerate(by_size):
        allowances[index] = min(sizes[index], left // (len(sizes) - done))
        left -= allowances[index]
    return allowances


def _cut(texts: Sequence[str], allowance: int) -> list[str]:
    kept: list[str] = []
    for position, text in enumerate(texts):
        if len(text) > allowance:
            cut = text[: max(0, allowance - 1)].rstrip() + "…" if allowance > 0 else ""
            return [*kept, cut] if position == 0 or allowance > 0 else kept
        kept.append(text)
        allowance -= len(text)
    return kept
