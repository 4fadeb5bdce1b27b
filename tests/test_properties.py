"""Rules that hold for every input."""

import itertools
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_mcp.render.budget import shared_out
from parallel_mcp.render.pages import MAX_PAGE_CHARS, MIN_PAGE_CHARS, page_of
from parallel_mcp.render.untrusted import MARK, clean, marked, one_line
from parallel_mcp.tasks.progress import RisingPercent
from parallel_mcp.tasks.trace import Message, Replay, Trace, read_cursor

meters = st.lists(st.none() | st.floats(allow_nan=False), max_size=200)
texts = st.text(max_size=200)
messages = st.lists(
    st.builds(Message, st.sampled_from(["plan", "search"]), st.sampled_from(["", "t1", "t2"]), texts), max_size=30
)


@given(meters)
def test_progress_rises_strictly_and_reaches_100_only_at_the_end(values: list[float | None]) -> None:
    """MCP demands that it rises; the API's meter may be missing, repeat itself or go back."""
    percent = RisingPercent()

    seen = [percent.next(value) for value in values]

    assert all(earlier < later for earlier, later in itertools.pairwise(seen))
    assert all(0 <= value < 100 for value in seen)
    assert percent.finish() == 100


def test_progress_without_a_meter_hardly_moves() -> None:
    """It must not be read as progress: two hours at two a second."""
    percent = RisingPercent()
    seen = [percent.next(None) for _ in range(100)]

    assert seen[-1] < 10
    assert all(earlier < later for earlier, later in itertools.pairwise(seen))


@given(messages, st.data())
def test_replays_give_each_message_once_and_in_order(trace: list[Message], data: st.DataObject) -> None:
    """Each connection replays the trace from its start and may end anywhere."""
    known = Trace()
    cuts = data.draw(st.lists(st.integers(0, len(trace)), max_size=5))

    for cut in [*cuts, len(trace)]:
        replay = Replay(known)
        for message in trace[:cut]:
            replay.add(message)

    assert list(known.since(0)) == trace


@given(messages, st.data())
def test_cursor_is_understood_by_any_other_reader_of_the_same_trace(trace: list[Message], data: st.DataObject) -> None:
    """It holds no state of the process that made it."""
    position = data.draw(st.integers(0, len(trace)))
    one, other = filled(trace), filled(trace)

    text = one.cursor(position)
    cursor = read_cursor(text)

    assert cursor is not None
    assert len(text) <= 200
    assert other.position_of(cursor) == position


@given(messages, messages, st.integers(0, 30))
def test_cursor_of_another_trace_counts_as_none(one: list[Message], other: list[Message], position: int) -> None:
    """Otherwise messages of a run could be skipped that nobody was told."""
    position = min(position, len(one))
    cursor = read_cursor(filled(one).cursor(position))

    assert cursor is not None
    if len(other) >= position and one[:position] != other[:position]:
        assert filled(other).position_of(cursor) == 0


@given(st.text(max_size=300))
def test_garbled_cursor_is_recognised(text: str) -> None:
    """Whatever a model makes of it."""
    cursor = read_cursor(text)

    assert cursor is None or len(cursor.digest) == 9


@given(st.text(max_size=5_000), st.integers(-5, 3_000))
@settings(max_examples=200)
def test_pages_join_to_the_document(document: str, max_chars: int) -> None:
    """Nothing lost, nothing twice, no page over its size."""
    pages: list[str] = []
    cursor = ""
    while not pages or cursor:
        page = page_of(document, max_chars, cursor)
        assert page is not None
        assert len(page.text) <= max(MIN_PAGE_CHARS, min(max_chars, MAX_PAGE_CHARS))
        pages.append(page.text)
        cursor = page.next_cursor

    assert "".join(pages) == document


@given(st.lists(st.lists(texts, max_size=6), max_size=12), st.integers(0, 2_000))
def test_budget_is_kept_and_used(pages: list[list[str]], budget: int) -> None:
    """All together never more than the budget, and all of it if the texts fill it."""
    shares = shared_out(pages, budget)

    assert len(shares) == len(pages)
    total = sum(len(text) for page in shares for text in page)
    wanted = sum(len(text) for page in pages for text in page)
    assert total <= budget
    if wanted <= budget:
        assert shares == pages
    else:  # what rounding, and the blanks before a cut, may lose
        blanks = sum(char.isspace() for page in pages for text in page for char in text)
        assert total >= budget - 2 * len(pages) - blanks
    for page, share in zip(pages, shares, strict=True):
        for text, kept in zip(page, share, strict=False):
            assert text.startswith(kept.removesuffix("…").rstrip()) or not kept


@given(st.text())
def test_cleaned_text_holds_nothing_invisible(text: str) -> None:
    """Terminal sequences, bidi overrides, zero-width and tag characters hide instructions from people."""
    cleaned = clean(text)

    assert not any(ord(char) < 32 and char not in "\n\t" for char in cleaned)
    assert not any(0x7F <= ord(char) <= 0x9F or 0xE0000 <= ord(char) <= 0xE007F for char in cleaned)
    assert not set(cleaned) & set("\u200b\u200d\u202e\u2066\ufeff\u2028")
    assert clean(cleaned) == cleaned


@given(st.text(alphabet=f"<>/ \n{string.ascii_letters}-", max_size=80), st.integers(0, 3))
def test_marks_cannot_be_closed_from_inside(text: str, spaces: int) -> None:
    """Whatever a page writes, exactly one mark opens and one closes."""
    hostile = f"{text}<{' ' * spaces}/ {MARK}>{text}</{MARK.upper()}>"

    lower = marked(hostile).lower()

    assert lower.count(f"<{MARK}") == 1
    assert lower.count(f"</{MARK}") == 1
    assert lower.endswith(f"</{MARK}>")


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\u202eb", "ab"),
        ("tag\U000e0041\U000e0042", "tag"),
        ("one\r\ntwo\u2028three", "one two three"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_one_line_shows_what_a_person_would_see(hostile: str, shown: str) -> None:
    """For progress messages and titles."""
    assert one_line(hostile) == shown


def filled(trace: list[Message]) -> Trace:
    """A trace that has read one connection."""
    known = Trace()
    replay = Replay(known)
    for message in trace:
        replay.add(message)
    return known
