"""A simulator of the Parallel API: its parts put together, and what tests may do to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parallel_mcp.simulator.account import HOUR_S, MINUTE_S, Account, Quota
from parallel_mcp.simulator.answering import Answering
from parallel_mcp.simulator.app import Subjects, build_app
from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.config import SimulatorConfig
from parallel_mcp.simulator.findall import Turn
from parallel_mcp.simulator.findall_intake import FindAlls
from parallel_mcp.simulator.findall_routes import FindAllRoutes
from parallel_mcp.simulator.group_routes import GroupRoutes
from parallel_mcp.simulator.groups import Groups
from parallel_mcp.simulator.identities import Identities
from parallel_mcp.simulator.intake import Runs
from parallel_mcp.simulator.library import Library
from parallel_mcp.simulator.monitor_routes import MonitorRoutes
from parallel_mcp.simulator.monitors import Monitors
from parallel_mcp.simulator.recording import Fault, RecordedRequest, Recorder
from parallel_mcp.simulator.runs import FAILURE, Run
from parallel_mcp.simulator.suggest_routes import SuggestRoutes
from parallel_mcp.simulator.task_routes import TaskRoutes
from parallel_mcp.simulator.web_routes import WebRoutes

if TYPE_CHECKING:
    from parallel_mcp.simulator.stories import Ending


class Simulator:
    """One simulated account, with all its state. Methods may be called from any thread.

    Attributes:
        app: The ASGI application. An event stream that breaks off raises `ConnectionDropped` out of it.
    """

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        clock = Clock(self.config.speed)
        identities = Identities(self.config.seed)
        library = Library()
        self._recorder = Recorder()
        account = Account(self.config, clock)
        self._runs = Runs(self.config, clock, identities, library, account)
        self._groups = Groups(clock, identities)
        self._findalls = FindAlls(self.config, clock, identities, library, account)
        self._monitors = Monitors(self.config, clock, identities, library, self._runs)

        answering = Answering(self.config, identities)
        creates = self._quota(self.config.creates_per_minute, clock)
        searches = self._quota(self.config.searches_per_minute, clock)
        extracts = self._quota(self.config.searches_per_minute, clock)
        findall_creates = self._quota(self.config.findalls_per_hour, clock, HOUR_S)
        monitor_creates = self._quota(self.config.monitors_per_minute, clock)
        entity_searches = self._quota(self.config.searches_per_minute, clock)
        subjects = Subjects(
            TaskRoutes(answering, clock, self._runs, creates),
            GroupRoutes(answering, clock, self._runs, self._groups, creates),
            WebRoutes(answering, clock, identities, library, searches, extracts),
            FindAllRoutes(answering, clock, identities, self._findalls, findall_creates, entity_searches),
            MonitorRoutes(answering, self._monitors, monitor_creates),
            SuggestRoutes(answering),
        )
        self.app = build_app(answering, subjects, self._recorder)

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far, in order of arrival; the last 100,000 are kept."""
        return self._recorder.requests

    @property
    def accepted_runs(self) -> int:
        """How many runs were ever created, singly or in groups."""
        return len(self._runs)

    @property
    def accepted_findalls(self) -> int:
        """How many FindAll runs were ever created."""
        return self._findalls.kept.ever

    @property
    def accepted_monitors(self) -> int:
        """How many monitors were ever created."""
        return self._monitors.kept.ever

    def add_fault(self, fault: Fault) -> None:
        """Answer matching requests wrongly. Of several matching faults the one added first is given first."""
        self._recorder.add_fault(fault)

    def start(self, run_id: str) -> None:
        """Let a queued run start now.

        Raises:
            KeyError: There is no such run.
        """
        run: Run = self._runs[run_id]
        if run.start():
            self._groups.run_changed(run, run.schedule.started_at)

    def finish(self, run_id: str) -> None:
        """Complete a run or a FindAll run now.

        Raises:
            KeyError: There is no such run.
        """
        self._end(run_id, "completed")

    def fail(self, run_id: str, message: str = FAILURE) -> None:
        """Let a run or a FindAll run fail now; the message is that of a run.

        Raises:
            KeyError: There is no such run.
        """
        self._end(run_id, "failed", message)

    def _end(self, run_id: str, ending: Ending, failure: str = FAILURE) -> None:
        if run_id in self._findalls.kept:
            reason = "error_occurred" if ending == "failed" else "candidates_exhausted"
            self._findalls.kept[run_id].end(Turn(ending, reason))
            return
        run: Run = self._runs[run_id]
        run.end(ending, failure)
        self._groups.run_changed(run, run.schedule.ended_at)

    def _quota(self, most: int, clock: Clock, span_s: float = MINUTE_S) -> Quota:
        return Quota(most, clock, span_s=span_s, tells_when=self.config.retry_after)
