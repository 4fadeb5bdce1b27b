"""How long a call may wait: what the client allows, within what the operator allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parallel_mcp.tools.call import Call


@dataclass(frozen=True)
class ClientWait:
    """What a client is known to allow one call, with some seconds to spare."""

    usual_s: float
    longest_s: float


# Most clients give up on a call after 60 s, whatever progress it reports; the answer must be there before.
UNKNOWN_CLIENT = ClientWait(usual_s=45, longest_s=45)

# By the beginning of the client's name. Claude Code moves a call to the background after 2 minutes; it and VS Code
# (over HTTP) and Codex end a call after 5 minutes, Gemini CLI after 10.
KNOWN_CLIENTS = {
    "claude-code": ClientWait(usual_s=110, longest_s=280),
    "visual studio code": ClientWait(usual_s=110, longest_s=280),
    "codex": ClientWait(usual_s=110, longest_s=280),
    "gemini-cli": ClientWait(usual_s=110, longest_s=570),
}


def allowed_wait_s(requested_s: float | None, call: Call) -> float:
    """The wait asked for, or the usual one of this client, within what client and operator allow.

    What a call spent on its question about the price is taken off.
    """
    client = _client_wait(call.client_name)
    wanted_s = client.usual_s if requested_s is None else requested_s
    allowed_s = min(wanted_s, client.longest_s, call.settings.max_wait_s or client.longest_s)
    return max(0.0, allowed_s - call.offer.took_s)


def _client_wait(name: str) -> ClientWait:
    for beginning, wait in KNOWN_CLIENTS.items():
        if name.lower().startswith(beginning):
            return wait
    return UNKNOWN_CLIENT
