"""Who may ask, how often, and what it costs (checklist 1 to 5, 10, 11, 16)."""

from __future__ import annotations

import re
import uuid

import httpx
import pytest

from tests.simulator.calls import QUESTION, Api, connected

RUN = {"input": QUESTION, "processor": "lite"}
PATHS = [
    ("POST", "/v1/search"),
    ("POST", "/v1/extract"),
    ("POST", "/v1/tasks/runs"),
    ("GET", "/v1/tasks/runs/trun_1"),
    ("GET", "/v1/tasks/runs/trun_1/input"),
    ("GET", "/v1/tasks/runs/trun_1/result"),
    ("GET", "/v1/tasks/runs/trun_1/events"),
    ("POST", "/v1/tasks/groups"),
    ("GET", "/v1/tasks/groups/tgrp_1/runs"),
    ("GET", "/v1/tasks/groups/tgrp_1/events"),
    ("POST", "/v1beta/tasks/suggest"),
    ("POST", "/v1beta/tasks/suggest-processor"),
    ("POST", "/v1beta/findall/ingest"),
    ("POST", "/v1beta/findall/runs"),
    ("GET", "/v1beta/findall/runs/findall_1"),
    ("GET", "/v1beta/findall/runs/findall_1/events"),
    ("POST", "/v1beta/findall/runs/findall_1/cancel"),
    ("POST", "/v1beta/findall/entity-search"),
    ("POST", "/v1/monitors"),
    ("GET", "/v1/monitors"),
    ("POST", "/v1/monitors/monitor_1/trigger"),
]


def assert_error(response: httpx.Response, status: int, message: str) -> None:
    body = response.json()
    assert (response.status_code, body["type"], body["error"]["message"]) == (status, "error", message)
    assert uuid.UUID(body["error"]["ref_id"])
    assert body["error"]["detail"] is None


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_call_without_a_key_is_unauthorized(api: Api, method: str, path: str) -> None:
    response = await api.http.request(method, path, headers={"x-api-key": ""}, json={})

    assert_error(response, 401, "Unauthorized: invalid or missing credentials")


async def test_only_the_listed_keys_are_accepted() -> None:
    async with connected(api_keys=frozenset({"right"})) as api:
        wrong = await api.http.get("/v1/tasks/runs/none", headers={"x-api-key": "wrong"})
        right = await api.http.get("/v1/tasks/runs/none", headers={"x-api-key": "right"})

    assert (wrong.status_code, right.status_code) == (401, 404)


@pytest.mark.parametrize(("accepts", "status"), [(False, 401), (True, 404)])
async def test_bearer_counts_only_where_it_is_switched_on(accepts: bool, status: int) -> None:
    async with connected(accept_bearer=accepts) as api:
        headers = {"x-api-key": "", "authorization": "Bearer key"}
        response = await api.http.get("/v1/tasks/runs/none", headers=headers)

    assert response.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/tasks/runs", 405),
        ("DELETE", "/v1/tasks/runs/trun_1", 405),
        ("POST", "/v1/tasks/runs/trun_1/cancel", 404),
        ("GET", "/v1/tasks/groups", 405),
        ("GET", "/v1beta/findall/runs", 405),
        ("POST", "/v1/findall/runs", 404),
        ("DELETE", "/v1/monitors/monitor_1", 405),
        ("POST", "/v1alpha/monitors", 404),
        ("POST", "/alpha/search", 404),
        ("GET", "/", 404),
    ],
)
async def test_what_the_api_does_not_have_is_an_error_in_its_own_shape(
    api: Api, method: str, path: str, status: int
) -> None:
    """No cancel, no list, no delete."""
    response = await api.http.request(method, path)

    assert response.status_code == status
    assert response.json()["type"] == "error"


async def test_ids_and_timestamps_look_like_the_api_s(api: Api) -> None:
    run = await api.create()
    group = await api.post("/v1/tasks/groups")
    search = await api.post("/v1/search", search_queries=["coffee"])

    assert re.fullmatch(r"trun_[0-9a-f]{32}", run["run_id"])
    assert re.fullmatch(r"tgrp_[0-9a-f]{48}", group["taskgroup_id"])
    assert re.fullmatch(r"search_[0-9a-f]{32}", search["search_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", run["created_at"])


async def test_credit_is_reserved_while_a_run_is_active() -> None:
    async with connected(balance_usd=0.005) as api:
        first = await api.create(sim="never")
        refused = await api.http.post("/v1/tasks/runs", json=RUN)
        api.simulator.fail(first["run_id"], "over")
        again = await api.http.post("/v1/tasks/runs", json=RUN)

    assert_error(refused, 402, "Payment required: insufficient credit in account")
    assert again.status_code == 202


@pytest.mark.parametrize(("charges", "status"), [(True, 402), (False, 202)])
async def test_completed_run_is_charged_unless_switched_off(charges: bool, status: int) -> None:
    async with connected(balance_usd=0.005, charge_completed=charges) as api:
        first = await api.create(sim="never")
        api.simulator.finish(first["run_id"])
        second = await api.http.post("/v1/tasks/runs", json=RUN)

    assert second.status_code == status


async def test_group_reserves_the_credit_of_all_its_runs_or_creates_none() -> None:
    async with connected(balance_usd=0.009) as api:
        group = await api.post("/v1/tasks/groups")
        response = await api.http.post(f"/v1/tasks/groups/{group['taskgroup_id']}/runs", json={"inputs": [RUN, RUN]})

    assert response.status_code == 402
    assert api.simulator.accepted_runs == 0


@pytest.mark.parametrize("tells", [False, True])
async def test_creating_too_often_is_429_while_reading_goes_on(tells: bool) -> None:
    async with connected(creates_per_minute=1, retry_after=tells, speed=1) as api:
        run = await api.create()
        refused = await api.http.post("/v1/tasks/runs", json=RUN)
        read = await api.http.get(f"/v1/tasks/runs/{run['run_id']}")

    assert_error(refused, 429, "Too many requests: quota temporarily exceeded")
    assert ("retry-after" in refused.headers) == tells
    assert read.status_code == 200


async def test_quota_is_free_again_after_a_minute() -> None:
    async with connected(creates_per_minute=1, speed=60_000) as api:
        statuses: list[int] = []
        while 202 not in statuses[1:]:
            statuses.append((await api.http.post("/v1/tasks/runs", json=RUN)).status_code)

    assert set(statuses) <= {202, 429}


@pytest.mark.parametrize(
    ("member", "value", "beta"),
    [
        ("enable_events", True, "events-sse-2025-07-24"),
        ("webhook", {"url": "https://hooks.example/"}, "webhook-2025-08-12"),
        ("mcp_servers", [{"name": "a", "url": "https://a.example/mcp"}], "mcp-server-2025-07-17"),
    ],
)
async def test_strict_beta_wants_the_header_of_each_feature(member: str, value: object, beta: str) -> None:
    async with connected(strict_beta=True) as api:
        body = RUN | {member: value}
        without = await api.http.post("/v1/tasks/runs", json=body)
        with_it = await api.http.post("/v1/tasks/runs", json=body, headers={"parallel-beta": f"other, {beta}"})

    assert (without.status_code, with_it.status_code) == (422, 202)
    assert beta in without.text


async def test_what_another_key_made_does_not_exist() -> None:
    async with connected() as api:
        run = await api.create(sim="never")
        group = await api.post("/v1/tasks/groups")
        paths = [
            *(f"/v1/tasks/runs/{run['run_id']}{part}" for part in ("", "/input", "/result", "/events")),
            *(f"/v1/tasks/groups/{group['taskgroup_id']}{part}" for part in ("", "/runs", "/events")),
        ]
        answers = [await api.http.get(path, headers={"x-api-key": "another-key"}) for path in paths]
        add = f"/v1/tasks/groups/{group['taskgroup_id']}/runs"
        added = await api.http.post(add, json={"inputs": [RUN]}, headers={"x-api-key": "another-key"})

    assert {answer.status_code for answer in [*answers, added]} == {404}
    assert api.simulator.accepted_runs == 1
