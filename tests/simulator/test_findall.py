"""FindAll runs: what they find, how they end, and what may be done to them (checklist 36)."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from tests.simulator.calls import FAST, FINDALL, KEY, STILL, Api, Object, connected, ever_slower, object_schema

ENRICHMENT = {"type": "json", "json_schema": object_schema(ceo_name={"type": "string"}, founded={"type": "integer"})}
OTHER = {"x-api-key": "other"}


async def ended(api: Api, path: str) -> Object:
    """Follow a run to its end; returns its result."""
    await api.events(f"{path}/events")
    return await api.get(f"{path}/result")


def by_status(result: Object, status: str) -> list[Object]:
    return [candidate for candidate in result["candidates"] if candidate["match_status"] == status]


def status_of(run: Object) -> tuple[str, bool, str | None]:
    status = run["status"]
    return status["status"], status["is_active"], status["termination_reason"]


async def test_new_run_is_queued(api: Api) -> None:
    run = await api.post("/v1beta/findall/runs", **FINDALL, metadata={"batch": 7})

    assert re.fullmatch(r"findall_[0-9a-f]{32}", run["findall_id"])
    assert status_of(run) == ("queued", True, None)
    assert run["status"]["metrics"] == {"generated_candidates_count": 0, "matched_candidates_count": 0}
    assert (run["generator"], run["metadata"]) == ("base", {"batch": 7})


async def test_run_finds_as_many_matches_as_its_limit(api: Api) -> None:
    result = await ended(api, await api.findall(match_limit=12))

    assert status_of(result["run"]) == ("completed", False, "match_limit_met")
    assert len(by_status(result, "matched")) == result["run"]["status"]["metrics"]["matched_candidates_count"] == 12
    assert len(result["candidates"]) == result["run"]["status"]["metrics"]["generated_candidates_count"]
    assert by_status(result, "unmatched")
    assert not by_status(result, "generated")


async def test_candidates_tell_which_conditions_they_meet(api: Api) -> None:
    conditions = [{"name": name, "description": f"must {name}"} for name in ("build", "sell")]
    result = await ended(api, await api.findall(match_conditions=conditions))

    for candidate in result["candidates"]:
        if candidate["match_status"] == "discarded":
            assert (candidate["output"], candidate["basis"]) == (None, None)
            continue
        verdicts = [verdict["is_matched"] for verdict in candidate["output"].values()]
        assert all(verdicts) == (candidate["match_status"] == "matched")
        assert [entry["field"] for entry in candidate["basis"]] == ["build", "sell"]
        assert {verdict["type"] for verdict in candidate["output"].values()} == {"match_condition"}


@pytest.mark.parametrize("entity_type", ["companies", "people", "telescopes"])
async def test_no_entity_is_found_twice(api: Api, entity_type: str) -> None:
    result = await ended(api, await api.findall(match_limit=200, entity_type=entity_type))

    names = [candidate["name"] for candidate in result["candidates"]]
    assert len({*names}) == len(names)
    assert len({candidate["candidate_id"] for candidate in result["candidates"]}) == len(names)


async def test_companies_of_the_corpus_come_first_and_can_be_extracted(api: Api) -> None:
    """What a search, an extract and a FindAll say of a company agrees."""
    result = await ended(api, await api.findall())

    first = result["candidates"][0]
    page = await api.post("/v1/extract", urls=[first["url"]])
    assert (first["name"], page["results"][0]["title"]) == ("Vantor Robotics", "Company profile: Vantor Robotics")


async def test_excluded_entities_are_not_found(api: Api) -> None:
    before = await ended(api, await api.findall())
    named, linked = before["candidates"][0], before["candidates"][3]
    excluded = [{"name": named["name"].upper(), "url": ""}, {"name": "", "url": linked["url"].removesuffix("/about")}]

    after = await ended(api, await api.findall(exclude_list=excluded))

    assert {named["name"], linked["name"]}.isdisjoint(candidate["name"] for candidate in after["candidates"])


async def test_result_is_a_snapshot_that_does_not_wait() -> None:
    async with connected(speed=STILL) as api:
        result = await api.get(f"{await api.findall('never queue=0')}/result")

    assert status_of(result["run"])[1]
    assert result["candidates"] == []
    assert result["last_event_id"]


@pytest.mark.parametrize(
    ("story", "end"),
    [
        ("candidates=3", ("completed", False, "candidates_exhausted")),
        ("candidates=0", ("completed", False, "candidates_exhausted")),
        ("matches=2", ("completed", False, "low_match_rate")),
        ("matches=0", ("completed", False, "low_match_rate")),
        ("fails", ("failed", False, "error_occurred")),
        ("ends=timeout", ("failed", False, "timeout")),
        ("ends=insufficient_funds", ("failed", False, "insufficient_funds")),
        ("ends=low_match_rate", ("completed", False, "low_match_rate")),
        ("ends=user_cancelled", ("cancelled", False, "user_cancelled")),
        ("status=cancelled", ("cancelled", False, "user_cancelled")),
        ("status=action_required", ("action_required", False, None)),
    ],
)
async def test_story_decides_how_a_run_ends(api: Api, story: str, end: tuple[str, bool, str | None]) -> None:
    result = await ended(api, await api.findall(story))

    assert status_of(result["run"]) == end


@pytest.mark.parametrize(("story", "matches"), [("candidates=0", 0), ("matches=0", 0), ("matches=2", 2)])
async def test_story_decides_how_much_is_found(api: Api, story: str, matches: int) -> None:
    result = await ended(api, await api.findall(story))

    assert len(by_status(result, "matched")) == matches


async def test_run_that_fails_keeps_what_it_has_found(api: Api) -> None:
    result = await ended(api, await api.findall("fails", match_limit=20))

    assert 0 < len(by_status(result, "matched")) < 20


async def test_preview_looks_at_ten_candidates_and_stays_as_it_is(api: Api) -> None:
    path = await api.findall(generator="preview", match_limit=10)
    result = await ended(api, path)

    assert len(result["candidates"]) == 10
    assert status_of(result["run"]) == ("completed", False, "candidates_exhausted")
    for action, body in (
        ("enrich", {"output_schema": ENRICHMENT}),
        ("extend", {"additional_match_limit": 1}),
        ("cancel", {}),
    ):
        assert (await api.http.post(f"{path}/{action}", json=body)).status_code == 422


async def test_enrichment_answers_for_every_match_and_for_no_other(api: Api) -> None:
    path = await api.findall()
    schema = await api.post(f"{path}/enrich", processor="base", output_schema=ENRICHMENT)
    result = await ended(api, path)

    assert schema["enrichments"] == [{"processor": "base", "output_schema": ENRICHMENT, "mcp_servers": None}]
    for candidate in by_status(result, "matched"):
        added = {name: value for name, value in candidate["output"].items() if value["type"] == "enrichment"}
        assert list(added) == ["ceo_name", "founded"]
        assert isinstance(added["founded"]["value"], int)
        assert [entry["field"] for entry in candidate["basis"]] == ["automation_check", "ceo_name", "founded"]
    assert not any("ceo_name" in candidate["output"] for candidate in by_status(result, "unmatched"))


async def test_completed_run_that_is_enriched_runs_until_that_is_done(api: Api) -> None:
    path = await api.findall()
    before = await ended(api, path)
    await api.post(f"{path}/enrich", output_schema=ENRICHMENT)

    events = await api.events(f"{path}/events", last_event_id=before["last_event_id"])

    enriched = ["findall.candidate.enriched"] * 5
    told = [event["type"] for event in events if status_of_event(event) != "running"]
    assert told == ["findall.schema.updated", *enriched, "findall.status"]
    assert status_of(events[-1]["data"]) == ("completed", False, "match_limit_met")


def status_of_event(event: Object) -> str | None:
    return event["data"]["status"]["status"] if event["type"] == "findall.status" else None


async def test_extension_raises_the_limit_of_a_completed_run(api: Api) -> None:
    path = await api.findall()
    before = await ended(api, path)

    schema = await api.post(f"{path}/extend", additional_match_limit=4)
    after = await ended(api, path)

    assert schema["match_limit"] == 9
    assert len(by_status(after, "matched")) == 9
    assert after["candidates"][: len(before["candidates"])] == before["candidates"]
    assert await api.get(f"{path}/schema") == schema


async def test_extension_of_an_active_run_is_found_in_the_same_go() -> None:
    events: list[Object] = []
    for speed in ever_slower(FAST):
        async with connected(speed=speed) as api:
            created_at = time.monotonic()
            path = await api.findall("latency=5000")
            await api.post(f"{path}/extend", additional_match_limit=3)
            took_s = time.monotonic() - created_at
            events = await api.events(f"{path}/events")
        if took_s < 5000 / speed:
            break

    ends = [event for event in events if status_of_event(event) == "completed"]
    assert len(ends) == 1
    assert ends[0]["data"]["status"]["metrics"]["matched_candidates_count"] == 8


async def test_cancelled_run_judges_what_it_has_found_and_ends() -> None:
    async with connected(speed=200) as api:
        path = await api.findall("never queue=0 latency=2000", match_limit=100)
        while not (await api.get(path))["status"]["metrics"]["generated_candidates_count"]:
            pass
        answer = await api.http.post(f"{path}/cancel")
        events = await api.events(f"{path}/events")
        result = await api.get(f"{path}/result")
        late = await api.http.post(f"{path}/cancel")
        extension = await api.http.post(f"{path}/extend", json={"additional_match_limit": 1})

    told = next(event["data"] for event in events if status_of_event(event) == "cancelling")
    assert (answer.status_code, answer.content) == (204, b"")
    assert status_of(told) == ("cancelling", True, None)
    assert status_of(result["run"]) == ("cancelled", False, "user_cancelled")
    assert len(result["candidates"]) == told["status"]["metrics"]["generated_candidates_count"] > 0
    assert not by_status(result, "generated")
    assert (late.status_code, late.json()["error"]["message"]) == (409, "Cannot cancel a terminated FindAll run")
    assert extension.status_code == 422


async def test_cancelling_twice_is_no_mistake() -> None:
    async with connected(speed=STILL) as api:
        path = await api.findall("never")
        answers = [await api.http.post(f"{path}/cancel") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [204, 204]


@pytest.mark.parametrize("action", ["", "/result", "/schema", "/events", "/cancel", "/enrich", "/extend"])
async def test_run_exists_for_its_own_key_only(api: Api, action: str) -> None:
    path = await api.findall()
    method = "POST" if action in ("/cancel", "/enrich", "/extend") else "GET"
    body = {"output_schema": ENRICHMENT, "additional_match_limit": 1}

    answers = [
        await api.http.request(method, url, headers=headers, json=body)
        for url, headers in ((f"{path}{action}", OTHER), (f"/v1beta/findall/runs/findall_none{action}", KEY))
    ]

    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "FindAll run not found")


@pytest.mark.parametrize(
    "change",
    [
        {"objective": None},
        {"generator": "ultra"},
        {"match_limit": 4},
        {"match_limit": 1001},
        {"generator": "preview", "match_limit": 11},
        {"match_conditions": [{"name": "no description"}]},
        {"exclude_list": [{"name": "x", "url": "y"}] * 10_001},
        {"metadata": {"sim": "sings"}},
        {"memory_scope_key": "not allowed"},
    ],
)
async def test_bad_run_is_refused(api: Api, change: Object) -> None:
    response = await api.http.post("/v1beta/findall/runs", json=FINDALL | change)

    assert response.status_code == 422
    assert response.json()["error"]["message"] == "Unprocessable content: request validation error"
    assert api.simulator.accepted_findalls == 0


@pytest.mark.parametrize(
    ("action", "body", "message"),
    [
        ("extend", {"additional_match_limit": 0}, "Additional match limit must be greater than 0"),
        ("extend", {"additional_match_limit": 996}, "Request validation error"),
        ("extend", {}, "Request validation error"),
        ("enrich", {"output_schema": {"json_schema": {"type": "string"}}}, "Validation error"),
        ("enrich", {"output_schema": ENRICHMENT, "processor": "mega"}, "Validation error"),
    ],
)
async def test_bad_change_is_refused(api: Api, action: str, body: Object, message: str) -> None:
    path = await api.findall()

    response = await api.http.post(f"{path}/{action}", json=body)

    assert (response.status_code, response.json()["error"]["message"]) == (422, message)


async def test_bad_ingest_and_cursor_are_refused_in_the_second_shape(api: Api) -> None:
    path = await api.findall()

    answers = [
        await api.http.post("/v1beta/findall/ingest", json={"objective": " "}),
        await api.http.get(f"{path}/events", params={"last_event_id": "1f"}),
        await api.http.get(f"{path}/events", params={"last_event_id": "zebra"}),
    ]

    assert [answer.status_code for answer in answers] == [422, 422, 422]
    assert all(answer.json()["detail"][0]["loc"] for answer in answers)


@pytest.mark.parametrize(
    ("objective", "entity_type", "conditions"),
    [
        (
            "Find all AI companies that raised Series A funding in 2024",
            "companies",
            ["ai_check", "raised_series_a_funding_in_check"],
        ),
        ("Bakeries", "bakeries", ["objective_check"]),
        (
            "List people working on fusion and who live in France",
            "people",
            ["working_on_fusion_check", "live_in_france_check"],
        ),
    ],
)
async def test_objective_becomes_a_schema_that_can_be_run(
    api: Api, objective: str, entity_type: str, conditions: list[str]
) -> None:
    schema = await api.post("/v1beta/findall/ingest", objective=objective)
    run = await api.http.post("/v1beta/findall/runs", json=schema | {"match_limit": 5})

    assert (schema["objective"], schema["entity_type"], schema["generator"]) == (objective, entity_type, "core")
    assert [condition["name"] for condition in schema["match_conditions"]] == conditions
    assert run.status_code == 200


@pytest.mark.parametrize("entity_type", ["companies", "people", "telescopes"])
async def test_entities_are_of_the_type_asked_for(api: Api, entity_type: str) -> None:
    result = await ended(api, await api.findall(entity_type=entity_type, objective=f"Find {entity_type}"))

    hosts = {"companies": ".example", "people": "people.example", "telescopes": "catalog.example"}
    assert all(httpx.URL(candidate["url"]).host.endswith(hosts[entity_type]) for candidate in result["candidates"])


async def test_entity_search_answers_at_once_and_under_its_former_name(api: Api) -> None:
    now = await api.post("/v1beta/findall/entity-search", entity_type="companies", objective="robots", match_limit=7)
    former = await api.post("/v1beta/findall/candidates", entity_type="company", objective="robots")

    assert re.fullmatch(r"entity_set_[0-9a-f]{32}", now["entity_set_id"])
    assert len(now["entities"]) == 7
    assert all(entity.keys() == {"name", "url", "description"} for entity in now["entities"])
    assert re.fullmatch(r"candidate_set_[0-9a-f]{32}", former["candidate_set_id"])
    assert len(former["candidates"]) == 100


async def test_strict_beta_wants_the_header_on_every_call_about_runs() -> None:
    async with connected(strict_beta=True) as api:
        beta = {"parallel-beta": "findall-2025-09-15"}
        without = await api.http.post("/v1beta/findall/runs", json=FINDALL)
        with_it = await api.http.post("/v1beta/findall/runs", json=FINDALL, headers=beta)
        read = await api.http.get(f"/v1beta/findall/runs/{with_it.json()['findall_id']}")
        search = {"entity_type": "people", "objective": "x"}
        entities = await api.http.post("/v1beta/findall/entity-search", json=search)

    assert (without.status_code, with_it.status_code, read.status_code, entities.status_code) == (422, 200, 422, 200)


@pytest.mark.parametrize(
    ("generator", "limit", "fixed", "each"),
    [("preview", 10, 0.10, 0), ("base", 10, 0.25, 0.03), ("core", 10, 2, 0.15), ("pro", 10, 10, 1)],
)
async def test_credit_for_all_matches_is_reserved(generator: str, limit: int, fixed: float, each: float) -> None:
    body = FINDALL | {"generator": generator, "match_limit": limit, "metadata": {"sim": "never"}}
    price = fixed + each * limit
    for balance, status in ((price - 0.001, 402), (price, 200)):
        async with connected(balance_usd=balance) as api:
            response = await api.http.post("/v1beta/findall/runs", json=body)
            assert response.status_code == status


@pytest.mark.parametrize(("balance_usd", "status"), [(0.709, 402), (0.710, 200)])
async def test_only_matches_found_are_charged(balance_usd: float, status: int) -> None:
    """Two of five matches cost 0.31 dollars; another run reserves 0.40."""
    async with connected(balance_usd=balance_usd) as api:
        await ended(api, await api.findall("matches=2"))
        response = await api.http.post("/v1beta/findall/runs", json=FINDALL)

    assert response.status_code == status


@pytest.mark.parametrize(("balance_usd", "status"), [(0.824, 402), (0.825, 200)])
async def test_enrichment_costs_a_task_run_for_each_match(balance_usd: float, status: int) -> None:
    """Five matches with an enrichment by `lite` cost 0.425 dollars; another run reserves 0.40."""
    async with connected(balance_usd=balance_usd) as api:
        path = await api.findall()
        await api.post(f"{path}/enrich", output_schema=ENRICHMENT, processor="lite")
        await ended(api, path)
        response = await api.http.post("/v1beta/findall/runs", json=FINDALL)

    assert response.status_code == status


async def test_enrichment_and_extension_need_credit() -> None:
    async with connected(balance_usd=0.45) as api:
        path = await api.findall("never")
        answers = [
            await api.http.post(f"{path}/enrich", json={"output_schema": ENRICHMENT}),
            await api.http.post(f"{path}/extend", json={"additional_match_limit": 2}),
            await api.http.post(f"{path}/extend", json={"additional_match_limit": 1}),
        ]

    assert [answer.status_code for answer in answers] == [402, 402, 200]


async def test_creating_too_often_within_an_hour_is_429() -> None:
    async with connected(findalls_per_hour=2, speed=1) as api:
        statuses = [(await api.http.post("/v1beta/findall/runs", json=FINDALL)).status_code for _ in range(3)]

    assert statuses == [200, 200, 429]
    assert api.simulator.accepted_findalls == 2


async def test_test_may_end_a_run(api: Api) -> None:
    ends: list[Any] = []
    for end in (api.simulator.finish, api.simulator.fail):
        path = await api.findall("never")
        end(path.rpartition("/")[2])
        ends.append(status_of(await api.get(path))[:2])

    assert ends == [("completed", False), ("failed", False)]
