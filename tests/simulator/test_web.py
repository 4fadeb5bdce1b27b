"""Search and extract (checklist 32 to 34)."""

from __future__ import annotations

import time

import httpx
import pytest

from parallel_mcp.simulator.corpus import load_corpus
from tests.simulator.calls import Api, Object, connected

PAGES = {page.url: page for page in load_corpus().pages}
GRID = "https://energy.gridjournal.example/grid-storage-costs"
SODIUM = "https://energy.gridjournal.example/sodium-ion"
UNTITLED = "https://transit.cityworks.example/night-trains"


async def search(api: Api, *queries: str, **members: object) -> Object:
    return await api.post("/v1/search", search_queries=queries, **members)


def urls(answer: Object) -> list[str]:
    return [result["url"] for result in answer["results"]]


def characters(answer: Object) -> list[int]:
    return [sum(map(len, result["excerpts"])) for result in answer["results"]]


async def test_search_finds_the_page_with_sentences_of_it(api: Api) -> None:
    answer = await search(api, "sodium-ion battery price", objective="What do sodium-ion cells cost?")

    best = answer["results"][0]
    assert (best["url"], best["title"]) == (SODIUM, "Sodium-ion cells find their niche")
    assert best["publish_date"] == "2025-05-19"
    assert set(best["excerpts"]) <= set(PAGES[SODIUM].sentences)
    assert answer["usage"] == [{"name": "sku_search", "count": 1}]
    assert answer["warnings"] is None


async def test_different_queries_find_different_pages(api: Api) -> None:
    queries = ["printing press", "quantum error correction", "coffee prices", "right to repair", "MCP progress"]

    found = [urls(await search(api, query))[0] for query in queries]

    assert len(set(found)) == len(queries)


@pytest.mark.parametrize(
    "query",
    ["CEO of Microsoft", "weather in Paris tomorrow", "revenue of Toyota in 2023", "sushi", "???", "the of and"],
)
async def test_search_for_what_nobody_wrote_about_is_empty(api: Api, query: str) -> None:
    assert (await search(api, query))["results"] == []


async def test_session_is_echoed_or_made(api: Api) -> None:
    echoed = await search(api, "coffee", session_id="mine")
    made = await search(api, "coffee")

    assert echoed["session_id"] == "mine"
    assert made["session_id"].startswith("session_")


async def test_results_are_ten_unless_asked_otherwise_and_never_more_than_twenty(api: Api) -> None:
    broad = ["energy price", "cost million", "2025", "companies", "percent year"]

    usual = await search(api, *broad)
    few = await search(api, *broad, advanced_settings={"max_results": 2})
    many = await search(api, *broad, advanced_settings={"max_results": 50})

    assert (len(usual["results"]), len(few["results"]), len(many["results"])) == (10, 2, 20)
    assert urls(many)[:10] == urls(usual)
    assert many["warnings"][0]["message"] == "max_results was lowered to 20."
    assert {"name": "sku_search_additional_results", "count": 10} in many["usage"]


async def test_character_limits_are_kept(api: Api) -> None:
    queries = ["battery storage", "grid connection"]

    each = await search(api, *queries, advanced_settings={"excerpt_settings": {"max_chars_per_result": 120}})
    total = await search(api, *queries, max_chars_total=500)

    assert max(characters(each)) <= 120 < sum(characters(each))
    assert sum(characters(total)) == 500


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ({"include_domains": ["gridjournal.example"]}, True),
        ({"include_domains": ["energy.gridjournal.example"], "exclude_domains": ["gridjournal.example"]}, True),
        ({"include_domains": [".example"]}, True),
        ({"include_domains": ["energy.gridjournal.example/grid-storage-costs"]}, True),
        ({"include_domains": ["energy.gridjournal.example/grid"]}, False),
        ({"include_domains": ["journal.example"]}, False),
        ({"include_domains": [".gov.example"]}, False),
        ({"exclude_domains": ["gridjournal.example"]}, False),
        ({"exclude_domains": ["energy.gridjournal.example/sodium-ion/"]}, True),
        ({"after_date": "2025-09-30"}, True),
        ({"after_date": "2025-10-01"}, False),
    ],
)
async def test_source_policy_is_applied(api: Api, policy: Object, kept: bool) -> None:
    answer = await search(api, "grid-scale battery storage", advanced_settings={"source_policy": policy})

    assert (GRID in urls(answer)) == kept


@pytest.mark.parametrize(("location", "warned"), [("de", False), ("gb", False), ("uk", True), ("DE", True)])
async def test_unsupported_location_is_ignored_with_a_warning(api: Api, location: str, warned: bool) -> None:
    answer = await search(api, "coffee", advanced_settings={"location": location})

    assert bool(answer["warnings"]) == warned
    assert answer["results"]


BAD_SEARCHES: dict[str, Object] = {
    "no queries": {"search_queries": None},
    "objective only": {"search_queries": None, "objective": "coffee"},
    "empty list": {"search_queries": []},
    "blank queries": {"search_queries": ["", " "]},
    "six queries": {"search_queries": ["a"] * 6},
    "long query": {"search_queries": ["a" * 201]},
    "long objective": {"objective": "o" * 5001},
    "long session": {"session_id": "s" * 1001},
    "unknown mode": {"mode": "agentic"},
    "unknown key": {"max_results": 3},
    "unknown setting": {"advanced_settings": {"max_chars_total": 3}},
    "unknown excerpt setting": {"advanced_settings": {"excerpt_settings": {"max_chars_total": 3}}},
    "young cache": {"advanced_settings": {"fetch_policy": {"max_age_seconds": 599}}},
    "limit of zero": {"max_chars_total": 0},
}


@pytest.mark.parametrize("members", BAD_SEARCHES.values(), ids=BAD_SEARCHES.keys())
async def test_bad_search_is_refused(api: Api, members: Object) -> None:
    body = {key: value for key, value in ({"search_queries": ["coffee"]} | members).items() if value is not None}

    response = await api.http.post("/v1/search", json=body)

    error = response.json()["error"]
    assert (response.status_code, error["message"]) == (422, "Request validation error")
    assert error["ref_id"].startswith("search_")


@pytest.mark.parametrize(
    "members",
    [
        {"urls": None},
        {"urls": []},
        {"urls": [GRID] * 21},
        {"search_queries": ["a"] * 6},
        {"objective": "o" * 5001},
        {"session_id": "s" * 1001},
        {"full_content": True},
    ],
)
async def test_bad_extract_is_refused(api: Api, members: Object) -> None:
    body = {key: value for key, value in ({"urls": [GRID]} | members).items() if value is not None}

    response = await api.http.post("/v1/extract", json=body)

    assert response.status_code == 422
    assert response.json()["error"]["ref_id"].startswith("extract_")


async def test_extract_focuses_on_the_objective(api: Api) -> None:
    answer = await api.post("/v1/extract", urls=[GRID], objective="Which warranties do makers promise?")

    (result,) = answer["results"]
    assert result["excerpts"][0] == "Typical warranties promise 70 percent of the original capacity after 20 years."
    assert (result["full_content"], answer["warnings"], answer["errors"]) == (None, None, [])
    assert answer["usage"] == [{"name": "sku_extract_excerpts", "count": 1}]


async def test_extract_without_focus_gives_the_whole_page(api: Api) -> None:
    answer = await api.post("/v1/extract", urls=[GRID])

    assert answer["results"][0]["excerpts"] == [PAGES[GRID].markdown]


async def test_full_content_starts_at_the_top_and_is_cut_at_its_limit(api: Api) -> None:
    settings = {"full_content": {"max_chars_per_result": 100}}
    answer = await api.post("/v1/extract", urls=[GRID], max_chars_total=1000, advanced_settings=settings)

    assert answer["results"][0]["full_content"] == PAGES[GRID].markdown[:100]
    assert "same text" in answer["warnings"][0]["message"]


async def test_every_requested_url_is_a_result_or_an_error(api: Api) -> None:
    failing = [
        "https://energy.gridjournal.example/none",
        "https://nowhere.example/",
        "ftp://a.example",
        "http://[",
        "https://errors.example/503",
    ]
    answer = await api.post("/v1/extract", urls=[f"{GRID}/", *failing, UNTITLED, UNTITLED])

    assert urls(answer) == [f"{GRID}/", UNTITLED]
    assert [error["url"] for error in answer["errors"]] == failing
    assert [error["http_status_code"] for error in answer["errors"]] == [404, None, None, None, 503]
    assert answer["results"][1]["title"] is None


async def test_extract_where_every_url_fails_is_still_a_success(api: Api) -> None:
    answer = await api.post("/v1/extract", urls=["https://nowhere.example/"])

    assert answer["results"] == []
    assert len(answer["errors"]) == 1


async def test_legacy_search_takes_an_objective_alone_and_has_no_session(api: Api) -> None:
    answer = await api.post("/v1beta/search", objective="coffee prices", processor="base", max_results=1, novelty=1)

    assert len(answer["results"]) == 1
    assert "session_id" not in answer
    assert "deprecated" in answer["warnings"][0]["message"]


async def test_legacy_search_needs_something_to_look_for(api: Api) -> None:
    assert (await api.http.post("/v1beta/search", json={"mode": "fast"})).status_code == 422


async def test_legacy_extract_may_leave_out_excerpts_and_takes_ten_urls(api: Api) -> None:
    answer = await api.post("/v1beta/extract", urls=[GRID], excerpts=False, full_content=True)
    refused = await api.http.post("/v1beta/extract", json={"urls": [GRID] * 11})

    assert answer["results"][0]["excerpts"] is None
    assert answer["results"][0]["full_content"] == PAGES[GRID].markdown
    assert "session_id" not in answer
    assert refused.status_code == 422


async def test_modes_take_their_time() -> None:
    async with connected(speed=20) as api:
        seconds: dict[str, float] = {}
        for mode in ("turbo", "advanced"):
            started = time.monotonic()
            await search(api, "coffee", mode=mode)
            seconds[mode] = 20 * (time.monotonic() - started)

    assert seconds["turbo"] >= 0.2
    assert seconds["advanced"] >= 3


async def test_search_quota_is_answered_with_429() -> None:
    async with connected(searches_per_minute=1, speed=4) as api:
        answers: list[httpx.Response] = []
        for path, body in (("search", {"search_queries": ["a"], "mode": "turbo"}), ("extract", {"urls": [GRID]})):
            answers += [await api.http.post(f"/v1/{path}", json=body) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429, 200, 429]
