"""What can go wrong, and what the model that made the call should do about it.

ResearchError
├── InvalidArguments        correct the arguments
├── MissingKey              set the API key
├── IdempotencyConflict     use another idempotency key
├── OutcomeUnknown          check before creating again
│   └── AdditionUnknown         call again, which checks
├── StillCreating           call again for the answer
├── StillChanging           call again, which looks anew
├── OverBudget              tell the user
│   └── TooManyRuns             wait until one has ended
├── LedgerUnavailable       have the ledger repaired, or choose one in memory
├── RunFailed               the run itself ended without a result
└── UpstreamError           the Parallel API said no, or said nothing usable
    ├── InvalidKey              401
    ├── OutOfCredit             402
    ├── NotPermitted            403
    ├── NotFound                404
    ├── RequestRejected         400, 405, 409, 410, 413, 415, 422 and other 4xx
    ├── RunStillActive          408 of the result endpoint
    ├── RateLimited             429
    ├── UpstreamUnavailable     5xx, 408, a broken connection, no answer in time
    │   └── NotSent                 no connection: the request surely did not arrive
    └── UpstreamUnreadable      an answer that is not what the API documents

Classes differ by what to do next; `render.errors` turns one into the text of a tool error. Text that somebody else
wrote is kept apart in `quote`, so that it can be marked as such.
"""

from typing import ClassVar

PLATFORM_URL = "https://platform.parallel.ai"


class ResearchError(Exception):
    """A call failed in a way worth telling the model. `str(error)` says what happened, in our own words."""

    code: ClassVar[str] = "error"
    retry_advice: ClassVar[str] = "Retrying will not help."
    next_step: ClassVar[str] = "Report this to the user."

    def __init__(self, what: str, *, quote: str = "", ref_id: str = "") -> None:
        """`quote` is somebody else's text, such as the upstream's own message: cleaned and marked before display."""
        super().__init__(what)
        self.quote = quote
        self.ref_id = ref_id

    @property
    def retry(self) -> str:
        """Whether, and after how long, the same call may be made again."""
        return self.retry_advice


class InvalidArguments(ResearchError):
    """The arguments do not fit the tool. Names arguments and what they accept, never their values."""

    code = "invalid_arguments"
    retry_advice = "Retrying with the same arguments will not help."
    next_step = "Correct the arguments named above and call again. Nothing was sent and nothing was charged."


class MissingKey(ResearchError):
    """No API key is configured, so nothing can be sent."""

    code = "missing_api_key"
    next_step = "Show the user this message; the server must be restarted with a key."


class IdempotencyConflict(ResearchError):
    """The idempotency key was already used for another request."""

    code = "idempotency_conflict"
    next_step = "Use a new idempotency_key for a new request. Nothing was sent and nothing was charged."


class OutcomeUnknown(ResearchError):
    """A create was sent and its answer lost: the run may exist, and be charged for, without a known id."""

    code = "outcome_unknown"
    retry_advice = "Do not repeat the call blindly: if the run was created, a repeat creates and bills a second one."
    next_step = (
        f"Tell the user. The run, if there is one, is listed at {PLATFORM_URL}; create it again only when the user has "
        "checked or accepts paying twice: with force_new=true or a new idempotency_key, or, where the tool takes "
        "neither, by the same call ten minutes later."
    )


class AdditionUnknown(OutcomeUnknown):
    """As above, for an addition to something that can be read: there it shows whether it was carried out."""

    code = "addition_unknown"
    retry_advice = "Repeating the call buys nothing for ten minutes, and after that only what is still lacking."
    next_step = "Tell the user, and call again with the same arguments in a minute: by then the addition may show."


class StillCreating(ResearchError):
    """A create is on its way and not answered yet. It goes on, and its run will be found."""

    code = "still_creating"
    retry_advice = "Calling again with the same arguments finds its run and buys nothing."
    next_step = "Call again with exactly the same arguments (without force_new) in a few seconds."


class StillChanging(ResearchError):
    """What a call would add to is changing just now, so what it lacks and what that costs cannot be said."""

    code = "still_changing"
    retry_advice = "Nothing was sent or charged. The same call looks again, and buys what is still lacking."
    next_step = "Call again with exactly the same arguments in a few seconds."


class OverBudget(ResearchError):
    """The price would exceed a limit set by the operator."""

    code = "over_budget"
    retry_advice = "Retrying now will not help."
    next_step = "Do not try again at this price. Tell the user, or choose something cheaper."


class TooManyRuns(OverBudget):
    """As many runs are active as the operator allows."""

    code = "too_many_runs"
    retry_advice = "Retrying helps once a run has ended."
    next_step = "Wait for one that is active with watch_progress, then call again."


class LedgerUnavailable(ResearchError):
    """The ledger cannot be opened or reached: what was created before is not known, so nothing may be created."""

    code = "ledger_unavailable"
    retry_advice = (
        "Nothing was sent. Retrying helps only once the ledger can be used again; reading runs works meanwhile."
    )
    next_step = (
        "Tell the user to repair what PARALLEL_MCP_LEDGER names, or to set PARALLEL_MCP_LEDGER=memory, "
        "which forgets runs and spending when the server ends."
    )


class RunFailed(ResearchError):
    """The run ended without a result. The quote is the run's own error message."""

    code = "run_failed"
    retry_advice = "Asking again will not change the outcome of this run."
    next_step = "Tell the user why it failed. A new run with a clearer or smaller task may succeed; it costs again."


class UpstreamError(ResearchError):
    """The Parallel API refused a request or could not be reached."""

    code = "upstream_error"

    def __init__(
        self,
        what: str,
        *,
        status: int | None = None,
        quote: str = "",
        ref_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what, quote=quote, ref_id=ref_id)
        self.status = status
        self.retry_after_s = retry_after_s


class InvalidKey(UpstreamError):
    """HTTP 401."""

    code = "invalid_api_key"
    next_step = f"Tell the user that the Parallel API key is not accepted; keys are made at {PLATFORM_URL}."


class OutOfCredit(UpstreamError):
    """HTTP 402. Credit for running tasks is reserved, so the shown balance can still be positive."""

    code = "out_of_credit"
    retry_advice = "Retrying will not help until credit is added or running tasks have finished."
    next_step = f"Tell the user to add credit at {PLATFORM_URL}, or to wait for running tasks, which reserve credit."


class NotPermitted(UpstreamError):
    """HTTP 403."""

    code = "not_permitted"
    next_step = "Choose another processor, or tell the user that this account may not use it."


class NotFound(UpstreamError):
    """HTTP 404."""

    code = "not_found"
    next_step = (
        "Check the id: it must be copied exactly and belong to the same API key. "
        "get_status without ids lists the runs known here."
    )


class RequestRejected(UpstreamError):
    """HTTP 4xx about the content of the request."""

    code = "request_rejected"
    retry_advice = "Retrying unchanged will not help; a rejected request creates and costs nothing."
    next_step = "Correct what the message names and call again."


class RunStillActive(UpstreamError):
    """HTTP 408 of the result endpoint: the run goes on."""

    code = "run_still_active"
    retry_advice = "The run goes on and loses nothing."
    next_step = "Call watch_progress with the same id."


class RateLimited(UpstreamError):
    """HTTP 429."""

    code = "rate_limited"

    @property
    def retry(self) -> str:
        """After how long the same call may be made again."""
        wait = f"{self.retry_after_s:.0f} seconds" if self.retry_after_s else "about a minute"
        return f"The same call may succeed after {wait}; nothing was created or charged."

    next_step = "Wait that long before calling again, and make fewer calls at once."


class UpstreamUnavailable(UpstreamError):
    """No usable answer: a server error, a broken connection, or no answer in time."""

    code = "upstream_unavailable"
    retry_advice = "The same call may succeed in a minute."
    next_step = "Call again once or twice; if it keeps failing, tell the user."


class NotSent(UpstreamUnavailable):
    """The request surely never reached the API: no connection, or no free place in the pool."""

    code = "not_sent"
    retry_advice = "The same call may succeed in a minute; nothing was sent, created or charged."
    next_step = "Call again once or twice; if it keeps failing, tell the user to check the network."


class UpstreamUnreadable(UpstreamError):
    """An answer that is not what the API documents: HTML, broken JSON, a redirect, too large."""

    code = "upstream_unreadable"
    retry_advice = "Retrying is unlikely to help."
    next_step = "Tell the user: a proxy or a wrong PARALLEL_BASE_URL may be answering instead of the Parallel API."


class SettingsError(Exception):
    """The server cannot start with these settings. `str(error)` is written for the person who starts it."""
