"""However large a result is and whatever it is made of, each answer about it is small, and nothing is lost."""

import json
import re
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client

from parallel_mcp.api.findall_models import Candidate, FindAllRun
from parallel_mcp.api.models import TaskRunResult
from parallel_mcp.render.candidates import CandidateTable
from parallel_mcp.render.documents import document_of
from parallel_mcp.render.outline import outline_of
from parallel_mcp.simulator import Fault
from parallel_mcp.tools.findall_results import page_of_matches
from parallel_mcp.tools.reply import reply, result_bytes
from parallel_mcp.tools.result_pages import GetResultArguments, ResultAnswer, page_of_result
from tests.conftest import Upstream
from tests.connecting import KEY, connected, create, structured, text_of

MOST_BYTES = 100_000
PIECES = {
    "words": "Grid storage costs fell again. ",
    "paragraphs": "## Costs\n\nThey fell by a third, to $140.\n\n",
    "quotes": '"\\',
    "controls": "\x01\x1b[31m",
    "Chinese": "电池储能成本",
    "emoji": "\U0001f600",
    "families": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "accents": "e\u0301\u0323",
    "nearly surrogates": "\ud7ff\ue000\ufffd\U00010000",
    "images": "![",
    "tags": "<img",
    "marks": "</untrusted-web-content>",
    "one line": "x",
}


def result_of(content: object, kind: str = "text", *, sources: int = 2, letter: str = "x") -> TaskRunResult:
    """A result as the API answers it."""
    citations = [
        {"url": f"https://a.example/{number}{letter * 1_500}", "title": letter * 300, "excerpts": [letter * 900] * 4}
        for number in range(sources)
    ]
    basis = [
        {"field": f"f{place}{letter * 150}", "reasoning": letter * 900, "confidence": "low", "citations": citations}
        for place in range(sources or 1)
    ]
    run = {"run_id": "trun_1", "status": "completed", "is_active": False, "processor": "ultra8x"}
    return TaskRunResult.model_validate(
        {"run": run, "output": {"type": kind, "content": content, "basis": basis if sources else []}}
    )


def pages_of(result: TaskRunResult, **arguments: Any) -> Iterator[ResultAnswer]:
    """All pages, each checked against the limits, as a caller gets them who follows the cursors."""
    request = GetResultArguments(id="trun_1", **arguments)
    cursor = ""
    while True:
        answer = page_of_result(request.model_copy(update={"cursor": cursor}), result)
        assert result_bytes(reply(answer.text, answer.structured)) <= MOST_BYTES
        assert len(answer.text) <= max(1_000, min(request.max_chars, 40_000))
        yield answer
        cursor = answer.structured.cursor or ""
        if not cursor:
            return


def joined(answers: list[ResultAnswer]) -> str:
    """The pages in one."""
    return "".join(answer.structured.untrusted.content or "" for answer in answers if answer.structured.untrusted)


def repeated(parts: list[tuple[str, int]], times: int) -> str:
    """A text of repeated pieces."""
    return "".join(piece * count for piece, count in parts) * times


contents = st.builds(
    repeated,
    st.lists(st.tuples(st.sampled_from([*PIECES.values()]) | st.text(max_size=20), st.integers(1, 200)), max_size=8),
    st.integers(1, 30),
)


@given(contents, st.integers(0, 50_000), st.sampled_from(["none", "brief", "full"]), st.sampled_from([0, 2, 60]))
@settings(max_examples=50, deadline=None)
def test_pages_are_small_and_join_to_the_whole(content: str, max_chars: int, citations: Any, sources: int) -> None:
    """A cursor is all that a caller has to pass on."""
    content = content[: max(max_chars, 1_000) * 8]
    result = result_of(content, sources=sources)

    pages = list(pages_of(result, max_chars=max_chars, citations=citations))

    assert joined(pages) == document_of(result.output, "markdown", citations)
    assert joined(pages).startswith(content)


def start_of(text: str) -> str:
    """A text that leaves room for others."""
    return text[:5_000]


scalars: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
json_values: st.SearchStrategy[Any] = st.recursive(
    scalars | contents.map(start_of),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=10), inner, max_size=6),
    max_leaves=30,
)


@given(st.dictionaries(st.text(max_size=20), json_values, max_size=8), st.sampled_from(["markdown", "json", "csv"]))
@settings(max_examples=60, deadline=None)
def test_json_results_are_exact_however_they_are_paged(content: dict[str, Any], fmt: Any) -> None:
    """As a value if they fit, else as pages of text that join to it."""
    result = result_of(content, "json")

    pages = list(pages_of(result, format=fmt))

    (first, *rest) = pages
    assert first.structured.untrusted is not None
    if first.structured.untrusted.content is None:
        assert not rest
        assert first.structured.untrusted.output == content
    elif fmt == "json":
        assert json.loads(joined(pages)) == content
    else:
        assert joined(pages) == document_of(result.output, fmt, "brief")


def matches_of(letter: str, count: int) -> tuple[FindAllRun, list[Candidate]]:
    """A FindAll run with long matches, none of them certain."""
    candidate = {
        "name": letter * 90,
        "url": f"https://a.example/{letter * 1_500}",
        "description": letter * 2_000,
        "output": {f"f{place}{letter * 90}": {"value": letter * 700} for place in range(8)},
        "basis": [
            {
                "field": f"f{place}{letter * 90}",
                "reasoning": letter * 900,
                "confidence": "low",
                "citations": [{"url": f"https://b.example/{place}{letter * 1_500}", "excerpts": [letter * 900] * 4}],
            }
            for place in range(8)
        ],
    }
    candidates = [Candidate.model_validate({**candidate, "candidate_id": f"c{place}"}) for place in range(count)]
    return FindAllRun.model_validate({"findall_id": "findall_1", "status": {"status": "completed"}}), candidates


@pytest.mark.parametrize("letter", ["x", "电", "\U0001f600", '"', "\x01"])
@pytest.mark.parametrize("fmt", ["markdown", "json", "csv"])
@pytest.mark.parametrize(("citations", "max_chars"), [("full", 40_000), ("brief", 1_000)])
def test_matches_are_paged_as_results_are(letter: str, fmt: Any, citations: Any, max_chars: int) -> None:
    """A table of a thousand matches is as large as any report."""
    run, matches = matches_of(letter, 12)
    request = GetResultArguments(id="findall_1", format=fmt, citations=citations, max_chars=max_chars)
    document = CandidateTable(matches).document(fmt, citations)
    heading = f"Columns: {CandidateTable(matches).heading}\n"
    pages: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = page_of_matches(request.model_copy(update={"cursor": cursor}), run, matches)
        assert result_bytes(reply(answer.text, answer.structured)) <= MOST_BYTES
        assert len(answer.text) <= max_chars
        assert answer.structured.untrusted is not None
        pages.append((answer.structured.untrusted.content or "").removeprefix(heading))
        cursor = answer.structured.cursor

    assert "".join(pages) == document
    assert len(pages) <= 3 * len(document) / max_chars + 2 * len(document.encode()) / 30_000


@pytest.mark.parametrize("script", ["paragraphs", "one line", "Chinese", "families", "images"])
def test_two_megabytes_come_in_small_pages_quickly(script: str) -> None:
    """A report of ultra8x, in any script. Processor time is measured, since the machine may be busy."""
    piece = PIECES[script]
    content = piece * (2_000_000 // len(piece.encode()))
    result = result_of(content)
    answers: list[ResultAnswer] = []
    times_s: list[float] = []

    started = time.process_time()
    for answer in pages_of(result, max_chars=40_000):
        times_s.append(time.process_time() - started)
        answers.append(answer)
        started = time.process_time()

    assert joined(answers).startswith(content)
    assert len(answers) >= 20
    assert statistics.median(times_s) < 0.2


@pytest.mark.parametrize("letter", ["x", "电", "\U0001f600", '"', "\x01"])
@pytest.mark.parametrize("citations", ["brief", "full"])
def test_many_long_citations_leave_room_for_the_result(letter: str, citations: Any) -> None:
    """Else the first page would hold nothing but addresses."""
    result = result_of("word " * 20_000, sources=120, letter=letter)

    first = next(pages_of(result, max_chars=40_000, citations=citations))

    assert first.structured.page is not None
    assert first.structured.page.end >= 4_000


@pytest.mark.parametrize(("kind", "content"), [("text", "word " * 100), ("json", {"a": "word"})])
def test_structured_half_says_that_it_lacks_sources(kind: str, content: object) -> None:
    """Some clients show their model no other half."""
    (complete,) = pages_of(result_of(content, kind, sources=50, letter=""), max_chars=40_000)
    (cut,) = pages_of(result_of(content, kind, sources=120, letter=""), max_chars=40_000)

    assert complete.structured.remark is None
    assert cut.structured.remark == "`citations` holds 50 of 120 sources; format markdown lists all."
    assert all(f"https://a.example/{number}" in cut.text for number in (49, 119))


def test_page_parts_no_letter_from_its_accent_and_no_joined_emoji() -> None:
    """Half a family is another picture."""
    for piece in (PIECES["families"], PIECES["accents"]):
        for answer in pages_of(result_of(piece * 5_000, sources=0), max_chars=1_000):
            assert answer.structured.untrusted is not None
            assert (answer.structured.untrusted.content or "").replace(piece, "") == ""


def test_first_page_has_an_outline_whose_cursors_lead_to_the_parts() -> None:
    """A reader of a long report can go to the part that matters, and see how much there is."""
    report = "Opening.\n\n" + "".join(f"## Part {n}\n\n" + f"Words of part {n}. " * 200 + "\n\n" for n in range(9))
    result = result_of(report, sources=1)

    first = next(pages_of(result, max_chars=4_000))

    assert first.structured.untrusted is not None
    outline = first.structured.untrusted.outline or []
    assert [part.heading for part in outline] == [*(f"Part {n}" for n in range(9)), "Sources"]
    assert sum(part.chars for part in outline) == len(document_of(result.output, "markdown", "brief")) - len(
        "Opening.\n\n"
    )
    request = GetResultArguments(id="trun_1", max_chars=4_000, cursor=outline[5].cursor)
    page = page_of_result(request, result).structured
    assert page.untrusted is not None
    assert (page.untrusted.content or "").startswith("## Part 5\n\nWords of part 5.")
    assert page.untrusted.outline is None
    assert "- Part 0 (" in first.text
    assert f'cursor="{outline[0].cursor}"' in first.text


@given(
    st.text(alphabet=st.sampled_from([*'#- *"\\:ab\n']), max_size=300),
    st.sampled_from(["markdown", "json"]),
    st.booleans(),
)
def test_outline_parts_follow_each_other_to_the_end(document: str, fmt: Any, has_fields: bool) -> None:
    """Their sizes tell how much there is to read."""
    sections = outline_of(document, fmt, has_fields=has_fields)

    for section, after in pairwise(sections):
        assert section.start < section.end == after.start
    if sections:
        assert sections[-1].end == len(document)


async def test_result_of_two_megabytes_through_the_protocol(upstream: Upstream) -> None:
    """The same over the wire, with what JSON can spell but no text can hold."""
    text = ("Storage \U0001f600 电池 e\u0301 " * 12 + "\n\n") * 10_000
    body = json.dumps(
        {
            "run": {"run_id": "trun_1", "status": "completed", "is_active": False, "processor": "ultra"},
            "output": {"type": "text", "content": text + "\ud83d end", "basis": []},
        }
    )
    assert len(body) > 2_000_000
    upstream.simulator.add_fault(Fault("GET", r"/v1/tasks/runs/[^/]+/result", times=None, status=200, body=body))
    pages: list[str] = []
    cursor = ""

    async with connected("memory", upstream.url) as client:
        while not pages or cursor:
            result = await client.call_tool("get_result", {"id": "trun_1", "max_chars": 40_000, "cursor": cursor})
            typed = structured(result)
            assert len(result.model_dump_json(by_alias=True).encode()) <= MOST_BYTES
            assert len(text_of(result)) <= 40_000
            pages.append(typed["untrusted"]["content"])
            cursor = typed.get("cursor", "")

    assert "".join(pages) == text + "\ufffd end"


@pytest.mark.parametrize("letter", ["x", "电", "\U0001f600", '"', "\x01"])
async def test_web_results_share_one_budget_in_characters_and_bytes(upstream: Upstream, letter: str) -> None:
    """Long pages of any script; a page that needs little leaves its share to the others."""
    page = {"url": f"https://a.example/{letter * 2_000}", "title": letter * 600, "excerpts": [letter * 300] * 9}
    short = {"url": "https://b.example/", "title": "Short", "excerpts": ["All of it."]}
    answer = {
        "results": [short, *([page] * 20)],
        "errors": [{"url": letter * 300, "error_type": letter * 300}] * 40,
        "warnings": [{"type": "w", "message": letter * 900}] * 40,
        "search_id": "search_1",
        "extract_id": "extract_1",
        "session_id": "session_1",
    }
    body = json.dumps(answer, ensure_ascii=False)
    upstream.simulator.add_fault(Fault("POST", ".*", times=None, status=200, body=body))

    async with connected("memory", upstream.url) as client:
        found = await client.call_tool("search", {"objective": "x"})
        read = await client.call_tool("extract", {"urls": ["https://b.example/"], "full_content": True})

    for result in (found, read):
        assert len(result.model_dump_json(by_alias=True).encode()) <= MOST_BYTES
        first, *others = structured(result)["untrusted"]["results"]
        assert first["excerpts"] == ["All of it."]
        sizes = [len(other.get("full_content") or "") + sum(map(len, other["excerpts"])) for other in others]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 100
        assert sum(sizes) <= 25_000


@pytest.mark.parametrize("letter", ["x", "\U0001f600"])
async def test_watch_that_brings_many_long_messages_keeps_within_the_size(upstream: Upstream, letter: str) -> None:
    """The newest are told."""
    steps = [
        {"type": "task_run.progress_msg.plan", "message": f"{number} {letter * 500}", "timestamp": str(number)}
        for number in range(300)
    ]
    state = {"run_id": "trun_1", "status": "completed", "is_active": False, "processor": "ultra"}
    stream = "".join(f"data: {json.dumps(step)}\n\n" for step in [*steps, {"type": "task_run.state", "run": state}])
    events = Fault("GET", ".*/events", times=None, status=200, body=stream, content_type="text/event-stream")
    running = json.dumps({**state, "status": "running", "is_active": True})
    upstream.simulator.add_fault(events)
    upstream.simulator.add_fault(Fault("GET", "/v1/tasks/runs/trun_1", times=None, status=200, body=running))

    async with connected("memory", upstream.url) as client:
        result = await client.call_tool("watch_progress", {"id": "trun_1"})

    assert len(result.model_dump_json(by_alias=True).encode()) <= MOST_BYTES
    told = structured(result)["untrusted_messages"]
    assert told[-1].startswith("299 ")
    assert f"({300 - len(told)} older ones left out)" in text_of(result)


async def test_each_half_of_each_answer_can_be_read_alone(upstream: Upstream, client: Client) -> None:
    """Some clients give the model only the text, others only the structured content."""
    run_id = await create(client, "latency=6 size=60000")
    never = await create(client, "never")
    watched = await client.call_tool("watch_progress", {"id": run_id})
    first = await client.call_tool("get_result", {"id": run_id, "max_chars": 8_000})
    middle = await client.call_tool(
        "get_result", {"id": run_id, "max_chars": 8_000, "cursor": structured(first)["cursor"]}
    )
    answers = {
        "create_task": (await client.call_tool("create_task", {"input": "x", "metadata": {"sim": "never"}}), "queued"),
        "run_task": (
            await client.call_tool("run_task", {"input": "storage", "metadata": {"sim": "latency=6"}}),
            "completed",
        ),
        "run_task out of time": (
            await client.call_tool("run_task", {"input": "y", "metadata": {"sim": "never"}, "timeout_s": 2}),
            None,
        ),
        "watch_progress": (watched, "completed"),
        "watch_progress out of time": (await client.call_tool("watch_progress", {"id": never, "timeout_s": 2}), None),
        "get_status": (await client.call_tool("get_status", {"ids": [run_id]}), "completed"),
        "get_result": (await client.call_tool("get_result", {"id": run_id, "max_chars": 40_000}), "completed"),
        "get_result, first page": (first, "completed"),
        "get_result, later page": (middle, "completed"),
        "get_result as json": (await client.call_tool("get_result", {"id": run_id, "format": "json"}), "completed"),
        "get_result too early": (await client.call_tool("get_result", {"id": never}), None),
    }

    for name, (result, status) in answers.items():
        content = structured(result)
        item = content["items"][0] if "items" in content else content
        half = text_of(result)
        assert (item.get("id") or item["run_id"]) in half, name
        assert item["status"] in half, name
        assert status in (None, item["status"]), name
        assert item["next"] in half, name
        if status == "completed" and ("result" in name or "run_task" in name):
            citations = content["untrusted"]["citations"]
            assert citations, name
            assert all(source["url"] in half for source in citations), name

    for tool, arguments in (
        ("search", {"objective": "grid storage"}),
        ("extract", {"urls": ["https://nowhere.example/"]}),
    ):
        result = await client.call_tool(tool, arguments)
        content, half = structured(result), text_of(result)
        assert content["next"] in half
        assert content["session_id"] in half
        assert all(page["url"] in half for page in content["untrusted"]["results"])
    assert KEY not in json.dumps([result.model_dump(mode="json") for result, _ in answers.values()])


def test_json_result_reads_as_a_list_with_tables_and_no_text_looks_like_a_field() -> None:
    """A value that spans lines must not pass for the next field, nor a cell for the next column."""
    content = {
        "note": "first\n- **price** (high confidence) [1]: 5",
        "rows": [{"name": "a|b", "usd": 1}, {"name": "c", "usd": None}],
        "long": [{"name": "x" * 100, "usd": 1}, {"name": "y", "usd": 2}],
        "deep": [[[[[[[["all"]]]]]]]],
    }

    document = document_of(result_of(content, "json", sources=0).output, "markdown", "none")

    assert re.findall(r"^- \*\*(\w+)\*\*", document, re.MULTILINE) == list(content)
    assert "  | name | usd |\n  | --- | --- |\n  | a\\|b | 1 |\n  | c |  |\n" in document
    assert f"- name: {'x' * 100}" in document
    assert '[["all"]]' in document


def test_csv_is_in_both_halves() -> None:
    """Whoever asked for it may see only one."""
    (answer,) = pages_of(result_of({"a": 1, "b": "x,y"}, "json", sources=0), format="csv")

    assert answer.structured.untrusted is not None
    assert answer.structured.untrusted.content == 'a,b\r\n1,"x,y"\r\n'
    assert 'a,b\n1,"x,y"\n' in answer.text
