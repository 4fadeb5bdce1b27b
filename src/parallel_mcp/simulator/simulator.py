"""A simulator of the Parallel API: its parts put together, and what tests may do to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parallel_mcp.simulator.account import Account, Quota
from parallel_mcp.simulator.answering import Answering
from parallel_mcp.simulator.app import build_app
from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.config import SimulatorConfig
from parallel_mcp.simulator.group_routes import GroupRoutes
from parallel_mcp.simulator.groups import Groups
from parallel_mcp.simulator.identities import Identities
from parallel_mcp.simulator.intake import Runs
from parallel_mcp.simulator.library import Library
from parallel_mcp.simulator.recording import Fault, RecordedRequest, Recorder
from parallel_mcp.simulator.runs import FAILURE, Run
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
        self._runs = Runs(self.config, clock, identities, library, Account(self.config, clock))
        self._groups = Groups(clock, identities)

        answering = Answering(self.config, identities)
        creates = self._quota(self.config.creates_per_minute, clock)
        searches = self._quota(self.config.searches_per_minute, clock)
        extracts = self._quota(self.config.searches_per_minute, clock)
        self.app = build_app(
            answering,
            TaskRoutes(answering, clock, self._runs, creates),
            GroupRoutes(answering, clock, self._runs, self._groups, creates),
            WebRoutes(answering, clock, identities, library, searches, extracts),
            self._recorder,
        )

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far, in order of arrival; the last 100,000 are kept."""
        return self._recorder.requests

    @property
    def accepted_runs(self) -> int:
        """How many runs were ever created, singly or in groups."""
        return len(self._runs)

    def add_fault(self, fault: Fault) -> None:
        """Answer matching requests wrongly. Of several matching faults the one added first is given first."""
        self._recorder.add_fault(fault)

    def finish(self, run_id: str) -> None:
        """Complete a run now.

        Raises:
            KeyError: There is no such run.
        """
        self._end(run_id, "completed")

    def fail(self, run_id: str, message: str = FAILURE) -> None:
        """Let a run fail now.

        Raises:
            KeyError: There is no such run.
        """
        self._end(run_id, "failed", message)

    def _end(self, run_id: str, ending: Ending, failure: str = FAILURE) -> None:
        run: Run = self._runs[run_id]
        run.end(ending, failure)
        self._groups.run_changed(run)

    def _quota(self, per_minute: int, clock: Clock) -> Quota:
        return Quota(per_minute, clock, tells_when=self.config.retry_after)
