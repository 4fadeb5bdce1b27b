"""Creating a group: every row is bought at most once, and what became of each is known or said to be unknown."""

import csv
import io
import json
import re
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client
from mcp.types import ElicitRequestParams, ElicitResult

from parallel_mcp.api.connections import Timeouts
from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from parallel_mcp.simulator import Fault
from tests.conftest import Upstream
from tests.connecting import KEY, LEGACY, MODERN, asked_client, connected, failure, structured, text_of
from tests.faults import (
    FaultyProxy,
    ScriptedFault,
    close_without_answer,
    cut_body,
    faulty,
    late,
    replace_body,
    reset_after_accept,
    respond,
    respond_after_forward,
    stall,
)
from tests.faults.kinds import Fault as ByteFault
from tests.patience import PATIENCE_S
from tests.test_findall import held_until, older_by
from tests.test_safe_creating import when_there_is_room

RUNS = "/v1/tasks/groups/[^/]+/runs"
GENEROUS: dict[str, Any] = {"max_usd_per_call": 0, "max_usd_per_hour": 0}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"ceo_name": {"type": "string"}, "employees": {"type": "integer"}},
    "required": ["ceo_name", "employees"],
    "additionalProperties": False,
}


def companies(count: int) -> list[dict[str, str]]:
    """Rows as a spreadsheet holds them."""
    return [{"company": f'Company "{n}", Ltd', "website": f"c{n}.example"} for n in range(1, count + 1)]


def as_csv(rows: list[dict[str, str]]) -> str:
    """The rows as a spreadsheet saves them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def group_of(count: int, **arguments: Any) -> dict[str, Any]:
    """A call that creates so many rows."""
    story = {"sim": "never"}
    asked = {} if "output_schema" in arguments else {"output": "How many people work there?"}
    return {"csv": as_csv(companies(count)), "processor": "lite", "metadata": story, **asked, **arguments}


async def create_group(client: Client, **arguments: Any) -> dict[str, Any]:
    return structured(await client.call_tool("create_task_group", arguments))


def sent_rows(upstream: Upstream) -> list[list[tuple[str, Any]]]:
    """The label and input of each row of each request that arrived upstream to create runs."""
    posts = [request for request in upstream.simulator.requests if request.method == "POST"]
    bodies = [json.loads(request.body) for request in posts if re.fullmatch(RUNS, request.path)]
    return [[(run["metadata"]["row"], run["input"]) for run in body["inputs"]] for body in bodies]


async def shown(upstream: Upstream, group_id: str) -> dict[str, Any]:
    """What the API itself lists of a group: the input of each row, by its label."""
    async with httpx.AsyncClient(base_url=upstream.url, headers={"x-api-key": KEY}) as http:
        answer = await http.get(f"/v1/tasks/groups/{group_id}/runs", params={"include_input": "true"})
    events = [json.loads(line.removeprefix("data:")) for line in answer.text.splitlines() if line.startswith("data:")]
    rows = [(event["run"]["metadata"]["row"], event["input"]["input"]) for event in events]
    assert len(dict(rows)) == len(rows), "no label twice"
    return dict(rows)


async def ended(upstream: Upstream, group_id: str) -> None:
    """Until the group has ended, without a look of the server's."""
    async with (
        httpx.AsyncClient(base_url=upstream.url, headers={"x-api-key": KEY}, timeout=30) as http,
        http.stream("GET", f"/v1/tasks/groups/{group_id}/events") as events,
    ):
        await events.aread()


def numbered(rows: list[dict[str, str]]) -> dict[str, Any]:
    """The rows by the labels that they should have."""
    return {str(number): row for number, row in enumerate(rows, 1)}


@asynccontextmanager
async def behind_proxy(
    upstream: Upstream, *faults: ScriptedFault, create_s: float = Timeouts.create_s, **settings: Any
) -> AsyncGenerator[tuple[Client, FaultyProxy]]:
    """A client of a server whose API misbehaves."""
    with faulty(upstream.url) as proxy:
        proxy.add(*faults)
        timeouts = Timeouts(create_s=create_s, read_back_s=(0.1, 0.5))
        async with connected("memory", proxy.url, timeouts=timeouts, **{**GENEROUS, **settings}) as client:
            yield client, proxy


# ---- sending


async def test_twelve_hundred_rows_are_sent_in_two_requests(upstream: Upstream) -> None:
    """Labelled with their numbers, the spec once a request, and the status asked for with the last one only."""
    rows = companies(1_200)
    async with connected("memory", upstream.url, **GENEROUS) as client:
        made = await create_group(client, csv=as_csv(rows), output_schema=SCHEMA, processor="lite")
        (listed,) = structured(await client.call_tool("get_status", {}))["items"]

    assert (made["status"], made["rows"], made["rows_created"], made["price_usd"]) == ("started", 1_200, 1_200, 6.0)
    assert made["next"] == f'watch_progress(id="{made["group_id"]}")'
    sent = sent_rows(upstream)
    assert [len(batch) for batch in sent] == [1_000, 200]
    assert dict(row for batch in sent for row in batch) == numbered(rows)
    posts = [request for request in upstream.simulator.requests if re.fullmatch(RUNS, request.path)]
    assert [request.query for request in posts] == ["refresh_status=false", "refresh_status=true"]
    first = json.loads(posts[0].body)
    assert first["default_task_spec"] == {"output_schema": {"type": "json", "json_schema": SCHEMA}}
    assert set(first["inputs"][0]) == {"processor", "input", "metadata"}
    assert (listed["id"], listed["runs"]) == (made["group_id"], 1_200)
    assert listed["title"].startswith("1,200 rows, the first: company: Company")


async def test_five_thousand_rows_are_sent_side_by_side(upstream: Upstream) -> None:
    """Four requests at once, and the last one after them."""
    made: dict[str, Any] = {}
    answers = threading.Event()
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(method="POST", path=RUNS, fault=held_until(answers), times=None))
        async with connected("memory", proxy.url, **GENEROUS, max_usd_per_day=0) as client:

            async def create() -> None:
                made.update(await create_group(client, inputs=[f"Fact {n}" for n in range(5_000)], processor="lite"))

            async with anyio.create_task_group() as creating:
                creating.start_soon(create)
                await proxy.wait_for(lambda: sum(bool(re.fullmatch(RUNS, r.path)) for r in proxy.requests) == 4)
                answers.set()

    assert made["rows_created"] == upstream.simulator.accepted_runs == 5_000
    assert [len(batch) for batch in sent_rows(upstream)] == [1_000] * 5


async def test_rows_may_be_objects_or_texts(upstream: Upstream) -> None:
    """Whatever the model has at hand, also as JSON text."""
    async with connected("memory", upstream.url) as client:
        rows = json.dumps([{"a": 1}, {"b": None}])
        objects = await create_group(client, rows=rows, output="What is it?", processor="lite")
        texts = await create_group(client, inputs=["one", "two"], processor="lite", metadata={"team": "x"})

    assert await shown(upstream, objects["group_id"]) == {"1": {"a": 1}, "2": {"b": None}}
    assert await shown(upstream, texts["group_id"]) == {"1": "one", "2": "two"}


@pytest.mark.parametrize(
    "table",
    [
        "question\nWho leads it?!",
        "Who leads it?\nVoith",
        "a,b\nVoith,how many people work there",
        "question\n苹果公司的首席执行官是谁",
        "question\nمن هو الرئيس؟",
    ],
)
async def test_table_that_asks_something_needs_no_output(upstream: Upstream, table: str) -> None:
    """A column may hold or be the question, in languages without spaces too."""
    async with connected("memory", upstream.url) as client:
        assert (await create_group(client, csv=table, processor="lite"))["rows_created"] == 1


@pytest.mark.parametrize(
    "table",
    [
        "company\nSiemens\nSociété Générale\nBASF",
        "company\nO\u2019Reilly Automotive\nAutoZone",
        "company\nMünchener Rückversicherung\n三菱商事株式会社",
        "company,website\nSiemens,https://siemens.example/?lang=en",
    ],
)
async def test_table_of_names_of_any_country_is_not_bought(upstream: Upstream, table: str) -> None:
    """Each row would be paid for, and nothing asked."""
    async with connected("memory", upstream.url) as client:
        assert "hold no question" in await failure(client, "create_task_group", {"csv": table, "processor": "lite"})

    assert not upstream.simulator.accepted_runs


@pytest.mark.parametrize("look", ["watch_progress", "get_status", "get_result"])
async def test_group_counts_as_one_active_run_until_it_is_seen_to_have_ended(upstream: Upstream, look: str) -> None:
    """A table of sixty rows is no loop that must be stopped at fifty."""
    async with connected("memory", upstream.url, max_active_runs=1, **GENEROUS) as client:
        made = await create_group(client, **group_of(60, metadata={"sim": "latency=5"}))
        refused = await failure(client, "create_task", {"input": "x"})
        await ended(upstream, made["group_id"])
        still_refused = await failure(client, "create_task", {"input": "x"})
        await client.call_tool(look, {"ids": [made["group_id"]]} if look == "get_status" else {"id": made["group_id"]})
        await when_there_is_room(client, "create_task", {"input": "x"})

    assert "PARALLEL_MCP_MAX_ACTIVE_RUNS" in refused
    assert "Wait for one that is active with watch_progress" in refused
    assert "PARALLEL_MCP_MAX_ACTIVE_RUNS" in still_refused


async def test_group_that_is_added_to_still_counts_as_one_active_run(upstream: Upstream) -> None:
    """Else a table that grows fills the places of other research."""
    async with connected("memory", upstream.url, max_active_runs=2) as client:
        call: dict[str, Any] = {"processor": "lite", "metadata": {"sim": "never"}}
        made = await create_group(client, inputs=["a"], **call)
        for row in "bcd":
            await create_group(client, inputs=[row], **call, group_id=made["group_id"])
        other = await client.call_tool("create_task", {"input": "x"})
        refused = await failure(client, "create_task", {"input": "y"})

    assert not other.is_error
    assert "2 runs are active" in refused


# ---- money


async def test_price_of_all_rows_is_held_against_the_limit_of_a_call(upstream: Upstream) -> None:
    """A table is the easiest way to spend a lot at once."""
    async with connected("memory", upstream.url) as client:
        text = await failure(client, "create_task_group", group_of(41, processor="core-fast"))

    assert "core-fast for 41 rows costs $1.025, above the limit of $1.00" in text
    assert "PARALLEL_MCP_MAX_USD_PER_CALL" in text
    assert [request for request in upstream.simulator.requests if request.method == "POST"] == []


@pytest.mark.parametrize(("limit_usd", "rows"), [(0.3, 3), (0.6, 6)])
async def test_group_that_costs_just_the_limit_is_created(upstream: Upstream, limit_usd: float, rows: int) -> None:
    """Three times ten cents is a bit more than thirty in binary fractions, and no reader could make sense of a no."""
    async with connected("memory", upstream.url, max_usd_per_call=limit_usd) as client:
        made = await create_group(client, **group_of(rows, processor="pro"))

    assert (made["rows_created"], made["price_usd"]) == (rows, limit_usd)


async def test_price_of_all_rows_is_reserved_before_the_first_is_sent(upstream: Upstream) -> None:
    """A budget that ends in the middle of a table would leave half a table."""
    async with connected("memory", upstream.url, max_usd_per_hour=0.06) as client:
        await create_group(client, **group_of(10))
        text = await failure(client, "create_task_group", group_of(3))
        await create_group(client, **group_of(2))

    assert "PARALLEL_MCP_MAX_USD_PER_HOUR" in text
    assert "$0.015 more" in text
    assert upstream.simulator.accepted_runs == 12


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("approve", [True, False])
async def test_dear_group_asks_the_user_for_the_whole_price(upstream: Upstream, mode: str, approve: bool) -> None:
    """Once: an equal call is answered without a question, and so is one that lacks nothing."""
    questions: list[str] = []

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        return ElicitResult(action="accept", content={"approve": approve})

    settings = load_settings({"base_url": upstream.url, "api_key": KEY, "ledger": "memory"})
    call = group_of(60, processor="core-fast")
    async with Client(build_server(settings), mode=mode, elicitation_callback=answer) as client:
        result = await client.call_tool("create_task_group", call)
        if approve:
            again = structured(await client.call_tool("create_task_group", call))
            added = await create_group(client, **call, group_id=again["group_id"])
            assert (again["deduplicated"], added["rows_created"]) == (True, 0)
        else:
            assert "declined" in text_of(result)

    (question,) = questions
    assert "60 research tasks, one a row, with core-fast for $1.500 in all" in question
    assert upstream.simulator.accepted_runs == (60 if approve else 0)


async def test_repeat_of_a_dear_group_on_its_way_is_answered_in_time_and_asks_nobody(upstream: Upstream) -> None:
    """What is not known yet is no reason to keep a client waiting until it gives up."""
    questions: list[str] = []
    call = group_of(60, processor="core-fast")
    answers = threading.Event()
    text = ""
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(method="POST", path=RUNS, fault=held_until(answers)))
        async with (
            asked_client(proxy.url, questions, approves=True) as client,
            anyio.create_task_group() as creating,
        ):
            creating.start_soon(create_call, client, call)
            await proxy.wait_for(lambda: any(re.fullmatch(RUNS, r.path) for r in proxy.requests))
            with anyio.fail_after(25):  # the create itself would be waited for for thirty
                text = await failure(client, "create_task_group", call)
            answers.set()

    assert "Code: still_creating" in text
    assert len(questions) == 1
    assert upstream.simulator.accepted_runs == 60


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_user_is_asked_about_the_most_where_the_group_cannot_be_read_in_time(
    upstream: Upstream, mode: str
) -> None:
    """A list that is long in coming is no reason never to add to a group."""
    questions: list[str] = []
    call = group_of(60, processor="core-fast")
    with faulty(upstream.url) as proxy:
        async with asked_client(proxy.url, questions, approves=True, mode=mode, max_wait_s=10) as client:
            made = await create_group(client, inputs=["x"], processor="lite")
            proxy.add(ScriptedFault(method="GET", path=RUNS, fault=stall()))
            added = await create_group(client, **call, group_id=made["group_id"])

    (question,) = questions
    assert "up to 60 research tasks, one a row, with core-fast for at most $1.500 in all" in question
    assert added["rows_created"] == 60


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_user_is_asked_once_however_the_group_can_be_read_meanwhile(upstream: Upstream, mode: str) -> None:
    """Who has answered would not understand the same question in other words; what is there is not bought again."""
    questions: list[str] = []
    call = group_of(60, processor="core-fast")
    with faulty(upstream.url) as proxy:

        async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
            questions.append(params.message)
            proxy.add(ScriptedFault(method="GET", path=RUNS, fault=late(5.5)))  # longer than the question may wait
            return ElicitResult(action="accept", content={"approve": True})

        settings = {"base_url": proxy.url, "api_key": KEY, "ledger": "memory", "max_wait_s": 10}
        server = build_server(load_settings(settings))
        async with Client(server, mode=mode, elicitation_callback=answer) as client:
            made = await create_group(client, **group_of(10, processor="core-fast"))
            added = await create_group(client, **call, group_id=made["group_id"])

    (question,) = questions
    assert "up to 60 research tasks, one a row, with core-fast for at most $1.500 in all, less what" in question
    assert (added["rows_created"], added["price_usd"]) == (50, 1.25)


async def test_user_who_declined_is_not_passed_over_when_the_rest_turns_out_to_be_cheap(upstream: Upstream) -> None:
    """The group could not be read before the question, and can be after it: the answer is still no."""
    questions: list[str] = []
    with faulty(upstream.url) as proxy:
        async with asked_client(proxy.url, questions, approves=False, max_wait_s=6) as client:
            made = await create_group(client, **group_of(40, processor="core-fast"))
            proxy.add(ScriptedFault(method="GET", path=RUNS, fault=stall()))
            call = group_of(50, processor="core-fast", group_id=made["group_id"])
            text = await failure(client, "create_task_group", call)

    assert len(questions) == 1
    assert "declined" in text
    assert upstream.simulator.accepted_runs == 40


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_nobody_is_asked_about_an_addition_that_no_budget_has_ever_room_for(
    upstream: Upstream, mode: str
) -> None:
    """It is refused whatever the user says; one that fits without the rows that are there is still asked about."""
    questions: list[str] = []
    settings: dict[str, Any] = {"max_usd_per_call": 0.5, "max_usd_per_hour": 2, "max_usd_per_day": 0}
    async with asked_client(upstream.url, questions, approves=True, mode=mode, **settings) as client:
        made = await create_group(client, **group_of(10, processor="core-fast"))
        call = group_of(100, processor="core-fast", group_id=made["group_id"])
        text = await failure(client, "create_task_group", call)
        assert questions == []
        added = await create_group(client, **group_of(50, processor="core-fast", group_id=made["group_id"]))

    assert "$2.250 is more than all that one hour may cost, $2.00" in text
    assert (len(questions), added["rows_created"]) == (1, 40)


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_question_names_no_less_than_is_charged(upstream: Upstream, mode: str) -> None:
    """Prices have half cents."""
    questions: list[str] = []
    async with asked_client(upstream.url, questions, approves=True, mode=mode, max_usd_per_call=0.1) as client:
        made = await create_group(client, **group_of(5, processor="core-fast"))

    (question,) = questions
    assert "5 research tasks, one a row, with core-fast for $0.125 in all" in question
    assert made["price_usd"] == 0.125


async def test_group_that_cannot_be_read_in_time_is_said_to_be_so(upstream: Upstream) -> None:
    """Nothing is on its way that a repeat could find."""
    async with behind_proxy(upstream, max_wait_s=5) as (client, proxy):
        made = await create_group(client, **group_of(2))
        proxy.add(ScriptedFault(method="GET", path=RUNS, fault=stall(), times=None))
        text = await failure(client, "create_task_group", group_of(3, group_id=made["group_id"]))

    assert "could not be read in time. Nothing was sent" in text
    assert "Code: upstream_unavailable" in text
    assert upstream.simulator.accepted_runs == 2


async def test_rows_on_their_way_are_said_to_be_so_in_time_while_the_ledger_cannot_be_used(
    upstream: Upstream, tmp_path: Path
) -> None:
    """To say that nothing was sent, and how to do without a ledger, would have them bought twice."""
    ledger, answers = tmp_path / "ledger.sqlite3", threading.Event()
    text, took_s, told = "", 0.0, anyio.Event()
    held = ScriptedFault(method="POST", path=RUNS, fault=held_until(answers))
    async with behind_proxy(upstream, held, ledger=str(ledger), max_wait_s=4) as (client, proxy):

        async def create() -> None:
            nonlocal text, took_s
            began_at = anyio.current_time()
            text = await failure(client, "create_task_group", group_of(2))
            took_s = anyio.current_time() - began_at
            told.set()

        async with anyio.create_task_group() as creating:
            creating.start_soon(create)
            await proxy.wait_for(lambda: any(request.path.endswith("/runs") for request in proxy.requests))
            with closing(sqlite3.connect(ledger, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                await told.wait()
            answers.set()
        again = await once_answered(client, group_of(2))

    assert "Code: still_creating" in text
    assert took_s < 8.5, "to wait for the ledger besides would take nine"
    assert (again["deduplicated"], upstream.simulator.accepted_runs) == (True, 2)


async def test_repeat_of_an_addition_on_its_way_is_told_so_and_asks_nobody(upstream: Upstream) -> None:
    """Other rows that are on their way to the group say nothing of these."""
    questions: list[str] = []
    answers = threading.Event()
    with faulty(upstream.url) as proxy:
        async with asked_client(proxy.url, questions, approves=True, max_wait_s=3) as client:
            made = await create_group(client, **group_of(1, processor="core-fast"))
            proxy.add(ScriptedFault(method="POST", path=RUNS, fault=held_until(answers)))
            dear = group_of(60, processor="core-fast", group_id=made["group_id"])
            other = {"inputs": ["x"], "processor": "lite", "group_id": made["group_id"]}
            texts = [await failure(client, "create_task_group", call) for call in (dear, dear, other)]
            answers.set()
            again = await once_answered(client, dear)

    assert len(questions) == 1
    assert ["still_creating" in text for text in texts] == [True, True, False]
    assert "Nothing was sent" in texts[2]
    assert (again["rows_created"], upstream.simulator.accepted_runs) == (0, 60)


async def once_answered(client: Client, call: dict[str, Any]) -> dict[str, Any]:
    """What a call gives as soon as no equal one is on its way any more."""
    with anyio.fail_after(PATIENCE_S):
        while "Code: still_creating" in text_of(result := await client.call_tool("create_task_group", call)):
            pass
    return structured(result)


async def create_call(client: Client, call: dict[str, Any]) -> None:
    """A call whose answer is of no interest."""
    await client.call_tool("create_task_group", call)


async def test_refused_group_costs_nothing_and_says_why(upstream: Upstream) -> None:
    """Without credit, or with a spec the API does not take."""
    async with behind_proxy(upstream, ScriptedFault(path=RUNS, fault=respond(402, b"{}"))) as (client, _):
        text = await failure(client, "create_task_group", group_of(3))
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_hour"]
        again = await create_group(client, **group_of(3))

    assert "Code: out_of_credit" in text
    assert spent == 0
    assert (again["deduplicated"], again["rows_created"]) == (False, 3)


# ---- the same again


async def test_equal_call_gives_the_group_and_sends_nothing(upstream: Upstream) -> None:
    """Models repeat calls; also twenty at once are one group."""
    groups: list[dict[str, Any]] = []
    async with connected("memory", upstream.url) as client:

        async def create() -> None:
            groups.append(await create_group(client, **group_of(5)))

        async with anyio.create_task_group() as creating:
            for _ in range(20):
                creating.start_soon(create)
        other = await create_group(client, **group_of(6))
        forced = await create_group(client, **group_of(5), force_new=True)

    assert len({group["group_id"] for group in groups}) == 1
    assert sorted(group["rows_created"] for group in groups) == [*[0] * 19, 5]
    assert {group["status"] for group in groups if group["deduplicated"]} == {"existing"}
    assert len({groups[0]["group_id"], other["group_id"], forced["group_id"]}) == 3
    assert upstream.simulator.accepted_runs == 16


@pytest.mark.parametrize(("age_s", "is_gone"), [(30, False), (61, True)])
async def test_group_that_the_api_no_longer_knows_answers_no_equal_call(
    upstream: Upstream, tmp_path: Path, age_s: float, is_gone: bool
) -> None:
    """As it is with runs: for a moment a machine upstream may not know what is new."""
    ledger, call = tmp_path / "ledger.sqlite3", group_of(2)
    async with behind_proxy(upstream, ledger=str(ledger)) as (client, proxy):
        made = await create_group(client, **call)
        older_by(ledger, age_s)
        path = f"/v1/tasks/groups/{made['group_id']}"
        proxy.add(ScriptedFault(method="GET", path=path, fault=respond(404, b"{}"), times=None))
        again = await create_group(client, **call)

    assert (again["group_id"] != made["group_id"]) == is_gone
    assert (again["deduplicated"], again["rows_created"]) == ((False, 2) if is_gone else (True, 0))


@pytest.mark.parametrize("lost", [True, False])
async def test_gone_group_that_lacks_rows_is_made_anew_unless_its_rows_may_exist(
    upstream: Upstream, tmp_path: Path, lost: bool
) -> None:
    """The caller gave no id that it could check; what was sent with a lost answer is not sent again by itself."""
    ledger, call = tmp_path / "ledger.sqlite3", group_of(1_001)
    fault = respond(500, b"{}") if lost else respond(402, b"{}")
    async with behind_proxy(
        upstream, ScriptedFault(method="POST", path=RUNS, fault=fault, skip=1), ledger=str(ledger)
    ) as (client, proxy):
        made = await create_group(client, **call)
        path = f"/v1/tasks/groups/{made['group_id']}(/runs)?"
        proxy.add(ScriptedFault(method="GET", path=path, fault=respond(404, b"{}"), times=None))
        early = await failure(client, "create_task_group", call)
        older_by(ledger, 61)
        later = await client.call_tool("create_task_group", call)
        forced = structured(await client.call_tool("create_task_group", {**call, "force_new": True})) if lost else {}

    assert "Code: still_changing" in early
    if lost:
        assert "Code: outcome_unknown" in text_of(later)
        assert "force_new=true" in text_of(later)
        assert "Check the id" not in text_of(later)
    again = forced or structured(later)
    assert (again["rows_created"], again["deduplicated"]) == (1_001, False)
    assert upstream.simulator.accepted_runs == 2_001


@pytest.mark.parametrize("is_complete", [True, False])
async def test_gone_group_of_a_key_is_said_to_be_gone(upstream: Upstream, tmp_path: Path, is_complete: bool) -> None:
    """As it is with runs: the key leads there for good, and there is nothing to watch."""
    ledger, call = tmp_path / "ledger.sqlite3", group_of(2, idempotency_key="table-1")
    faults = [] if is_complete else [ScriptedFault(method="POST", path=RUNS, fault=respond(500, b"{}"))]
    async with behind_proxy(upstream, *faults, ledger=str(ledger)) as (client, proxy):
        made = await create_group(client, **call)
        older_by(ledger, 601)
        proxy.add(ScriptedFault(method="GET", path=".*", fault=respond(404, b"{}"), times=None))
        result = await client.call_tool("create_task_group", call)

    again = structured(result)
    assert (again["group_id"], again["status"], again["rows_created"]) == (made["group_id"], "not_found", 0)
    assert again["next"].startswith("Parallel does not know this group any more: create_task_group with another")
    assert "already" not in text_of(result)
    assert len(sent_rows(upstream)) == is_complete


async def test_key_gives_the_same_group_after_a_restart_and_no_other(upstream: Upstream, tmp_path: Path) -> None:
    """Also when it has ended."""
    settings: dict[str, Any] = {"ledger": str(tmp_path / "ledger.sqlite3")}
    call = group_of(4, idempotency_key="table-1", metadata={"sim": "latency=1"})
    async with connected("memory", upstream.url, **settings) as client:
        first = await create_group(client, **call)
        await client.call_tool("watch_progress", {"id": first["group_id"]})
    async with connected("memory", upstream.url, **settings) as client:
        second = await create_group(client, **call)
        third = await create_group(client, **{**call, "idempotency_key": ""})
        conflict = await failure(client, "create_task_group", {**call, "processor": "base"})

    assert (second["group_id"], second["deduplicated"], second["price_usd"]) == (first["group_id"], True, 0)
    assert third["group_id"] != first["group_id"], "without the key an equal group is found only while it is active"
    assert "Code: idempotency_conflict" in conflict
    assert upstream.simulator.accepted_runs == 8


# ---- failures


async def test_failing_second_batch_leaves_an_exact_account_and_the_same_call_with_the_group_goes_on(
    upstream: Upstream,
) -> None:
    """The model need not cut the table: what is there is not bought again."""
    fault = ScriptedFault(path=RUNS, fault=respond(402, b'{"error": {"message": "No credit."}}'), skip=1)
    call = group_of(1_200)
    async with behind_proxy(upstream, fault) as (client, _):
        result = await client.call_tool("create_task_group", call)
        made, text = structured(result), text_of(result)
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_hour"]
        repeated = await create_group(client, **call)
        rest = await create_group(client, **call, group_id=made["group_id"])
        whole = await create_group(client, **call, group_id=made["group_id"])
        listed = structured(await client.call_tool("get_status", {}))

    assert (made["status"], made["rows_created"], made["rows_missing"]) == ("incomplete", 1_000, "1001-1200")
    assert (made["price_usd"], spent) == (5.0, 5.0)
    assert "rows_unknown" not in made
    assert f'exactly the same arguments and group_id="{made["group_id"]}"' in made["next"]
    assert "Not created: rows 1001-1200" in text
    assert "Tell the user to add credit" in text
    assert (repeated["group_id"], repeated["rows_missing"]) == (made["group_id"], "1001-1200")
    assert (rest["status"], rest["rows_created"], rest["price_usd"]) == ("started", 200, 1.0)
    assert (whole["status"], whole["rows_created"]) == ("existing", 0)
    assert await shown(upstream, made["group_id"]) == numbered(companies(1_200))
    assert upstream.simulator.accepted_runs == 1_200
    assert (len(listed["items"]), listed["spent_usd_last_hour"]) == (1, 6.0)


LOST: dict[str, Callable[[], ByteFault]] = {
    "reset after sending": reset_after_accept,
    "closed without answer": close_without_answer,
    "body cut": lambda: cut_body(20),
    "stalled": stall,
    "500": lambda: respond_after_forward(500, b"{}"),
    "success with HTML": lambda: replace_body(b"<html>", "text/html"),
    "success with one run": lambda: replace_body(b'{"run_ids": ["trun_1"]}'),
    "refused with 422 after all": lambda: respond_after_forward(422, b"{}"),
}


@pytest.mark.parametrize("fault", LOST.values(), ids=LOST.keys())
async def test_rows_whose_answer_is_lost_are_found_in_the_group(
    upstream: Upstream, fault: Callable[[], ByteFault]
) -> None:
    """They were bought; to send them again would buy them twice."""
    call = group_of(3)
    lost = ScriptedFault(method="POST", path=RUNS, fault=fault())
    async with behind_proxy(upstream, lost, create_s=5) as (client, _):
        made = await create_group(client, **call)
        again = await create_group(client, **call)
        added = await create_group(client, **call, group_id=made["group_id"])

    assert (made["status"], made["rows_created"]) == ("started", 3)
    assert (again["group_id"], again["deduplicated"]) == (made["group_id"], True)
    assert added["rows_created"] == 0
    assert upstream.simulator.accepted_runs == 3
    assert len(sent_rows(upstream)) == 1


async def test_lost_answer_of_the_first_batch_does_not_end_the_rest(upstream: Upstream) -> None:
    """Its rows are found, so nothing stands against going on."""
    fault = ScriptedFault(method="POST", path=RUNS, fault=reset_after_accept())
    async with behind_proxy(upstream, fault) as (client, _):
        made = await create_group(client, **group_of(1_100))

    assert (made["status"], made["rows_created"]) == ("started", 1_100)
    assert upstream.simulator.accepted_runs == 1_100


async def test_rows_that_never_appear_are_unknown_and_not_sent_again_for_ten_minutes(
    upstream: Upstream, tmp_path: Path
) -> None:
    """The request got lost on its way, which nobody here can know; later the group shows that it did."""
    ledger = tmp_path / "ledger.sqlite3"
    fault = ScriptedFault(method="POST", path=RUNS, fault=respond(500, b"{}"), skip=1)
    call = group_of(1_100)
    async with behind_proxy(upstream, fault, ledger=str(ledger)) as (client, _):
        made = await create_group(client, **call)
        repeated = await create_group(client, **call)
        text = await failure(client, "create_task_group", {**call, "group_id": made["group_id"]})
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_hour"]
        assert upstream.simulator.accepted_runs == 1_000
        older_by(ledger, 600)
        rest = await create_group(client, **call, group_id=made["group_id"])

    assert (made["rows_created"], made["rows_unknown"]) == (1_000, "1001-1100")
    assert "rows_missing" not in made
    assert "get_status" in made["next"]
    assert repeated["rows_unknown"] == "1001-1100"
    assert "Code: outcome_unknown" in text
    assert "Rows 1001-1100 are not in the group" in text
    assert spent == 5.5, "what may have been bought is reserved"
    assert rest["rows_created"] == 100
    assert await shown(upstream, made["group_id"]) == numbered(companies(1_100))


async def test_user_may_have_unknown_rows_sent_at_once(upstream: Upstream, tmp_path: Path) -> None:
    """With force_new, which in a group never touches the rows that it shows."""
    fault = ScriptedFault(method="POST", path=RUNS, fault=respond(500, b"{}"), skip=1)
    ledger, call = tmp_path / "ledger.sqlite3", group_of(1_100)
    async with behind_proxy(upstream, fault, ledger=str(ledger)) as (client, _):
        made = await create_group(client, **call)
        rest = await create_group(client, **call, group_id=made["group_id"], force_new=True)
        reserved = structured(await client.call_tool("get_status", {}))["spent_usd_last_hour"]
        older_by(ledger, 3_601)
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_day"]

    assert rest["rows_created"] == 100
    assert (reserved, spent) == (6.0, 5.5)
    assert upstream.simulator.accepted_runs == 1_100


async def test_rows_sent_once_more_are_charged_once_and_the_lost_ones_reserved_for_an_hour(
    upstream: Upstream, tmp_path: Path
) -> None:
    """A ledger that took the lost ones for bought would charge them for a day, and wait for rows that nobody made."""
    ledger = tmp_path / "ledger.sqlite3"
    lost = ScriptedFault(method="POST", path=RUNS, fault=respond(500, b"{}"), skip=1)
    async with behind_proxy(upstream, lost, ledger=str(ledger)) as (client, _):
        made = await create_group(client, inputs=["a"], processor="lite")
        call = {"inputs": ["a", "b", "c", "d"], "processor": "lite", "group_id": made["group_id"]}
        unknown = await create_group(client, **call)
        forced = await create_group(client, **call, force_new=True)
        again = await create_group(client, **call)
        reserved = structured(await client.call_tool("get_status", {}))["spent_usd_last_hour"]
        more = await create_group(client, **{**call, "inputs": ["x"]})
        older_by(ledger, 3_601)
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_day"]

    assert (unknown["rows_unknown"], forced["rows_created"], again["rows_created"]) == ("2-4", 3, 0)
    assert reserved == 0.035
    assert more["rows_created"] == 1
    assert spent == 0.025
    assert upstream.simulator.accepted_runs == 5


async def test_rows_that_were_there_before_are_not_taken_for_those_that_were_lost(
    upstream: Upstream, tmp_path: Path
) -> None:
    """However long ago they were bought."""
    ledger = tmp_path / "ledger.sqlite3"
    lost = ScriptedFault(method="POST", path=RUNS, fault=respond(500, b"{}"), skip=1)
    async with behind_proxy(upstream, lost, ledger=str(ledger)) as (client, _):
        made = await create_group(client, inputs=["1", "2", "3", "4", "5"], processor="lite")
        older_by(ledger, 700)
        call = {"inputs": ["b", "c", "d"], "processor": "lite", "group_id": made["group_id"]}
        await create_group(client, **call)
        await create_group(client, **call, force_new=True)
        again = await create_group(client, **call)
        older_by(ledger, 3_601)
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_day"]

    assert again["rows_created"] == 0
    assert upstream.simulator.accepted_runs == 8
    assert spent == 0.04


@pytest.mark.parametrize("is_new", [True, False])
async def test_lost_rows_that_another_server_has_added_are_not_charged_here(
    upstream: Upstream, tmp_path: Path, is_new: bool
) -> None:
    """The repeat finds the rows there; no other rows have to wait for those that nobody made."""
    ledger = tmp_path / "ledger.sqlite3"
    lost = ScriptedFault(method="POST", path=RUNS, fault=respond(500, b"{}"), skip=0 if is_new else 1)
    call: dict[str, Any] = {"inputs": ["b", "c"], "processor": "lite"}
    async with (
        behind_proxy(upstream, lost, ledger=str(ledger)) as (client, _),
        connected("memory", upstream.url) as other,
    ):
        if not is_new:
            call["group_id"] = (await create_group(client, inputs=["a"], processor="lite"))["group_id"]
        unknown = await create_group(client, **call)
        call["group_id"] = unknown["group_id"]
        await create_group(other, **call)
        again = await create_group(client, **call)
        more = await create_group(client, **{**call, "inputs": ["x"]})
        reserved = structured(await client.call_tool("get_status", {}))["spent_usd_last_hour"]
        older_by(ledger, 3_601)
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_day"]

    assert (unknown["rows_unknown"], again["status"], more["rows_created"]) == (
        "1-2" if is_new else "2-3",
        "existing",
        1,
    )
    assert reserved == pytest.approx(spent + 0.01)
    assert spent == pytest.approx(upstream.simulator.accepted_runs * 0.005 - 0.01)


async def test_other_rows_wait_for_lost_ones_only_until_these_were_sent_once_more(upstream: Upstream) -> None:
    """Whether they were among the lost ones is not known before; of rows that were never sent, nothing else is said."""
    lost = ScriptedFault(method="POST", path=RUNS, fault=respond(500, b"{}"), skip=1)
    async with behind_proxy(upstream, lost) as (client, _):
        made = await create_group(client, inputs=["a"], processor="lite")
        call = {"inputs": ["b", "c", "d"], "processor": "lite", "group_id": made["group_id"]}
        other = {**call, "inputs": ["x"]}
        await create_group(client, **call)
        early = await failure(client, "create_task_group", other)
        equal = await failure(client, "create_task_group", call)
        await create_group(client, **call, force_new=True)
        more = await create_group(client, **other)

    assert "Rows 2 are not in the group, and may be among those of another create, whose answer was lost" in early
    assert "Code: outcome_unknown" in early
    assert "Rows 2-4 are not in the group, and the answer to an earlier create was lost: they may still" in equal
    assert more["rows_created"] == 1
    assert upstream.simulator.accepted_runs == 5


async def test_other_rows_wait_for_lost_ones_of_which_some_could_not_be_sent_once_more(upstream: Upstream) -> None:
    """Those may still appear, so that to send them in another call would buy them twice."""
    call = group_of(1_100)
    lost = ScriptedFault(method="POST", path=RUNS, fault=respond(500, b"{}"), skip=1)
    refused = ScriptedFault(method="POST", path=RUNS, fault=respond(402, b"{}"), skip=1)
    async with behind_proxy(upstream, lost) as (client, proxy):
        made = await create_group(client, inputs=["a"], processor="lite")
        unknown = await create_group(client, **call, group_id=made["group_id"])
        proxy.add(refused)
        forced = await create_group(client, **call, group_id=made["group_id"], force_new=True)
        text = await failure(client, "create_task_group", group_of(1_101, group_id=made["group_id"]))

    assert unknown["rows_unknown"] is not None
    assert (forced["rows_created"], forced["status"]) == (1_000, "incomplete")
    assert "Code: outcome_unknown" in text


@pytest.mark.parametrize(("rows", "unknown"), [(3, "1-3"), (1_003, "1001-1003")])
async def test_rows_that_appear_late_are_charged_for_the_day(
    upstream: Upstream, tmp_path: Path, rows: int, unknown: str
) -> None:
    """As soon as the group shows them they are known to be bought."""
    ledger, call = tmp_path / "ledger.sqlite3", group_of(rows)
    lost = ScriptedFault(method="POST", path=RUNS, fault=reset_after_accept(), skip=rows // 1_000)
    stale = ScriptedFault(method="GET", path=RUNS, fault=replace_body(b"", "text/event-stream"), times=2)
    async with behind_proxy(upstream, lost, stale, ledger=str(ledger)) as (client, _):
        made = await create_group(client, **call)
        again = await create_group(client, **call)
        older_by(ledger, 3_601)
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_day"]

    assert (made["rows_unknown"], again["status"]) == (unknown, "existing")
    assert spent == pytest.approx(rows * 0.005)
    assert upstream.simulator.accepted_runs == rows


async def test_list_that_lags_behind_buys_nothing_twice(upstream: Upstream) -> None:
    """A list that ends early looks like a group that lacks rows."""
    call = group_of(5)
    async with behind_proxy(upstream) as (client, proxy):
        made = await create_group(client, **call)
        proxy.add(ScriptedFault(method="GET", path=RUNS, fault=replace_body(b"", "text/event-stream")))
        text = await failure(client, "create_task_group", {**call, "group_id": made["group_id"]})

    assert "Code: still_changing" in text
    assert "does not show all of its rows yet" in text
    assert "The same call looks again, and buys what is still lacking" in text
    assert upstream.simulator.accepted_runs == 5


async def test_create_goes_on_when_its_caller_leaves(upstream: Upstream) -> None:
    """And the repeat waits for it, with the group's id or without."""
    first, second = threading.Event(), threading.Event()
    held = [ScriptedFault(method="POST", path=RUNS, fault=held_until(answers)) for answers in (first, second)]
    async with behind_proxy(upstream, *held) as (client, proxy):
        await leave_when_sent(client, proxy, group_of(4))
        repeated = await answered_after(first, client, group_of(4))
        again = group_of(6, group_id=repeated["group_id"])
        await leave_when_sent(client, proxy, again)
        added = await answered_after(second, client, again)

    assert repeated["deduplicated"]
    assert (added["status"], added["rows_created"]) == ("existing", 0)
    assert upstream.simulator.accepted_runs == 6


async def leave_when_sent(client: Client, proxy: FaultyProxy, call: dict[str, Any]) -> None:
    """Make a call, and leave when its rows are on their way."""

    def posts() -> int:
        return sum(r.method == "POST" and bool(re.fullmatch(RUNS, r.path)) for r in proxy.requests)

    before = posts()
    async with anyio.create_task_group() as creating:
        creating.start_soon(create_call, client, call)
        await proxy.wait_for(lambda: posts() > before)
        creating.cancel_scope.cancel()


async def answered_after(answers: threading.Event, client: Client, call: dict[str, Any]) -> dict[str, Any]:
    """What a call gives that is made while an equal one is on its way, which is answered only then."""
    made: dict[str, Any] = {}

    async def create() -> None:
        made.update(await create_group(client, **call))

    async with anyio.create_task_group() as creating:
        creating.start_soon(create)
        await client.call_tool("get_status", {})
        answers.set()
    return made


async def test_group_of_a_server_that_died_is_read_back(upstream: Upstream, tmp_path: Path) -> None:
    """The group was written down before the rows were sent; what was sent is found, and the rest can be added."""
    ledger = tmp_path / "ledger.sqlite3"
    call = group_of(1_200)
    fault = ScriptedFault(path=RUNS, fault=respond(402, b"{}"), skip=1)
    async with behind_proxy(upstream, fault, ledger=str(ledger)) as (client, _):
        made = await create_group(client, **call)
    with sqlite3.connect(ledger) as db:
        db.execute("UPDATE entries SET state = 'intent', handle = '', price_usd = 6.0, at = at - 120")
    db.close()
    async with behind_proxy(upstream, ledger=str(ledger)) as (client, _):
        (listed,) = structured(await client.call_tool("get_status", {}))["items"]
        found = await create_group(client, **call)
        early = await failure(client, "create_task_group", {**call, "group_id": made["group_id"]})
        older_by(ledger, 600)
        rest = await create_group(client, **call, group_id=made["group_id"])

    assert made["group_id"] in listed["next"]
    assert (found["group_id"], found["rows_unknown"]) == (made["group_id"], "1001-1200")
    assert "Code: outcome_unknown" in early
    assert rest["rows_created"] == 200
    assert upstream.simulator.accepted_runs == 1_200


async def test_server_that_slept_sends_nothing_once_another_has_made_the_group(
    upstream: Upstream, tmp_path: Path
) -> None:
    """A laptop was shut between making the group and writing it down; meanwhile the rows were bought elsewhere."""
    ledger, wakes, call = tmp_path / "ledger.sqlite3", threading.Event(), group_of(3)
    held = ScriptedFault(method="POST", path="/v1/tasks/groups", fault=held_until(wakes))
    text, made = "", {}
    async with (
        behind_proxy(upstream, held, ledger=str(ledger)) as (one, proxy),
        connected("memory", upstream.url, **GENEROUS, ledger=str(ledger)) as two,
    ):

        async def create() -> None:
            nonlocal text
            text = await failure(one, "create_task_group", call)

        async with anyio.create_task_group() as creating:
            creating.start_soon(create)
            await proxy.wait_for(lambda: len(proxy.requests) > 0)
            older_by(ledger, 60)
            made = await create_group(two, **call)
            wakes.set()
        spent = structured(await two.call_tool("get_status", {}))["spent_usd_last_hour"]

    assert (made["deduplicated"], made["rows_created"]) == (False, 3)
    assert "Code: still_creating" in text
    assert upstream.simulator.accepted_runs == 3
    assert spent == 0.015


# ---- adding


async def test_more_rows_are_numbered_behind_those_of_the_group(upstream: Upstream) -> None:
    """A second table is added to the first; what both have is bought once."""
    async with connected("memory", upstream.url) as client:
        made = await create_group(client, inputs=["a", "b", "c"], processor="lite")
        more = {"inputs": ["d", "b", "e"], "processor": "lite", "group_id": made["group_id"]}
        added = await create_group(client, **more)
        again = await create_group(client, **more)

    assert (added["rows"], added["rows_created"]) == (3, 2)
    assert again["rows_created"] == 0
    assert await shown(upstream, made["group_id"]) == {"1": "a", "2": "b", "3": "c", "4": "d", "5": "e"}


async def test_equal_additions_at_once_are_bought_once(upstream: Upstream) -> None:
    """Clients send a call again while the first is still being answered."""
    created: list[int] = []
    async with connected("memory", upstream.url) as client:
        made = await create_group(client, inputs=["a"], processor="lite")
        more = {"inputs": ["a", "b", "c"], "processor": "lite", "group_id": made["group_id"]}

        async def add() -> None:
            result = await client.call_tool("create_task_group", more)
            created.append(0 if result.is_error else structured(result)["rows_created"])

        async with anyio.create_task_group() as adding:
            for _ in range(8):
                adding.start_soon(add)

    assert sum(created) == 2
    assert upstream.simulator.accepted_runs == 3


async def test_other_additions_at_once_are_all_carried_out(upstream: Upstream) -> None:
    """Models call side by side; if all gave way to each other, so would their repeats."""
    created: list[int] = []
    async with connected("memory", upstream.url) as client:
        made = await create_group(client, inputs=["a"], processor="lite")

        async def add(row: str) -> None:
            more = await create_group(client, inputs=["a", row], processor="lite", group_id=made["group_id"])
            created.append(more["rows_created"])

        async with anyio.create_task_group() as adding:
            for row in "bcdef":
                adding.start_soon(add, row)
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_hour"]

    listed = await shown(upstream, made["group_id"])
    assert created == [1] * 5
    assert list(listed) == ["1", "2", "3", "4", "5", "6"]
    assert sorted(listed.values()) == list("abcdef")
    assert spent == 0.03


async def test_additions_at_once_buy_a_row_that_they_share_once(upstream: Upstream) -> None:
    """The later one adds what is lacking when its turn comes, and pays for no more."""
    added: list[dict[str, Any]] = []
    looking = threading.Event()
    async with behind_proxy(upstream) as (client, proxy):
        made = await create_group(client, inputs=["a"], processor="lite")
        proxy.add(ScriptedFault(method="GET", path=RUNS, fault=held_until(looking), times=2))
        before = len(proxy.requests)

        async def add(*rows: str) -> None:
            added.append(await create_group(client, inputs=rows, processor="lite", group_id=made["group_id"]))

        async with anyio.create_task_group() as adding:
            adding.start_soon(add, "b", "c")
            adding.start_soon(add, "c", "b")
            await proxy.wait_for(lambda: sum(r.path.endswith("/runs") for r in proxy.requests[before:]) == 2)
            looking.set()
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_hour"]

    assert sorted((more["status"], more["rows_created"]) for more in added) == [("existing", 0), ("started", 2)]
    assert sorted((await shown(upstream, made["group_id"])).values()) == list("abc")
    assert spent == 0.015


async def test_addition_waits_for_one_that_was_begun_while_it_waited_for_another(
    upstream: Upstream, tmp_path: Path
) -> None:
    """Calls side by side begin at any moment, not all at once; none of them has to give way."""
    created: dict[str, int] = {}
    ledger, listed, answered = tmp_path / "ledger.sqlite3", threading.Event(), threading.Event()
    async with behind_proxy(upstream, ledger=str(ledger)) as (client, proxy):
        made = await create_group(client, inputs=["a"], processor="lite")
        proxy.add(
            ScriptedFault(method="GET", path=RUNS, fault=held_until(listed)),
            ScriptedFault(method="POST", path=RUNS, fault=held_until(answered)),
        )
        before = len(proxy.requests)

        async def add(row: str) -> None:
            more = await create_group(client, inputs=[row], processor="lite", group_id=made["group_id"])
            created[row] = more["rows_created"]

        async with anyio.create_task_group() as adding:
            adding.start_soon(add, "begun second")
            await proxy.wait_for(lambda: any(r.path.endswith("/runs") for r in proxy.requests[before:]))
            adding.start_soon(add, "begun first")
            await proxy.wait_for(lambda: any(r.method == "POST" for r in proxy.requests[before:]))
            adding.start_soon(add, "waits")
            await client.call_tool("get_status", {})  # by then it has looked whom to wait for
            listed.set()
            with anyio.fail_after(PATIENCE_S):
                while intents_in(ledger) < 2:
                    await client.call_tool("get_status", {})
            answered.set()

    assert created == {"begun first": 1, "begun second": 1, "waits": 1}


def intents_in(ledger: Path) -> int:
    """How many creates are on their way."""
    with closing(sqlite3.connect(ledger)) as db:
        return int(db.execute("SELECT count(*) FROM entries WHERE state = 'intent'").fetchone()[0])


async def test_rows_added_while_the_group_is_looked_at_are_no_reason_to_refuse(upstream: Upstream) -> None:
    """A count that is younger than the list is no sign of a list that lags behind."""
    counted, outcomes = threading.Event(), list[int]()
    async with behind_proxy(upstream) as (client, proxy):
        made = await create_group(client, inputs=["a"], processor="lite")
        path = f"/v1/tasks/groups/{made['group_id']}"
        proxy.add(ScriptedFault(method="GET", path=path, fault=held_until(counted)))
        before = len(proxy.requests)

        async def add(row: str) -> None:
            more = await create_group(client, inputs=[row], processor="lite", group_id=made["group_id"])
            outcomes.append(more["rows_created"])

        async with anyio.create_task_group() as adding:
            adding.start_soon(add, "b")
            await proxy.wait_for(lambda: any(r.path == path for r in proxy.requests[before:]))
            await add("c")
            counted.set()

    assert outcomes == [1, 1]
    assert sorted((await shown(upstream, made["group_id"])).values()) == list("abc")


async def test_addition_in_its_turn_sends_no_row_whose_answer_the_one_before_it_lost(upstream: Upstream) -> None:
    """That the rows are open is written down later than the addition that waits."""
    outcomes: list[str] = []
    looking = threading.Event()
    async with behind_proxy(upstream) as (client, proxy):
        made = await create_group(client, inputs=["a"], processor="lite")
        proxy.add(
            ScriptedFault(method="GET", path=RUNS, fault=held_until(looking), times=2),
            ScriptedFault(method="POST", path=RUNS, fault=respond(500, b"{}"), skip=1),
        )
        before = len(proxy.requests)

        async def add(rows: int) -> None:
            result = await client.call_tool("create_task_group", group_of(rows, group_id=made["group_id"]))
            outcomes.append("refused" if "Code: outcome_unknown" in text_of(result) else structured(result)["status"])

        async with anyio.create_task_group() as adding:
            adding.start_soon(add, 1_100)
            adding.start_soon(add, 1_101)
            await proxy.wait_for(lambda: sum(r.path.endswith("/runs") for r in proxy.requests[before:]) == 2)
            looking.set()

    assert outcomes == ["incomplete", "refused"]
    assert upstream.simulator.accepted_runs == 1_001


async def test_group_that_is_not_there_is_said_to_be_so(upstream: Upstream) -> None:
    """Before anything is reserved."""
    async with connected("memory", upstream.url) as client:
        text = await failure(client, "create_task_group", group_of(2, group_id="tgrp_nobody"))

    assert "Code: not_found" in text
    assert upstream.simulator.accepted_runs == 0


async def test_rate_limited_batches_are_sent_again(upstream: Upstream) -> None:
    """429 says for certain that nothing was created."""
    upstream.simulator.add_fault(Fault("POST", RUNS, times=2, status=429, headers={"Retry-After": "0"}))
    async with connected("memory", upstream.url) as client:
        made = await create_group(client, **group_of(3))

    assert made["rows_created"] == upstream.simulator.accepted_runs == 3


async def test_rows_of_a_group_that_others_made_are_not_bought_again(upstream: Upstream) -> None:
    """Their labels mean something else, even where they have the names of ours."""
    async with httpx.AsyncClient(base_url=upstream.url, headers={"x-api-key": KEY}) as http:
        group_id = (await http.post("/v1/tasks/groups", json={})).json()["taskgroup_id"]
        runs = [
            {"processor": "lite", "input": f"Fact {n}", "metadata": {"sim": "never", "row_key": f"crm-{n}"}}
            for n in range(1, 4)
        ]
        (await http.post(f"/v1/tasks/groups/{group_id}/runs", json={"inputs": runs})).raise_for_status()
    async with connected("memory", upstream.url) as client:
        facts = [f"Fact {n}" for n in range(1, 5)]
        added = await create_group(client, inputs=facts, processor="lite", group_id=group_id)

    assert added["rows_created"] == 1
    assert upstream.simulator.accepted_runs == 4


async def test_rows_are_recognised_however_the_api_gives_their_inputs_back(upstream: Upstream) -> None:
    """A trimmed text or a rounded number must not make a table look as if it had never been bought."""
    with faulty(upstream.url) as proxy:
        async with connected("memory", proxy.url, **GENEROUS) as client:
            group_id = (await create_group(client, **group_of(3)))["group_id"]
            async with httpx.AsyncClient(base_url=upstream.url, headers={"x-api-key": KEY}) as http:
                path = f"/v1/tasks/groups/{group_id}/runs"
                listed = (await http.get(path, params={"include_input": "true"})).text
            altered = listed.replace("Company", "COMPANY")
            assert altered != listed
            proxy.add(
                ScriptedFault(
                    method="GET",
                    path=RUNS,
                    fault=replace_body(altered.encode(), "text/event-stream"),
                    times=None,
                )
            )
            again = await create_group(client, **group_of(3), group_id=group_id)

    assert (again["status"], again["rows_created"]) == ("existing", 0)
    assert len(upstream.sent("POST", path)) == 1
