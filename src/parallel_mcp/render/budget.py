"""One budget of characters, shared fairly over several texts."""

from collections.abc import Sequence

MAX_TEXT_CHARS = 25_000


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
