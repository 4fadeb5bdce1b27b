"""Serving over HTTP."""

from __future__ import annotations

import gc
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import ExitStack
from typing import IO, cast

import httpx
import pytest

from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from tests.patience import PATIENCE_S
from tests.simulator.calls import KEY

NEVER = {"input": "x", "processor": "lite", "metadata": {"sim": "never"}}


def test_leaving_the_block_ends_thread_and_sockets() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        with serving(Simulator()) as url, httpx.Client(base_url=url, headers=KEY, timeout=PATIENCE_S) as http:
            assert http.get("/v1/tasks/runs/none").status_code == 404
        gc.collect()

    assert not caught
    assert "parallel-simulator" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_command_serves_other_ids_each_time_unless_seeded() -> None:
    """A ledger remembers the ids of an earlier simulator, and must not take a new run for an old one."""
    first, second = (created_by_command() for _ in range(2))

    assert first != second
    assert created_by_command("--seed", "7") == created_by_command("--seed", "7")


def created_by_command(*arguments: str) -> str:
    """The id of the first run of a simulator in a process of its own."""
    command = [sys.executable, "-m", "parallel_mcp", "simulate", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        said = cast("IO[str]", process.stderr)
        found = re.search(r"http://127\.0\.0\.1:[1-9]\d*", said.readline())
        assert found
        try:
            created = httpx.post(f"{found[0]}/v1/tasks/runs", json=NEVER, headers=KEY, timeout=PATIENCE_S)
            return str(created.json()["run_id"])
        finally:
            process.terminate()
            said.read()


def test_open_streams_and_waiting_results_do_not_hold_up_the_end() -> None:
    """This one would last for 570 seconds."""
    with httpx.Client(headers=KEY, timeout=PATIENCE_S) as http:
        with serving(Simulator()) as url:
            run_id = http.post(f"{url}/v1/tasks/runs", json=NEVER).json()["run_id"]
            stream = http.send(http.build_request("GET", f"{url}/v1/tasks/runs/{run_id}/events"), stream=True)
            started = time.monotonic()
        assert time.monotonic() - started < PATIENCE_S
        stream.close()


def test_connections_that_come_at_the_very_end_are_closed() -> None:
    """Python warns of a socket that nobody closed whenever it finds it: in another test, as a rule."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(20):
            with ExitStack() as callers, serving(Simulator()) as url:
                for _ in range(3):
                    callers.enter_context(socket.create_connection(("127.0.0.1", _port(url))))
        gc.collect()

    assert [str(warning.message) for warning in caught] == []


def test_dropped_connections_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    simulator = Simulator(SimulatorConfig(default_story="drop_after=1"))
    with serving(simulator) as url, httpx.Client(base_url=url, headers=KEY, timeout=PATIENCE_S) as http:
        run_id = http.post("/v1/tasks/runs", json={"input": "x", "processor": "lite"}).json()["run_id"]
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(f"/v1/tasks/runs/{run_id}/events")

    assert [record for record in caplog.records if not record.name.startswith("http")] == []


def test_port_in_use_is_an_error() -> None:
    with serving(Simulator()) as url, pytest.raises(OSError, match="in use"), serving(Simulator(), port=_port(url)):
        pass


def test_two_simulators_share_nothing() -> None:
    first, second = Simulator(), Simulator()
    with serving(first) as one, serving(second) as other, httpx.Client(headers=KEY, timeout=PATIENCE_S) as http:
        run_id = http.post(f"{one}/v1/tasks/runs", json=NEVER).json()["run_id"]
        elsewhere = http.get(f"{other}/v1/tasks/runs/{run_id}")

    assert elsewhere.status_code == 404
    assert (first.accepted_runs, second.accepted_runs) == (1, 0)


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
