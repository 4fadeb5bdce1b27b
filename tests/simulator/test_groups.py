"""Task groups (checklist 27 to 31)."""

from __future__ import annotations

import itertools
import threading

import httpx
import pytest

from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from tests.patience import PATIENCE_S
from tests.simulator.calls import KEY, STILL, Api, Object, connected, json_spec, object_schema

STATE, STATUS = "task_run.state", "task_group_status"


def run(input: str = "Offshore wind", sim: str = "", **members: object) -> Object:
    return {"input": input, "processor": "lite", "metadata": {"sim": sim}} | members


async def new_group(api: Api) -> str:
    return (await api.post("/v1/tasks/groups"))["taskgroup_id"]


async def completed(api: Api, run_ids: list[str]) -> None:
    for run_id in run_ids:
        await api.get(f"/v1/tasks/runs/{run_id}/result")


async def test_empty_group_is_not_active(api: Api) -> None:
    group = await api.post("/v1/tasks/groups", metadata={"batch": 7})

    assert group["metadata"] == {"batch": 7}
    assert (group["status"]["num_task_runs"], group["status"]["is_active"]) == (0, False)
    assert group["status"]["task_run_status_counts"] == {}
    assert await api.get(f"/v1/tasks/groups/{group['taskgroup_id']}") == group


async def test_counts_hold_only_what_there_is(api: Api) -> None:
    group_id = await new_group(api)
    added = await api.add_runs(group_id, run(sim="latency=1"), run(sim="fails latency=1"), run(sim="never latency=1"))
    await completed(api, added["run_ids"][:1])
    failed = await api.http.get(f"/v1/tasks/runs/{added['run_ids'][1]}/result")

    status = (await api.get(f"/v1/tasks/groups/{group_id}"))["status"]

    assert failed.status_code == 404
    assert status["num_task_runs"] == 3
    assert status["task_run_status_counts"] == {"completed": 1, "failed": 1, "running": 1}
    assert status["is_active"]


async def test_runs_come_back_in_the_order_of_their_inputs(api: Api) -> None:
    group_id = await new_group(api)
    inputs = [f"question {number}" for number in range(5)]

    added = await api.add_runs(group_id, *map(run, inputs))

    submitted = [(await api.get(f"/v1/tasks/runs/{run_id}/input"))["input"] for run_id in added["run_ids"]]
    assert submitted == inputs


async def test_runs_of_a_group_are_ordinary_runs(api: Api) -> None:
    group_id = await new_group(api)
    run_id = (await api.add_runs(group_id, run()))["run_ids"][0]
    await completed(api, [run_id])

    single = await api.run(run_id)

    assert single["taskgroup_id"] == group_id
    assert await api.get(f"/v1/tasks/groups/{group_id}/runs/{run_id}") == single
    assert (await api.run_events(run_id))[-1]["output"]


async def test_run_of_another_group_is_not_found(api: Api) -> None:
    run_id = (await api.create())["run_id"]

    response = await api.http.get(f"/v1/tasks/groups/{await new_group(api)}/runs/{run_id}")

    assert (response.status_code, response.json()["error"]["message"]) == (404, "Run id not found")


async def test_cursors_are_null_for_the_first_batch_and_point_behind_it_for_the_next(api: Api) -> None:
    group_id = await new_group(api)
    first = await api.add_runs(group_id, run("one"), run("two"))
    await completed(api, first["run_ids"])
    second = await api.add_runs(group_id, run("three"))
    await completed(api, second["run_ids"])

    listed = await api.events(f"/v1/tasks/groups/{group_id}/runs", last_event_id=second["run_cursor"])
    told = await api.events(f"/v1/tasks/groups/{group_id}/events", last_event_id=second["event_cursor"])

    assert (first["run_cursor"], first["event_cursor"]) == (None, None)
    assert [event["run"]["run_id"] for event in listed] == second["run_ids"]
    assert [event["run"]["run_id"] for event in told if event["type"] == STATE] == second["run_ids"]


async def test_status_is_not_recomputed_without_refresh(api: Api) -> None:
    group_id = await new_group(api)
    path = f"/v1/tasks/groups/{group_id}/runs"

    stale = await api.http.post(path, params={"refresh_status": "false"}, json={"inputs": [run()]})
    fresh = await api.http.post(path, params={"refresh_status": "true"}, json={"inputs": [run()]})

    assert stale.json()["status"]["num_task_runs"] == 0
    assert fresh.json()["status"]["num_task_runs"] == 2


async def test_default_spec_applies_to_runs_without_their_own(api: Api) -> None:
    group_id = await new_group(api)
    own, default = (json_spec(object_schema(**{name: {"type": "string"}})) for name in ("own", "default"))

    added = await api.add_runs(group_id, run(task_spec=own), run(), default_task_spec=default)

    outputs = [(await api.get(f"/v1/tasks/runs/{run_id}/result"))["output"] for run_id in added["run_ids"]]
    assert [list(output["content"]) for output in outputs] == [["own"], ["default"]]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({}, ["body", "inputs"]),
        ({"inputs": [{"input": "x"}]}, ["body", "inputs", 0, "processor"]),
        ({"inputs": [run()] * 1001}, ["body", "inputs"]),
        ({"inputs": [run(), run(sim="fals")]}, ["body", "inputs", 1, "metadata", "sim"]),
        ({"inputs": [run()], "default_task_spec": json_spec({"type": "object"})}, ["body", "inputs", 0, "task_spec"]),
    ],
)
async def test_bad_batch_is_refused_whole_in_the_second_error_shape(api: Api, body: Object, loc: list[object]) -> None:
    response = await api.http.post(f"/v1/tasks/groups/{await new_group(api)}/runs", json=body)

    (problem, *_) = response.json()["detail"]
    assert response.status_code == 422
    assert problem["loc"][: len(loc)] == loc
    assert {"msg", "type"} < problem.keys()
    assert api.simulator.accepted_runs == 0


async def test_thousand_runs_fit_into_one_request() -> None:
    async with connected(speed=1e6) as api:
        group_id = await new_group(api)
        added = await api.add_runs(group_id, *[run(f"question {number}") for number in range(1000)])
        listed = await api.events(f"/v1/tasks/groups/{group_id}/runs")

    assert len(added["run_ids"]) == len(listed) == 1000


@pytest.mark.parametrize("path", ["", "/runs", "/events"])
async def test_unknown_group_is_not_found(api: Api, path: str) -> None:
    response = await api.http.get(f"/v1/tasks/groups/tgrp_unknown{path}")

    assert (response.status_code, response.json()["error"]["message"]) == (404, "TaskGroup not found")


async def test_list_gives_every_run_in_order_and_ends_at_once(api: Api) -> None:
    group_id = await new_group(api)
    added = await api.add_runs(group_id, run(sim="latency=0"), run(sim="never"), run(sim="fails latency=0"))

    listed = await api.events(f"/v1/tasks/groups/{group_id}/runs")

    assert [event["run"]["run_id"] for event in listed] == added["run_ids"]
    ids = [int(event["event_id"]) for event in listed]
    assert all(later > earlier for earlier, later in itertools.pairwise(ids))
    assert {(event["input"], event["output"]) for event in listed} == {(None, None)}


async def test_list_includes_input_and_output_on_request(api: Api) -> None:
    group_id = await new_group(api)
    await api.add_runs(group_id, run("Night trains", sim="latency=0"), run("Coffee", sim="never"))

    flags = {"include_input": "true", "include_output": "true"}
    listed = await api.events(f"/v1/tasks/groups/{group_id}/runs", **flags)

    assert [event["input"]["input"] for event in listed] == ["Night trains", "Coffee"]
    assert [bool(event["output"]) for event in listed] == [True, False]


async def test_list_can_be_filtered_by_status_and_resumed(api: Api) -> None:
    group_id = await new_group(api)
    sims = ["latency=0", "fails latency=0", "latency=0"]
    added = await api.add_runs(group_id, *[run(sim=sim) for sim in sims])
    path = f"/v1/tasks/groups/{group_id}/runs"

    done = await api.events(path, status="completed")
    rest = await api.events(path, status="completed", last_event_id=done[0]["event_id"])

    assert [event["run"]["run_id"] for event in done] == [added["run_ids"][0], added["run_ids"][2]]
    assert rest == done[1:]


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("runs", {"status": "done"}),
        ("runs", {"include_input": "perhaps"}),
        ("runs", {"last_event_id": "7"}),
        ("runs", {"last_event_id": "abc"}),
        ("events", {"timeout": "soon"}),
        ("events", {"timeout": "nan"}),
        ("events", {"last_event_id": "1"}),
    ],
)
async def test_bad_query_is_refused_in_the_second_error_shape(api: Api, path: str, params: Object) -> None:
    response = await api.http.get(f"/v1/tasks/groups/{await new_group(api)}/{path}", params=params)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["query", *params]


async def test_cursor_of_the_other_stream_is_noticed(api: Api) -> None:
    group_id = await new_group(api)
    added = await api.add_runs(group_id, run(sim="latency=0"))
    listed = await api.events(f"/v1/tasks/groups/{group_id}/runs")
    told = await api.events(f"/v1/tasks/groups/{group_id}/events")

    swapped = [
        await api.http.get(f"/v1/tasks/groups/{group_id}/events", params={"last_event_id": listed[0]["event_id"]}),
        await api.http.get(f"/v1/tasks/groups/{group_id}/runs", params={"last_event_id": told[0]["event_id"]}),
    ]

    assert added["run_ids"]
    assert [response.status_code for response in swapped] == [422, 422]


async def test_event_stream_tells_status_and_ends_without_outputs_until_nothing_is_active() -> None:
    async with connected(speed=STILL) as api:
        group_id = await new_group(api)
        added = await api.add_runs(group_id, run(), run())
        first, second = added["run_ids"]
        events = await api.events_during(
            f"/v1/tasks/groups/{group_id}/events", lambda: (api.simulator.finish(first), api.simulator.fail(second))
        )

    ends = [event for event in events if event["type"] == STATE]
    assert events[0]["type"] == events[-1]["type"] == STATUS
    assert [event["run"]["run_id"] for event in ends] == added["run_ids"]
    assert [event["run"]["status"] for event in ends] == ["completed", "failed"]
    assert {(event["input"], event["output"]) for event in ends} == {(None, None)}
    assert events[-1]["status"]["task_run_status_counts"] == {"completed": 1, "failed": 1}
    assert not events[-1]["status"]["is_active"]


async def test_event_stream_resumes_behind_the_cursor(api: Api) -> None:
    group_id = await new_group(api)
    await api.add_runs(group_id, run(sim="latency=1"), run(sim="latency=2"), run(sim="latency=3"))
    path = f"/v1/tasks/groups/{group_id}/events"
    ends = [event for event in await api.events(path) if event["type"] == STATE]

    resumed = await api.events(path, last_event_id=ends[0]["event_id"])

    assert resumed[0]["type"] == STATUS
    assert [event for event in resumed if event["type"] == STATE] == ends[1:]


async def test_event_stream_of_an_empty_group_says_so_and_ends(api: Api) -> None:
    (event,) = await api.events(f"/v1/tasks/groups/{await new_group(api)}/events")

    assert (event["type"], event["status"]["num_task_runs"]) == (STATUS, 0)


@pytest.mark.parametrize(("speed", "params"), [(1, {"timeout": 0}), (1, {"timeout": "0.05"}), (100_000, {})])
async def test_event_stream_ends_after_the_timeout_or_an_hour(speed: float, params: Object) -> None:
    async with connected(speed=speed) as api:
        group_id = await new_group(api)
        await api.add_runs(group_id, run(sim="never"))
        events = await api.events(f"/v1/tasks/groups/{group_id}/events", **params)

    assert events[-1]["status"]["is_active"]


def test_open_event_stream_hears_of_runs_ended_and_added_meanwhile() -> None:
    simulator = Simulator(SimulatorConfig())
    with serving(simulator) as url, httpx.Client(base_url=url, headers=KEY, timeout=PATIENCE_S) as http:
        group = http.post("/v1/tasks/groups", json={}).json()["taskgroup_id"]
        runs = f"/v1/tasks/groups/{group}/runs"
        first = http.post(runs, json={"inputs": [run(sim="never")]}).json()["run_ids"][0]
        with http.stream("GET", f"/v1/tasks/groups/{group}/events") as stream:
            lines = stream.iter_lines()
            opening = next(lines)
            second = http.post(runs, json={"inputs": [run(sim="never")]}).json()["run_ids"][0]
            threading.Thread(target=lambda: (simulator.finish(first), simulator.fail(second, "no"))).start()
            rest = "".join(lines)

    assert opening == f"event: {STATUS}"
    assert rest.index(first) < rest.index(second)
    assert rest.endswith('"is_active":false,"status_message":"",' + rest.rpartition('"status_message":"",')[2])


async def test_legacy_paths_reach_the_same_groups(api: Api) -> None:
    group = await api.post("/v1beta/tasks/groups")
    path = f"/v1beta/tasks/groups/{group['taskgroup_id']}"
    added = await api.post(f"{path}/runs", inputs=[run(sim="latency=0")])

    assert len(await api.events(f"{path}/runs")) == 1
    assert (await api.events(f"{path}/events"))[0]["type"] == STATUS
    assert await api.get(f"{path}/runs/{added['run_ids'][0]}")
    assert (await api.get(path.replace("v1beta", "v1")))["status"]["num_task_runs"] == 1


async def test_runs_that_take_no_time_are_queued_first_and_end_the_event_stream(api: Api) -> None:
    group_id = await new_group(api)
    added = await api.add_runs(group_id, run(sim="latency=0"), run(sim="latency=0 fails"))

    events = await api.events(f"/v1/tasks/groups/{group_id}/events")

    assert [event["run"]["status"] for event in events if event["type"] == STATE] == ["completed", "failed"]
    assert not events[0]["status"]["is_active"]
    assert (await api.create(sim="latency=0"))["status"] == "queued"
    assert added["status"]["num_task_runs"] == 2
