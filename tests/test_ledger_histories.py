"""Any history of creates, lost answers, crashes, restarts and repeats: never more runs than distinct intents."""

import sqlite3
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from mcp import Client

from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from tests.connecting import connected, structured, text_of
from tests.faults import ScriptedFault, close_without_answer, cut_body, faulty, reset_after_accept, respond

RUNS = "/v1/tasks/runs"
keys = st.sampled_from(["", "k1", "k2"])
questions = st.sampled_from(["first question", "second question"])
losses = st.sampled_from([reset_after_accept, close_without_answer, lambda: cut_body(20)])


class Histories(RuleBasedStateMachine):
    """A server with a ledger file, restarted and crashed at will, against a simulator that counts what it accepted."""

    @initialize()
    def start(self) -> None:
        """A fresh world."""
        self.closing = ExitStack()
        folder = self.closing.enter_context(tempfile.TemporaryDirectory())
        self.simulator = Simulator(SimulatorConfig(speed=60, default_story="never"))
        self.proxy = self.closing.enter_context(faulty(self.closing.enter_context(serving(self.simulator))))
        self.portal = self.closing.enter_context(anyio.from_thread.start_blocking_portal())
        self.ledger = str(Path(folder) / "ledger.sqlite3")
        self.intents: set[tuple[str, str]] = set()  # what may each have bought one run
        self.answered: set[str] = set()  # runs whose answer arrived
        self.forced = 0
        self.up()

    def up(self) -> None:
        """Start a server."""
        self.server: Any = self.portal.wrap_async_context_manager(
            connected("memory", self.proxy.url, ledger=self.ledger)
        )
        self.client: Client = self.server.__enter__()

    def create(self, question: str, key: str, *, force_new: bool = False) -> str:
        """Create or repeat; the run id, or the text of the error."""
        arguments = {"input": question, "idempotency_key": key, "force_new": force_new, "processor": "lite"}
        result = self.portal.call(self.client.call_tool, "create_task", arguments)
        self.intents.add((question, "") if not key else ("", key))
        self.forced += force_new and not key
        if result.is_error:
            return text_of(result)
        run_id = str(structured(result)["run_id"])
        self.answered.add(run_id)
        return run_id

    @rule(question=questions, key=keys)
    def create_or_repeat(self, question: str, key: str) -> None:
        """As a model does, also by mistake."""
        self.create(question, key)

    @rule(question=questions)
    def force(self, question: str) -> None:
        """Wanted on purpose: one more may be bought."""
        self.create(question, "", force_new=True)

    @rule(question=questions, key=keys, loss=losses)
    def create_with_lost_answer(self, question: str, key: str, loss: Any) -> None:
        """Accepted upstream, unknown here; what is lost was never sent if the ledger knew the run already."""
        before = self.simulator.accepted_runs
        self.proxy.add(ScriptedFault(method="POST", path=RUNS, fault=loss(), times=1))
        outcome = self.create(question, key)
        self.proxy.clear()
        if self.simulator.accepted_runs > before:
            assert "outcome_unknown" in outcome

    @rule(question=questions, key=keys)
    def create_refused(self, question: str, key: str) -> None:
        """A definite no must leave nothing behind."""
        before = self.simulator.accepted_runs
        self.proxy.add(ScriptedFault(method="POST", path=RUNS, fault=respond(402, b"{}"), times=1))
        self.create(question, key)
        self.proxy.clear()
        assert self.simulator.accepted_runs == before

    @rule()
    def restart(self) -> None:
        """An orderly end and a new process's view of the same file."""
        self.server.__exit__(None, None, None)
        self.up()

    @rule(question=questions, key=keys)
    def crash_in_the_middle(self, question: str, key: str) -> None:
        """The process dies between sending and writing down: the file keeps an intent."""
        before = self.simulator.accepted_runs
        self.create(question, key)
        if self.simulator.accepted_runs == before:
            return
        self.server.__exit__(None, None, None)
        db = sqlite3.connect(self.ledger)
        newest = "SELECT entry_id FROM entries WHERE state = 'created' ORDER BY at DESC, rowid DESC LIMIT 1"
        (handle,) = db.execute(f"SELECT handle FROM entries WHERE entry_id = ({newest})").fetchone()
        db.execute(f"UPDATE entries SET state = 'intent', handle = '', at = at - 60 WHERE entry_id = ({newest})")
        db.commit()
        db.close()
        self.answered.discard(handle)
        self.up()

    def teardown(self) -> None:
        """What must hold of every history."""
        if not hasattr(self, "closing"):
            return
        try:
            assert self.simulator.accepted_runs <= len(self.intents) + self.forced
            listed = self.portal.call(self.client.call_tool, "get_status", {"limit": 20})
            known = {item["id"] for item in structured(listed)["items"]}
            assert self.answered <= known
        finally:
            self.server.__exit__(None, None, None)
            self.closing.close()


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=20,
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
