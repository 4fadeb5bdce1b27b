"""The life of a run (checklist 7, 9, 12, 13, 15)."""

from __future__ import annotations

import threading
from datetime import datetime

import anyio
import httpx
import pytest

from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from tests.patience import PATIENCE_S
from tests.simulator.calls import KEY, QUESTION, Api, connected

NO_RESULT = "Run failed or run id not found"


async def test_new_run_is_queued_and_keeps_what_it_was_given(api: Api) -> None:
    run = await api.create(metadata={"row": "17", "count": 3, "ok": True})

    assert (run["status"], run["is_active"], run["processor"]) == ("queued", True, "lite")
    assert run["interaction_id"] == run["run_id"]
    assert run["metadata"] == {"row": "17", "count": 3, "ok": True}
    assert run["created_at"] == run["modified_at"]
    assert (run["warnings"], run["error"], run["taskgroup_id"]) == (None, None, None)


async def test_run_goes_from_queued_over_running_to_completed() -> None:
    async with connected(speed=100) as api:
        seen = [await api.create(sim="never queue=4")]
        while seen[-1]["status"] == "queued":
            seen.append(await api.run(seen[0]["run_id"]))
        api.simulator.finish(seen[0]["run_id"])
        seen.append(await api.run(seen[0]["run_id"]))

    changes = list(dict.fromkeys((run["status"], run["modified_at"]) for run in seen))
    assert [status for status, _ in changes] == ["queued", "running", "completed"]
    assert changes == sorted(changes, key=lambda change: change[1])


async def test_failed_run_carries_its_error_and_has_no_result(api: Api) -> None:
    run = await api.create(sim="fails")

    result = await api.http.get(f"/v1/tasks/runs/{run['run_id']}/result")
    failed = await api.run(run["run_id"])

    assert (result.status_code, result.json()["error"]["message"]) == (404, NO_RESULT)
    assert (failed["status"], failed["is_active"]) == ("failed", False)
    assert failed["error"]["message"]
    assert failed["error"]["ref_id"]


@pytest.mark.parametrize("status", ["cancelled", "action_required"])
async def test_run_that_stops_otherwise_is_inactive_and_has_no_result(api: Api, status: str) -> None:
    run = await api.create(sim=f"status={status}")

    result = await api.http.get(f"/v1/tasks/runs/{run['run_id']}/result")
    stopped = await api.run(run["run_id"])

    assert result.status_code == 404
    assert (stopped["status"], stopped["is_active"], stopped["error"]) == (status, False, None)


@pytest.mark.parametrize("path", ["", "/input", "/events"])
async def test_unknown_run_is_not_found(api: Api, path: str) -> None:
    response = await api.http.get(f"/v1/tasks/runs/trun_unknown{path}")

    assert (response.status_code, response.json()["error"]["message"]) == (404, "Run id not found")


async def test_result_of_an_unknown_run_reads_like_that_of_a_failed_one(api: Api) -> None:
    response = await api.http.get("/v1/tasks/runs/trun_unknown/result")

    assert (response.status_code, response.json()["error"]["message"]) == (404, NO_RESULT)


async def test_result_gives_up_after_the_timeout_while_the_run_goes_on(api: Api) -> None:
    run = await api.create(sim="never")

    response = await api.http.get(f"/v1/tasks/runs/{run['run_id']}/result", params={"timeout": 0})

    assert response.status_code == 408
    assert response.json()["error"]["message"] == "Request timed out; run still active"
    assert (await api.run(run["run_id"]))["is_active"]


@pytest.mark.parametrize("timeout", ["soon", "1.5", "", "NaN"])
async def test_timeout_that_is_no_whole_number_is_refused(api: Api, timeout: str) -> None:
    run = await api.create(sim="never")

    response = await api.http.get(f"/v1/tasks/runs/{run['run_id']}/result", params={"timeout": timeout})

    assert response.status_code == 422
    assert response.json()["error"]["message"] == "Request validation error"


@pytest.mark.parametrize(("end", "status"), [("finish", 200), ("fail", 404)])
async def test_waiting_result_answers_when_the_run_is_ended_from_another_thread(
    api: Api, end: str, status: int
) -> None:
    run_id = (await api.create(sim="never"))["run_id"]
    ends = {"finish": lambda: api.simulator.finish(run_id), "fail": lambda: api.simulator.fail(run_id, "no luck")}
    answers: list[httpx.Response] = []

    async def wait() -> None:
        answers.append(await api.http.get(f"/v1/tasks/runs/{run_id}/result", params={"timeout": 60}))

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(ends[end])

    assert [answer.status_code for answer in answers] == [status]


def test_open_stream_ends_when_the_run_is_ended_from_another_thread() -> None:
    simulator = Simulator(SimulatorConfig())
    with serving(simulator) as url, httpx.Client(base_url=url, headers=KEY, timeout=PATIENCE_S) as http:
        run = http.post("/v1/tasks/runs", json={"input": "x", "processor": "lite", "metadata": {"sim": "never"}})
        run_id = run.json()["run_id"]
        with http.stream("GET", f"/v1/tasks/runs/{run_id}/events") as stream:
            lines = stream.iter_lines()
            first = next(lines)
            threading.Thread(target=simulator.finish, args=[run_id]).start()
            rest = "".join(lines)

    assert first == "event: task_run.state"
    assert '"status":"completed"' in rest


async def test_queued_run_starts_when_it_is_told_to_and_only_once(api: Api) -> None:
    group_id = (await api.post("/v1/tasks/groups"))["taskgroup_id"]
    story = {"sim": "never latency=9000 queue=9000"}
    added = await api.post(
        f"/v1/tasks/groups/{group_id}/runs",
        inputs=[{"input": QUESTION, "processor": "lite", "metadata": story} for _ in range(2)],
    )
    run_id, other = added["run_ids"]
    before = await api.run(run_id)

    api.simulator.start(run_id)
    started = await api.run(run_id)
    api.simulator.start(run_id)
    still = await api.run(run_id)
    told = await api.events(f"/v1/tasks/groups/{group_id}/events", timeout=0.01)
    api.simulator.start(run_id)
    told_again = await api.events(f"/v1/tasks/groups/{group_id}/events", timeout=0.01)

    assert [before["status"], started["status"]] == ["queued", "running"]
    assert still == started
    assert len(told_again) == len(told)
    assert (await api.run(other))["status"] == "queued"
    counts = (await api.get(f"/v1/tasks/groups/{group_id}"))["status"]["task_run_status_counts"]
    assert counts == {"queued": 1, "running": 1}


async def test_ended_run_stays_as_it_ended(api: Api) -> None:
    run = await api.create(sim="never")
    api.simulator.fail(run["run_id"], "the reason")
    api.simulator.finish(run["run_id"])

    now = await api.run(run["run_id"])

    assert (now["status"], now["error"]["message"]) == ("failed", "the reason")


async def test_input_is_given_back_as_submitted_without_mcp_header_values(api: Api) -> None:
    server = {"type": "url", "url": "https://a.example/mcp", "name": "a", "headers": {"Authorization": "Bearer secret"}}
    spec = {"output_schema": "the year"}
    run = await api.create({"country": "France"}, mcp_servers=[server], task_spec=spec, webhook_url="ignored")

    submitted = await api.get(f"/v1/tasks/runs/{run['run_id']}/input")

    assert submitted["input"] == {"country": "France"}
    assert submitted["task_spec"] == spec
    assert submitted["mcp_servers"] == [{"type": "url", "url": "https://a.example/mcp", "name": "a"}]
    assert submitted["webhook_url"] == "ignored"


async def test_same_request_twice_makes_two_runs(api: Api) -> None:
    """There is no idempotency key: a retried POST is paid twice."""
    first, second = await api.create(), await api.create()

    assert first["run_id"] != second["run_id"]
    assert api.simulator.accepted_runs == 2


async def test_follow_up_builds_on_the_earlier_question(api: Api) -> None:
    earlier = await api.create("Tell me about Vantor Robotics", sim="latency=0")
    output = await api.output("What about its revenue?", previous_interaction_id=earlier["interaction_id"])

    assert "412 million" in output["content"]


@pytest.mark.parametrize("earlier", ["unknown", "active"])
async def test_follow_up_on_what_is_not_completed_is_refused(api: Api, earlier: str) -> None:
    interaction = (await api.create(sim="never"))["interaction_id"] if earlier == "active" else "trun_none"

    body = {"input": QUESTION, "processor": "lite", "previous_interaction_id": interaction}
    response = await api.http.post("/v1/tasks/runs", json=body)

    assert response.status_code == 422


@pytest.mark.parametrize(("processor", "shortest", "longest"), [("lite", 10, 60), ("core-fast", 15, 100)])
async def test_duration_is_drawn_from_the_range_of_the_processor(processor: str, shortest: int, longest: int) -> None:
    """Seen through the schedule: the run is active just before the range and over just after it."""
    async with connected(speed=1000) as api:
        runs = [await api.create(processor=processor) for _ in range(8)]
        seconds: list[float] = []
        for run in runs:
            ended = (await api.get(f"/v1/tasks/runs/{run['run_id']}/result"))["run"]
            seconds.append(1000 * (seconds_of(ended["modified_at"]) - seconds_of(ended["created_at"])))

    assert all(shortest - 1 <= duration <= longest + 1 for duration in seconds)
    assert len(set(seconds)) > 1


def seconds_of(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
