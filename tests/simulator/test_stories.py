"""How streams are written and how they break (checklist 26), over a socket where it matters."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator
from dataclasses import dataclass

import httpx
import pytest

from parallel_mcp.simulator import ConnectionDropped, Simulator, SimulatorConfig, serving, stories
from tests.patience import PATIENCE_S
from tests.simulator.calls import FAST, KEY, QUESTION, STILL, Api, connected, read_events


@dataclass(frozen=True)
class Received:
    """What a connection gave: bytes, and whether it ended in order."""

    body: bytes
    complete: bool
    status: int

    @property
    def events(self) -> int:
        return self.body.count(b"event: ")


@dataclass(frozen=True)
class Served:
    """A simulator behind a socket."""

    http: httpx.Client

    def create(self, story: str) -> str:
        body = {"input": QUESTION, "processor": "pro", "metadata": {"sim": story}}
        return self.http.post("/v1/tasks/runs", json=body).json()["run_id"]

    def connect(self, run_id: str) -> Received:
        parts: list[bytes] = []
        with self.http.stream("GET", f"/v1/tasks/runs/{run_id}/events") as stream:
            try:
                parts.extend(stream.iter_raw())
            except httpx.RemoteProtocolError:
                return Received(b"".join(parts), False, stream.status_code)
        return Received(b"".join(parts), True, stream.status_code)


@pytest.fixture(scope="module")
def served() -> Generator[Served]:
    simulator = Simulator(SimulatorConfig(speed=FAST))
    with serving(simulator) as url, httpx.Client(base_url=url, headers=KEY, timeout=PATIENCE_S) as http:
        yield Served(http)


def test_every_story_word_is_documented() -> None:
    assert stories.__doc__
    for word in stories.WORDS:
        assert f"\n    {word}" in stories.__doc__


@pytest.mark.parametrize("events", [0, 1, 4])
def test_connection_is_lost_after_so_many_events(served: Served, events: int) -> None:
    received = served.connect(served.create(f"drop_after={events}"))

    assert (received.complete, received.events) == (False, events)


@pytest.mark.parametrize("events", [0, 1, 4])
def test_response_ends_in_order_after_so_many_events(served: Served, events: int) -> None:
    received = served.connect(served.create(f"clean_close_after={events}"))

    assert (received.complete, received.events) == (True, events)


@pytest.mark.parametrize(("word", "complete"), [("half_event", False), ("half_event_eof", True)])
def test_connection_ends_within_the_json_of_an_event(served: Served, word: str, complete: bool) -> None:
    received = served.connect(served.create(f"{word}=2"))

    assert (received.complete, received.events) == (complete, 3)
    assert not received.body.endswith(b"\n")
    assert b'data: {"type":"task_run' in received.body.rpartition(b"event: ")[2]


async def test_in_process_a_lost_connection_is_an_exception(api: Api) -> None:
    run = await api.create(sim="drop_after=1")

    with pytest.raises(ConnectionDropped):
        await api.run_events(run["run_id"])


def test_breaks_stop_after_the_first_connections(served: Served) -> None:
    run_id = served.create("drop_after=1 drops=2")

    assert [served.connect(run_id).complete for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("status", [502, 503])
def test_stream_is_refused_with_an_html_page(served: Served, status: int) -> None:
    run_id = served.create(f"stream_status={status} drops=1")

    refused, accepted = served.connect(run_id), served.connect(run_id)

    assert (refused.status, refused.body[:6]) == (status, b"<html>")
    assert accepted.status == 200


def test_large_output_arrives_whole(served: Served) -> None:
    received = served.connect(served.create("latency=60 size=3000000"))

    assert received.complete
    assert len(received.body) > 3_000_000


async def test_silence_holds_back_what_happens_meanwhile() -> None:
    """The run is over before the silence is; the stream says so only afterwards."""
    async with connected(speed=STILL) as api:
        run_id = (await api.create(processor="lite", sim="never silence=0.0005"))["run_id"]
        opened = time.monotonic()
        events = await api.events_during(f"/v1/tasks/runs/{run_id}/events", lambda: api.simulator.finish(run_id))
        silent_s = time.monotonic() - opened
        result = await api.get(f"/v1/tasks/runs/{run_id}/result")

    assert silent_s >= 0.5
    assert events[0]["run"]["status"] == "queued"
    assert events[-1]["run"] == result["run"]


async def test_lines_may_end_in_cr_lf(api: Api) -> None:
    text = await stream_text(api, "crlf")

    assert text.count("\n") == text.count("\r\n") > 0


async def test_json_may_be_spread_over_lines(api: Api) -> None:
    run = await api.create(processor="pro", sim="multiline")

    response = await api.http.get(f"/v1/tasks/runs/{run['run_id']}/events")

    assert response.text.count("\ndata: ") > 5 * response.text.count("event: ")
    assert read_events(response)[-1]["run"]["status"] == "completed"


def test_pings_are_comments_also_while_nothing_happens() -> None:
    """One comes before each event, so behind another one it comes by itself."""
    simulator = Simulator(SimulatorConfig(speed=100))
    with serving(simulator) as url, httpx.Client(base_url=url, headers=KEY, timeout=PATIENCE_S) as http:
        run_id = Served(http).create("never pings messages=0")
        with http.stream("GET", f"/v1/tasks/runs/{run_id}/events") as stream:
            assert (": ping", ": ping") in itertools.pairwise(filter(None, stream.iter_lines()))


async def test_ids_and_retry_may_be_sent(api: Api) -> None:
    text = await stream_text(api, "ids")

    assert "\nid: 1\nretry: 1000\ndata: " in text


async def test_pieces_may_be_as_small_as_a_byte(api: Api) -> None:
    assert (await stream_text(api, "chunk=1 u2028")).endswith("}\n\n")


@pytest.mark.parametrize(
    "words", ["latncy=3", "latency", "latency=-1", "latency=nan", "fails=1", "meter=up", "chunk=0"]
)
def test_default_story_is_checked_at_once(words: str) -> None:
    with pytest.raises(ValueError, match="story word"):
        SimulatorConfig(default_story=words)


async def test_default_story_is_for_runs_that_choose_none() -> None:
    async with connected(default_story="fails") as api:
        chosen = await api.create(sim="latency=1")
        default = await api.create()
        ends = [(await api.run_events(run["run_id"]))[-1]["run"]["status"] for run in (chosen, default)]

    assert ends == ["completed", "failed"]


async def stream_text(api: Api, story: str) -> str:
    run = await api.create(processor="pro", sim=story)
    return (await api.http.get(f"/v1/tasks/runs/{run['run_id']}/events")).text
