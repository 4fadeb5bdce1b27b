"""How long a call may wait."""

from parallel_mcp.settings import Settings

# Most clients give up on a call after 60 s, whatever progress it reports; the answer must be there before.
CLIENT_WAIT_S = 45.0


def allowed_wait_s(requested_s: float, settings: Settings) -> float:
    """The wait asked for, within what clients and the operator allow."""
    return max(0.0, min(requested_s, CLIENT_WAIT_S, settings.max_wait_s or CLIENT_WAIT_S))
