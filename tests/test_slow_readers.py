"""A client that reads slowly, or nothing at all, costs nobody else anything; and a client that reads is spared."""

import json
import os
import signal
import socket
import statistics
import subprocess
import threading
import time
import unicodedata
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import IO, Any, cast
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
import uvicorn
from anyio.abc import TaskGroup

from parallel_mcp.http.app import http_app
from parallel_mcp.server import build_server
from parallel_mcp.settings import Settings, load_settings
from tests.bare_client import bare_client
from tests.conftest import Upstream
from tests.connecting import KEY, LEGACY, MODERN, Transport, connected, create, http_client, structured
from tests.faults import ScriptedFault, faulty, raw_stream, stall
from tests.test_leaving import raw_call
from tests.test_stdio import messages_until_answer, send, server_process

TOKEN_CHARS = 150_000  # every notification repeats it, so that a few of them fill what lies between us and the reader
READERS_OF_NOTHING = 6
MESSAGES = 400
MIB = 2**20
LAST_STEP = "Writing the answer."  # of every simulated run that tells steps


@contextmanager
def serving_through_narrow_sockets(settings: Settings) -> Generator[str]:
    """Serve over HTTP with the smallest send buffers there are: what a client does not read is soon ours to hold."""
    server = uvicorn.Server(
        uvicorn.Config(http_app(build_server(settings), settings), log_level="critical", lifespan="on")
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join()


@contextmanager
def reading_nothing(address: str, mode: str, tool: str, arguments: dict[str, Any]) -> Generator[socket.socket]:
    """A caller that asks for progress with a very long token, and does not read."""
    request = raw_call(address, mode, tool, arguments)
    request["json"]["params"]["_meta"]["progressToken"] = "t" * TOKEN_CHARS
    body = json.dumps(request["json"]).encode()
    fields = {"host": urlsplit(address).netloc, "content-type": "application/json", "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**fields, **request["headers"]}.items())
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        caller.settimeout(20)
        caller.connect((urlsplit(address).hostname, urlsplit(address).port))
        caller.sendall(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
        yield caller


def resident_bytes() -> int:
    """What this process, with the server in it, takes up."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
async def test_reader_of_nothing_over_http_stalls_neither_other_watchers_nor_the_server(upstream: Upstream) -> None:
    """A laptop that sleeps in the middle of a watch must not be noticed by anybody; nor must an attacker."""
    settings = load_settings({"base_url": upstream.url})
    with (
        serving_through_narrow_sockets(settings) as address,
        serving_through_narrow_sockets(settings) as another_address,
        ExitStack() as idle,
    ):
        async with (
            http_client(address, KEY) as client,
            http_client(address, KEY) as other,
            http_client(another_address, KEY) as elsewhere,
        ):
            run_id = await create(client, f"never latency=300 messages={MESSAGES}")
            await client.call_tool("watch_progress", {"id": run_id, "timeout_s": 0.1})
            before, started = resident_bytes(), time.monotonic()
            watch = {"id": run_id, "timeout_s": 30}
            callers = [
                idle.enter_context(reading_nothing(address, mode, "watch_progress", watch))
                for mode in [MODERN, LEGACY] * (READERS_OF_NOTHING // 2)
            ]
            answers: list[tuple[float, dict[str, Any]]] = []
            seen: list[float] = []
            took_s: list[float] = []
            usually_took_s: list[float] = []
            all_told = anyio.Event()

            async def note(progress: float, total: float | None, message: str | None) -> None:
                seen.append(progress)
                if LAST_STEP in str(message):
                    all_told.set()

            async def ask_for_status() -> None:
                """Of the server that has such readers and of one that has none, which are on the same machine."""
                while True:
                    for client_of_one, took in ((other, took_s), (elsewhere, usually_took_s)):
                        asked = time.monotonic()
                        structured(await client_of_one.call_tool("get_status", {"ids": [run_id]}))
                        took.append(time.monotonic() - asked)
                    if all_told.is_set() and len(took_s) >= 20:
                        upstream.simulator.finish(run_id)

            async def watch_to_the_end(asking: TaskGroup) -> None:
                answer = await client.call_tool("watch_progress", watch, progress_callback=note)
                answers.append((time.monotonic() - started, structured(answer)))
                asking.cancel_scope.cancel()

            async with anyio.create_task_group() as asking:
                asking.start_soon(ask_for_status)
                asking.start_soon(watch_to_the_end, asking)

            [(answered_after_s, watched)] = answers
            assert watched["status"] == "completed"
            assert len(watched["untrusted_messages"]) == 100
            assert len(seen) >= 3
            assert statistics.median(took_s) < 0.2 + 3 * statistics.median(usually_took_s)
            assert max(took_s) < 10
            # A notification for each message would be 400 of 150 KB for each of them.
            most_notifications = 1 + answered_after_s / 0.5
            assert resident_bytes() - before < READERS_OF_NOTHING * most_notifications * 4 * TOKEN_CHARS
        for caller in callers:
            values, answer = await anyio.to_thread.run_sync(read_late, caller)
            assert answer["result"]["structuredContent"]["status"] == "completed"
            assert values == sorted(set(values))
            assert len(values) <= most_notifications + 1


def read_late(caller: socket.socket) -> tuple[list[float], dict[str, Any]]:
    """Everything that was kept for a caller: the values of the notifications, and the answer after them."""
    values: list[float] = []
    with caller.makefile("rb") as lines:
        for line in lines:
            if not line.startswith(b"data: "):
                continue
            message = json.loads(line.removeprefix(b"data: "))
            if "result" in message:
                return values, message
            values.append(message["params"]["progress"])
    raise AssertionError("the answer never came")


def test_stdio_client_that_reads_nothing_for_a_while_misses_nothing_that_matters(upstream: Upstream) -> None:
    """The run is followed to its end meanwhile, and neither answers nor the order of things are lost."""
    with server_process(upstream, environment=os.environ) as process:
        run_id = create_over(process, f"latency=180 messages={MESSAGES}")
        watch = {"id": run_id, "timeout_s": 30}
        started = time.monotonic()
        send(process, 2, "tools/call", token="t" * TOKEN_CHARS, name="watch_progress", arguments=watch)
        send(process, 3, "tools/call", name="watch_progress", arguments=watch)
        wait_until_over(upstream, run_id)

        messages = list(messages_until_answer(process, 2))
        if not any(message.get("id") == 3 for message in messages):  # it may come first: it sends no progress
            messages += messages_until_answer(process, 3)
        took_s = time.monotonic() - started
        send(process, 4, "tools/call", name="get_status", arguments={"ids": [run_id]})
        *_, status = messages_until_answer(process, 4)

    values = [message["params"]["progress"] for message in messages if "id" not in message]
    assert 1 <= len(values) <= 1 + took_s / 0.5
    assert values == sorted(set(values))
    answers = [message for message in messages if "id" in message]
    assert {answer["id"] for answer in answers} == {2, 3}
    for answer in answers:
        assert answer["result"]["structuredContent"]["status"] == "completed"
    assert status["result"]["structuredContent"]["items"][0]["status"] == "completed"


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "stdin closed", "stdin and stdout closed"])
def test_server_ends_though_nobody_reads(upstream: Upstream, end: str) -> None:
    """A client that hangs is ended by its user; its servers must not stay behind."""
    with server_process(upstream, environment=os.environ) as process:
        run_id = create_over(process, f"never messages={MESSAGES}")
        watch = {"id": run_id, "timeout_s": 30}
        send(process, 2, "tools/call", token="t" * TOKEN_CHARS, name="watch_progress", arguments=watch)
        assert cast("IO[str]", process.stdout).read(10)  # from here on the pipe is full
        if end.startswith("SIG"):
            process.send_signal(signal.Signals[end])
        else:
            cast("IO[str]", process.stdin).close()
        if end == "stdin and stdout closed":
            cast("IO[str]", process.stdout).close()

        process.wait(timeout=30)


def wait_until_over(upstream: Upstream, run_id: str) -> None:
    """Ask the API itself, which holds the question until then."""
    answer = httpx.get(f"{upstream.url}/v1/tasks/runs/{run_id}/result", headers={"x-api-key": KEY}, timeout=30)
    assert answer.status_code == 200


def create_over(process: subprocess.Popen[str], story: str) -> str:
    """Create a run; its id."""
    arguments = {"input": "grid storage", "metadata": {"sim": story}}
    send(process, 1, "tools/call", name="create_task", arguments=arguments)
    *_, created = messages_until_answer(process, 1)
    return str(created["result"]["structuredContent"]["run_id"])


@pytest.mark.parametrize("transport", ["memory", "stdio", "http"])
async def test_first_notification_comes_before_the_first_byte_of_the_api(
    upstream: Upstream, transport: Transport
) -> None:
    """A person sees at once that something happens, however slow the network."""
    async with connected("memory", upstream.url) as client:
        run_id = await create(client, "never")
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(path=".*", fault=stall(), times=None))
        async with connected(transport, proxy.url) as client:
            await client.list_tools()
            first = anyio.Event()

            async def note(progress: float, total: float | None, message: str | None) -> None:
                first.set()

            async with anyio.create_task_group() as watching:
                watch = partial(client.call_tool, "watch_progress", {"id": run_id}, progress_callback=note)
                watching.start_soon(watch)
                with anyio.fail_after(3):  # the API never answers
                    await first.wait()
                watching.cancel_scope.cancel()


UNFIT = ("Cc", "Cf", "Cs", "Zl", "Zp")
HOSTILE = [
    "\x1b]0;owned\x07\x1b[31mred\x00\x08\x7f",
    "two\nlines\r\nand\ttabs",
    "\u202eright to left\u2066\u200b\ufeff",
    "next\u2028line \u0085too",
    "long " * 2_000,
]


async def test_notifications_are_one_short_clean_line_whatever_the_api_says(upstream: Upstream) -> None:
    """They are shown in terminals and status bars as they are."""
    seen: dict[str, list[str]] = {text: [] for text in HOSTILE}
    with faulty(upstream.url) as proxy:
        async with bare_client(proxy.url) as client, httpx.AsyncClient(headers={"x-api-key": KEY}, timeout=30) as api:

            async def watch(text: str) -> None:
                body = {"input": text[:20], "processor": "lite", "metadata": {"sim": "never"}}
                run = (await api.post(f"{upstream.url}/v1/tasks/runs", json=body)).json()
                said = raw_stream(_stream_that_says(run, text), then="hang")
                proxy.add(ScriptedFault(path=f"/v1/tasks/runs/{run['run_id']}/events", fault=said))
                has_spoken = anyio.Event()

                def note(value: float, line: str) -> None:
                    seen[text].append(line)
                    if line.startswith("running: "):
                        has_spoken.set()

                await client.call("watch_progress", {"id": run["run_id"]}, note)
                with anyio.fail_after(30):
                    await has_spoken.wait()

            async with anyio.create_task_group() as watching:
                for text in HOSTILE:
                    watching.start_soon(watch, text)

    for lines in seen.values():
        assert len(lines) >= 2
        for line in lines:
            assert len(line) <= 200
            assert not [character for character in line if unicodedata.category(character) in UNFIT]
    assert [lines[-1] for lines in seen.values()][:4] == [
        "running: red",
        "running: two lines and tabs",
        "running: right to left",
        "running: next line too",
    ]


def _stream_that_says(run: dict[str, Any], text: str) -> bytes:
    state = {"type": "task_run.state", "event_id": None, "input": None, "run": run, "output": None}
    step = {"type": "task_run.progress_msg.plan", "message": text, "timestamp": "2026-01-01T00:00:00Z"}
    events = "".join(f"data: {json.dumps(event)}\n\n" for event in (state, step))
    return f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{events}".encode()
