"""Results: cited, paged without loss, and both halves useful alone."""

import csv
import io
import json
from typing import Any

from mcp import Client

from tests.conftest import Upstream
from tests.connecting import connected, create, failure, structured, text_of

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "cost_per_kwh": {"type": "number", "description": "Cost in dollars"},
        "main_drivers": {"type": "array", "items": {"type": "string"}},
        "outlook": {
            "type": "object",
            "properties": {"trend": {"type": "string", "enum": ["up", "down"]}},
            "required": ["trend"],
            "additionalProperties": False,
        },
    },
    "required": ["cost_per_kwh", "main_drivers", "outlook"],
    "additionalProperties": False,
}


async def finished(client: Client, story: str = "", **arguments: Any) -> str:
    """A run that has completed."""
    run_id = await create(client, f"latency=6 {story}", **arguments)
    await client.call_tool("watch_progress", {"id": run_id})
    return run_id


async def test_report_comes_with_numbered_sources_in_both_halves(client: Client) -> None:
    """Some clients show the model only the text, some only the structured content."""
    run_id = await finished(client)

    result = await client.call_tool("get_result", {"id": run_id})
    typed, text = structured(result), text_of(result)

    assert (typed["id"], typed["status"], typed["is_final"]) == (run_id, "completed", True)
    sources = typed["untrusted"]["citations"]
    assert [source["number"] for source in sources] == list(range(1, len(sources) + 1))
    assert sources
    assert run_id in text
    for source in sources:
        assert f"{source['number']}. {source['title']} - {source['url']}" in text
    assert "battery" in typed["untrusted"]["content"].lower()


async def test_json_result_is_exact_in_one_half_and_readable_in_the_other(client: Client) -> None:
    """Values of the requested types, with confidence and sources at each field."""
    run_id = await finished(client, output_schema=SCHEMA)

    result = await client.call_tool("get_result", {"id": run_id})
    output = structured(result)["untrusted"]["output"]

    assert isinstance(output["cost_per_kwh"], int | float)
    assert isinstance(output["main_drivers"], list)
    assert output["outlook"]["trend"] in ("up", "down")
    text = text_of(result)
    assert "**cost_per_kwh** (" in text
    assert "confidence) [1" in text
    assert "## Sources" in text
    evidence = structured(result)["untrusted"]["evidence"]
    assert set(SCHEMA["properties"]) <= {entry["field"] for entry in evidence}
    assert all(entry["sources"] and entry["confidence"] for entry in evidence)


async def test_fields_narrow_a_json_result(client: Client) -> None:
    """A model that needs one value should not read fifty."""
    run_id = await finished(client, output_schema=SCHEMA)

    result = structured(await client.call_tool("get_result", {"id": run_id, "fields": ["outlook"]}))
    unknown = await failure(client, "get_result", {"id": run_id, "fields": ["nonsense"]})

    assert list(result["untrusted"]["output"]) == ["outlook"]
    assert "`cost_per_kwh`, `main_drivers`, `outlook`" in unknown


async def test_formats_hold_the_content_alone(client: Client) -> None:
    """For programs and spreadsheets."""
    run_id = await finished(client, output_schema=SCHEMA)
    exact = structured(await client.call_tool("get_result", {"id": run_id}))["untrusted"]["output"]

    as_json = text_of(await client.call_tool("get_result", {"id": run_id, "format": "json"}))
    as_csv = text_of(await client.call_tool("get_result", {"id": run_id, "format": "csv"}))

    assert json.loads(inside_marks(as_json)) == exact
    header, row = list(csv.reader(io.StringIO(inside_marks(as_csv))))
    assert header == list(exact)
    assert json.loads(row[0]) == exact["cost_per_kwh"]
    assert json.loads(row[1]) == exact["main_drivers"]
    assert "choose `markdown` or `json`" in await failure(
        client, "get_result", {"id": await finished(client), "format": "csv"}
    )


async def test_citations_as_wanted(client: Client) -> None:
    """None for a cheap look, full for checking."""
    run_id = await finished(client)

    none = await client.call_tool("get_result", {"id": run_id, "citations": "none"})
    full = text_of(await client.call_tool("get_result", {"id": run_id, "citations": "full"}))

    assert "citations" not in structured(none)["untrusted"]
    assert "   > " in full
    assert "## Reasoning" in full


async def test_long_result_comes_in_pages_that_join_to_the_whole(upstream: Upstream, client: Client) -> None:
    """Two megabytes must neither flood the model nor be cut off."""
    run_id = await finished(client, "size=400000")
    whole = structured(await client.call_tool("get_result", {"id": run_id, "max_chars": 40_000, "citations": "none"}))

    pages: list[str] = []
    cursor, total = "", 0
    while not pages or cursor:
        result = await client.call_tool(
            "get_result", {"id": run_id, "max_chars": 30_000, "citations": "none", "cursor": cursor}
        )
        typed = structured(result)
        assert len(text_of(result)) < 31_000
        assert len(result.model_dump_json()) < 100_000
        assert typed["page"]["start"] == sum(map(len, pages))
        pages.append(typed["untrusted"]["content"])
        cursor, total = typed.get("cursor", ""), typed["page"]["total"]

    assert len(pages) >= 12
    document = "".join(pages)
    assert len(document) == total >= 390_000
    assert document.startswith(whole["untrusted"]["content"])


async def test_next_page_call_can_be_copied(client: Client) -> None:
    """Models copy the call they are shown."""
    run_id = await finished(client, "size=50000")

    first = structured(await client.call_tool("get_result", {"id": run_id, "max_chars": 5_000, "citations": "none"}))

    assert first["next"] == (f'get_result(id="{run_id}", citations="none", max_chars=5000, cursor="{first["cursor"]}")')


async def test_cursor_of_another_document_is_refused(client: Client) -> None:
    """Silently starting over would give pages twice."""
    run_id = await finished(client, "size=50000")
    cursor = structured(await client.call_tool("get_result", {"id": run_id}))["cursor"]

    text = await failure(client, "get_result", {"id": run_id, "format": "json", "cursor": cursor})

    assert "`cursor` does not belong" in text


async def test_result_that_is_not_ready_says_how_to_wait(upstream: Upstream, client: Client) -> None:
    """No error: nothing went wrong."""
    run_id = await create(client, "never")

    result = await client.call_tool("get_result", {"id": run_id})

    typed = structured(result)
    assert not typed["is_final"]
    assert typed["next"] == f'watch_progress(id="{run_id}")'
    assert "is not ready" in text_of(result)


async def test_doubtful_fields_are_named_first(client: Client) -> None:
    """A question that no page answers: the report says so, and so does the result."""
    run_id = await finished(client, input="zzyzx quuxification of frobnicators")

    result = await client.call_tool("get_result", {"id": run_id})

    assert structured(result)["untrusted"]["check_these"]
    assert "Check these" in text_of(result)


async def test_different_questions_get_different_cited_answers(client: Client) -> None:
    """What the demo shows is research over a corpus, not a fixed text."""
    questions = ["cost of grid-scale battery storage", "electric buses in cities"]
    answers = [
        structured(await client.call_tool("get_result", {"id": await finished(client, input=question)}))
        for question in questions
    ]

    first, second = (answer["untrusted"] for answer in answers)
    assert first["content"] != second["content"]
    assert first["citations"][0]["url"] != second["citations"][0]["url"]


async def test_extract_reads_pages_and_lists_those_it_could_not(client: Client) -> None:
    """A failure of one page is data, not an error."""
    found = structured(await client.call_tool("search", {"objective": "grid storage"}))
    url = found["untrusted"]["results"][0]["url"]

    result = structured(
        await client.call_tool("extract", {"urls": [url, "https://nowhere.example/x"], "full_content": True})
    )

    assert (result["read_count"], result["failed_count"]) == (1, 1)
    assert result["untrusted"]["results"][0]["url"] == url
    assert result["untrusted"]["results"][0]["full_content"]
    assert result["untrusted"]["failed"][0]["url"] == "https://nowhere.example/x"


async def test_search_without_queries_derives_one_from_the_objective(upstream: Upstream, client: Client) -> None:
    """The API demands a query; the model need not know."""
    await client.call_tool("search", {"objective": "grid storage " * 40, "exclude_domains": ["a.example"]})

    sent = json.loads(upstream.sent("POST", "/v1/search")[0])
    assert len(sent["search_queries"]) == 1
    assert 150 < len(sent["search_queries"][0]) <= 200
    assert sent["mode"] == "basic"
    assert sent["advanced_settings"] == {"source_policy": {"exclude_domains": ["a.example"]}}


async def test_recent_runs_are_found_without_their_ids(upstream: Upstream) -> None:
    """A model that lost a run id must not create the run again."""
    async with connected("memory", upstream.url) as client:
        nothing = await client.call_tool("get_status", {})
        first = await create(client, "never", input="first question")
        second = await create(client, "never", input="second question")
        known = await client.call_tool("get_status", {})
        one = await client.call_tool("get_status", {"limit": 1})

    assert "No runs" in text_of(nothing)
    assert [item["id"] for item in structured(known)["items"]] == [second, first]
    assert "Spent or reserved: $0.050 in the last hour" in text_of(known)
    assert [item["id"] for item in structured(one)["items"]] == [second]


def inside_marks(text: str) -> str:
    """The content between the first marks."""
    return text.partition("<untrusted-web-content>\n")[2].partition("\n</untrusted-web-content>")[0]
