"""Rules of tables that hold for every input: reading and printing CSV, paging, finding the rows that are lacking."""

import csv
import io
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from parallel_mcp.errors import InvalidArguments
from parallel_mcp.render.table_pages import (
    START,
    Collected,
    PlacedRow,
    Position,
    TableFormat,
    TablePage,
    position_in,
    table_cursor,
    table_page,
)
from parallel_mcp.render.tables import Columns, TableRow, columns_of, csv_line
from parallel_mcp.tasks.group_rows import Held, key_of, numbered
from parallel_mcp.tasks.rows import in_words, read_rows

# Every character that can be sent, but NUL, which is refused.
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
awkward = st.sampled_from(['"', ",", ";", "\t", "\n", "\r", "\r\n", "\u2028", "\x85", "=", " ", "'", "a", "\ufeff"])
cells = st.lists(letters | awkward, max_size=12).map("".join)
names = cells.map(str.strip).filter(bool)


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, str]]:
    """Rows with the same columns, none of them blank."""
    columns = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    row = st.fixed_dictionaries(dict.fromkeys(columns, cells))
    return draw(st.lists(row.filter(lambda one: any(map(str.strip, one.values()))), min_size=1, max_size=8))


@given(tables(), st.sampled_from([",", ";", "\t"]), st.sampled_from(["\r\n", "\n", "\r"]), st.booleans())
def test_csv_is_read_as_it_was_written(
    table: list[dict[str, str]], delimiter: str, line_end: str, with_mark: bool
) -> None:
    """By whatever spreadsheet: all quote alike, and differ in delimiter, line end and byte-order mark."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(table[0]), delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(table)

    read = read_rows([], [], "\ufeff" * with_mark + text.getvalue())

    assert list(read.inputs) == table
    assert read.remark == ""


@given(tables())
def test_printed_csv_is_read_back_equal(table: list[dict[str, str]]) -> None:
    """By Python's csv, as most programs read it."""
    rows = [list(table[0]), *([row[name] for name in table[0]] for row in table)]

    text = "".join(csv_line(list[JsonValue](row)) for row in rows)

    assert list(csv.reader(io.StringIO(text, newline=""))) == rows


@pytest.mark.parametrize(
    ("text", "rows", "remark"),
    [
        ("a,b\n1,2\n\n , \n3,4\n", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}], ""),
        ("\n\na\n1", [{"a": "1"}], ""),
        (' a ; b\n 1 ;"2;\n3"', [{"a": " 1 ", "b": "2;\n3"}], ""),
        ("question\nWhat, why?", None, "Line 2 of `csv` has 2 cells, and the header 1"),
        ('question\n"What, why?"', [{"question": "What, why?"}], ""),
        ("a,a,a (2)\n1,2,3", [{"a": "1", "a (3)": "2", "a (2)": "3"}], "column 2 "),
        ("a,,\n1,2,", [{"a": "1", "column 2": "2"}], "column 2 "),
        ("a,b\n1,2\n3,4,5", None, "Line 3 of `csv` has 3 cells"),
        ('a,b\n"x\ny",2\n3', None, "Line 4 of `csv` has 1 cells"),
        ('a,b\n1,"2', None, "`csv` cannot be read where line 2 begins"),
        ("a\0,\0b\0\n1\0,2", None, "wrong encoding"),
        ("a,b\n", None, "has no row"),
        ("\ufeff", None, "has no row"),
        ("a\n" + "1\n" * 5_001, None, "at most 5,000"),
    ],
)
def test_csv_that_is_not_quite_a_table(text: str, rows: list[dict[str, str]] | None, remark: str) -> None:
    """It is read, or the message says which line to look at."""
    if rows is None:
        with pytest.raises(InvalidArguments, match=remark):
            read_rows([], [], text)
        return
    read = read_rows([], [], text)

    assert list(read.inputs) == rows
    assert remark in read.remark
    assert bool(read.remark) == bool(remark)


@given(st.sets(st.integers(1, 60)))
def test_row_numbers_in_words_name_exactly_those_rows(rows: set[int]) -> None:
    """They are the account of what was bought."""
    spans = [part.partition("-") for part in in_words(rows).split(", ") if part]

    assert {n for first, _, last in spans for n in range(int(first), int(last or first) + 1)} == rows


# ---- which rows a group lacks

few = st.sampled_from(["a", "b", "c", "d"])
held_rows = st.lists(st.builds(Held, st.integers(1, 6), few.map(key_of)), max_size=8)


@given(st.lists(few, max_size=6), held_rows)
def test_each_input_is_bought_until_there_are_as_many_as_asked_for(inputs: list[str], held: list[Held]) -> None:
    """Never one more, whatever numbers the group gives its rows; and no number is given twice."""
    lacking = numbered(inputs, held)

    wanted, there = Counter(map(key_of, inputs)), Counter(str(row.key) for row in held)
    assert Counter(map(key_of, lacking.values())) == wanted - there
    assert not set(lacking) & {row.number for row in held}


@given(st.lists(few, min_size=1, max_size=6), held_rows, st.data())
def test_call_that_is_repeated_until_it_succeeds_buys_each_row_once(
    inputs: list[str], held: list[Held], data: st.DataObject
) -> None:
    """Whatever part of it succeeds each time."""
    first = numbered(inputs, held)
    for _ in range(6):
        lacking = numbered(inputs, held)
        created = data.draw(st.sets(st.sampled_from(sorted(lacking)))) if lacking else set[int]()
        held = [*held, *(Held(number, key_of(lacking[number])) for number in created)]
    held = [*held, *(Held(number, key_of(value)) for number, value in numbered(inputs, held).items())]

    assert numbered(inputs, held) == {}
    there = Counter(row.key for row in held)
    assert all(there[key_of(value)] >= 1 for value in inputs)
    assert len(held) - len({row.number for row in held}) <= 8
    assert sum(there.values()) >= len(first)


labelled_rows = st.lists(
    st.builds(Held, st.integers(1, 6), few.map(key_of) | st.none(), few.map(key_of) | st.none()), max_size=8
)


@given(st.lists(few, max_size=6), labelled_rows)
def test_nothing_is_bought_that_a_row_is_known_by_in_either_way(inputs: list[str], held: list[Held]) -> None:
    """By our label, whatever the API makes of the input; and by the input, whatever somebody else's label says."""
    lacking = Counter(map(key_of, numbered(inputs, held).values()))

    wanted, labels = Counter(map(key_of, inputs)), Counter(row.label for row in held if row.label)
    unlabelled = Counter(row.key for row in held if row.key and not row.label)
    assert all(lacking[key] <= max(0, wanted[key] - labels[key] - unlabelled[key]) for key in wanted)
    assert lacking.total() >= len(inputs) - len(held)


def test_rows_keep_the_numbers_of_their_table_where_they_can() -> None:
    """A table that was cut off is completed; other rows are put behind it."""
    held = [Held(1, key_of("a")), Held(3, key_of({"n": 1.0, "m": None})), Held(4, None)]

    assert numbered(["a", "b", {"m": None, "n": 1}, "unread"], held) == {2: "b"}
    assert numbered(["x", "a"], held) == {5: "x"}
    assert numbered(["a", "b", "c"], held) == {5: "b", 6: "c"}


# ---- pages

values: st.SearchStrategy[JsonValue] = st.one_of(
    st.none(), st.booleans(), st.integers(), cells, st.lists(st.integers(), max_size=3).map(list[JsonValue])
)
long_texts: st.SearchStrategy[JsonValue] = st.tuples(cells, st.integers(0, 200)).map(lambda one: one[0] * one[1])


@st.composite
def placed_rows(draw: st.DrawFn) -> list[PlacedRow]:
    """Rows in the order in which a stream may bring them."""
    count = draw(st.integers(0, 25))
    rows = [
        TableRow(
            number=number,
            inputs={"a": draw(values)},
            outputs={"a": draw(values | long_texts), "result": draw(values)},
            status="completed",
            error=draw(st.just("") | cells),
            run_id=f"trun_{number}",
        )
        for number in range(1, count + 1)
    ]
    return draw(st.permutations([PlacedRow((row.number, row.number), row) for row in rows]))


def pages_of(rows: list[PlacedRow], columns: Columns, fmt: TableFormat, max_chars: int) -> list[TablePage]:
    """All pages, the cursor of each one read by the next."""
    pages: list[TablePage] = []
    position: Position | None = START
    while position is not None:
        collected = Collected(position, max_chars, fmt)
        for row in rows:
            collected.offer(row.order, lambda row=row: row)
        held_chars = sum(len(str(row.row.outputs["a"] or "")) for row in collected.rows[:-1])
        assert held_chars <= 2 * max_chars, "no more is held than may fit, and one row"
        page = table_page(collected, columns, fmt, max_chars, position)
        assert len(page.text) <= max_chars
        pages.append(page)
        position = page.next_position
        if position is not None:
            cursor = table_cursor(position, ["a table"])
            assert position_in(cursor) == position
    return pages


@settings(max_examples=150, deadline=None)
@given(placed_rows(), st.integers(500, 2_500))
def test_pages_of_csv_join_to_the_file(rows: list[PlacedRow], max_chars: int) -> None:
    """Also where a row is longer than a page, and in whatever order the rows come."""
    columns = columns_of(["a"], ["a", "result"])
    ordered = [row.row for row in sorted(rows, key=lambda row: row.order)]

    pages = pages_of(rows, columns, "csv", max_chars)

    lines = [csv_line(columns.cells(row).values()) for row in ordered]
    assert "".join(page.text for page in pages) == csv_line(list[JsonValue](columns.names)) + "".join(lines)
    assert all(page.total == len(rows) for page in pages)


@settings(max_examples=100, deadline=None)
@given(placed_rows(), st.sampled_from(["json", "markdown"]), st.integers(600, 2_500))
def test_each_row_is_on_one_page_in_row_order(rows: list[PlacedRow], fmt: TableFormat, max_chars: int) -> None:
    """Whole, or in pieces that no other row is between."""
    columns = columns_of(["a"], ["a", "result"])

    pages = pages_of(rows, columns, fmt, max_chars)

    given_rows: list[Any] = []
    for page in pages:
        given_rows += [one.order[0] for one in page.rows] if not page.part else []
        if page.part and (page.next_position is None or not page.next_position.offset):
            given_rows.append(page.end)
        assert [record["row"] for record in page.records] == [one.order[0] for one in page.rows]
    assert given_rows == list(range(1, len(rows) + 1))
