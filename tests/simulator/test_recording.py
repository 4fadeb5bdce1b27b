"""Recorded requests, and wrong answers on demand."""

from __future__ import annotations

import re
import time

import httpx
import pytest

from parallel_mcp.simulator import ConnectionDropped, Fault, Simulator, SimulatorConfig, serving
from tests.patience import PATIENCE_S
from tests.simulator.calls import KEY, QUESTION, Api

RUN = {"input": QUESTION, "processor": "lite"}


async def test_requests_are_recorded_in_order_with_key_and_body(api: Api) -> None:
    await api.http.post("/v1/tasks/runs", content=b'{"no": "run"}')
    await api.http.get("/nowhere", params={"a": "b c"})

    first, second = api.simulator.requests
    assert (first.method, first.path, first.body) == ("POST", "/v1/tasks/runs", b'{"no": "run"}')
    assert first.headers["x-api-key"] == "key"
    assert (second.method, second.path, second.query) == ("GET", "/nowhere", "a=b+c")


async def test_fault_answers_instead_of_the_api_as_often_as_told(api: Api) -> None:
    html = "<h1>Bad gateway</h1>"
    api.simulator.add_fault(
        Fault("POST", r"/v1/tasks/.*", times=2, status=502, body=html, content_type="text/html", headers={"X-A": "1"})
    )

    answers = [await api.http.post("/v1/tasks/runs", json=RUN) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [502, 502, 202]
    assert (answers[0].text, answers[0].headers["content-type"], answers[0].headers["x-a"]) == (html, "text/html", "1")
    assert api.simulator.accepted_runs == 1


async def test_fault_applies_only_to_its_method_and_whole_path(api: Api) -> None:
    api.simulator.add_fault(Fault("GET", r"/v1/tasks/runs", times=None, status=500))

    created = await api.http.post("/v1/tasks/runs", json=RUN)
    read = await api.http.get(f"/v1/tasks/runs/{created.json()['run_id']}")

    assert (created.status_code, read.status_code) == (202, 200)


async def test_fault_may_come_after_the_request_was_carried_out(api: Api) -> None:
    """The case in which a client must not simply create again."""
    api.simulator.add_fault(Fault("POST", "/v1/tasks/runs", status=503, after=True))

    response = await api.http.post("/v1/tasks/runs", json=RUN)

    assert response.status_code == 503
    assert api.simulator.accepted_runs == 1


async def test_faults_are_given_in_the_order_they_were_added(api: Api) -> None:
    for status in (500, 501):
        api.simulator.add_fault(Fault("*", ".*", status=status))

    statuses = [(await api.http.get("/v1/tasks/runs/x")).status_code for _ in range(3)]

    assert statuses == [500, 501, 404]


async def test_fault_may_be_late(api: Api) -> None:
    api.simulator.add_fault(Fault("GET", ".*", status=500, delay_s=0.05))
    started = time.monotonic()

    await api.http.get("/")

    assert time.monotonic() - started >= 0.05


async def test_dropped_answer_leaves_the_application_as_an_exception_of_its_own(api: Api) -> None:
    api.simulator.add_fault(Fault("POST", ".*", drop=True))

    with pytest.raises(ConnectionDropped):
        await api.http.post("/v1/tasks/runs", json=RUN)


def test_dropped_answer_is_a_lost_connection_though_the_run_exists() -> None:
    simulator = Simulator(SimulatorConfig())
    simulator.add_fault(Fault("POST", ".*", status=202, drop=True, after=True))
    with (
        serving(simulator) as url,
        httpx.Client(base_url=url, headers=KEY, timeout=PATIENCE_S) as http,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        http.post("/v1/tasks/runs", json=RUN)

    assert simulator.accepted_runs == 1


def test_pattern_that_is_no_regular_expression_is_refused_at_once() -> None:
    with pytest.raises(re.error):
        Fault("GET", "(")
