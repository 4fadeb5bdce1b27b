"""Stories: how one run, FindAll run or monitor behaves, chosen by the words in its `metadata["sim"]`.

The key is for tests and demonstrations; the real API knows nothing of it. What has none follows the simulator's
`default_story`. Words are separated by spaces, an unknown or malformed word is refused with 422. Seconds are
simulated seconds (divided by the simulator's speed).

How the run goes:

    latency=S               takes S seconds instead of a time drawn from the processor's range
    queue=S                 stays queued for S seconds of them
    messages=N              N progress messages (only when the run has events enabled)
    fails                   ends as failed, with an error message and reference
    status=X                ends as X: action_required or cancelled
    never                   never ends

For FindAll runs these words mean the same, except `messages`, and there are more:

    candidates=N            there are only N candidates; when they are used up the run ends as candidates_exhausted
    matches=N               only N candidates match; when no more do the run ends as low_match_rate
    ends=REASON             ends for that reason, halfway when it is error_occurred, timeout or insufficient_funds

For monitors `latency` is how long each execution takes, `fails` makes each fail, `never` keeps them from happening, and

    events=N                each execution detects N events, the first one included

How it answers:

    size=BYTES              an output of at least that many bytes
    json_text               JSON content as a string holding JSON, as one guide page shows it
    no_confidence           `confidence` is null everywhere
    empty_confidence        `confidence` is "" everywhere
    null_titles             citations without title
    null_excerpts           citations without excerpts

What its event stream says:

    meter=missing           stats without `progress_meter`
    meter=drops             `progress_meter` falls back now and then
    null_counts             stats with null source counts
    no_trace_after_end      no messages once the run has ended
    legacy_events           also `task_run.progress_msg.tool` and `.extract`
    unknown_events          also event types nobody has heard of
    error_event             an `error` event midway; the run goes on
    u2028                   messages contain a raw U+2028 and U+0085

How its event stream is written, also that of a FindAll run:

    crlf                    lines end in CR LF
    multiline               each event's JSON spread over several `data:` lines
    pings                   `: ping` comments before every event and every 10 seconds
    ids                     `id:` and `retry:` lines
    chunk=BYTES             written in pieces of that size

How its event stream breaks; on every connection, or on the first K only with `drops=K`:

    drop_after=N            the connection is lost after N events, without a last one
    half_event=N            the connection is lost halfway through event N + 1
    half_event_eof=N        the same, as an orderly end of the response
    clean_close_after=N     an orderly end of the response after N events
    silence=S               nothing is sent for S seconds, once the past has been replayed
    stream_status=N         refused with that status (such as 502 or 503) and an HTML page
    drops=K                 the words of this section apply to the first K connections
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Literal, get_args

Ending = Literal["completed", "failed", "cancelled", "action_required"]
Meter = Literal["rises", "missing", "drops"]
TerminationReason = Literal[
    "low_match_rate",
    "match_limit_met",
    "candidates_exhausted",
    "user_cancelled",
    "error_occurred",
    "timeout",
    "insufficient_funds",
]


@dataclass(frozen=True)
class Story:
    """The words of one run, read."""

    latency: float | None = None
    queue: float | None = None
    messages: int | None = None
    fails: bool = False
    status: Ending = "completed"
    never: bool = False
    candidates: int | None = None
    matches: int | None = None
    ends: TerminationReason | None = None
    events: int | None = None
    size: int = 0
    json_text: bool = False
    no_confidence: bool = False
    empty_confidence: bool = False
    null_titles: bool = False
    null_excerpts: bool = False
    meter: Meter = "rises"
    null_counts: bool = False
    no_trace_after_end: bool = False
    legacy_events: bool = False
    unknown_events: bool = False
    error_event: bool = False
    u2028: bool = False
    crlf: bool = False
    multiline: bool = False
    pings: bool = False
    ids: bool = False
    chunk: int | None = None
    drop_after: int | None = None
    half_event: int | None = None
    half_event_eof: int | None = None
    clean_close_after: int | None = None
    silence: float = 0.0
    stream_status: int | None = None
    drops: int | None = None

    @property
    def ending(self) -> Ending:
        return "failed" if self.fails else self.status

    def breaks(self, connection: int) -> bool:
        """Whether the stream of this connection (the first is 1) breaks as told."""
        return self.drops is None or connection <= self.drops


def read_story(words: str) -> Story:
    """Read story words.

    Raises:
        ValueError: A word is unknown or malformed; the message names it.
    """
    chosen: dict[str, object] = {}
    for word in words.split():
        name, separator, text = word.partition("=")
        if name not in WORDS:
            raise _misspelt(word, f"the words are {', '.join(sorted(WORDS))}")
        try:
            chosen[name] = WORDS[name](text if separator else None)
        except ValueError as problem:
            raise _misspelt(word, str(problem)) from None
    return Story(**chosen)  # pyright: ignore[reportArgumentType]  # each reader returns its field's type


def _misspelt(word: str, why: str) -> ValueError:
    return ValueError(f'story word "{word}" is not understood: {why}')


def _flag(text: str | None) -> bool:
    if text is not None:
        raise ValueError("it takes no value")
    return True


def _count(text: str | None) -> int:
    if text is None or not text.isdecimal():
        raise ValueError("it takes a whole number")
    return int(text)


def _positive_count(text: str | None) -> int:
    if _count(text) == 0:
        raise ValueError("it takes a whole number above zero")
    return _count(text)


def _seconds(text: str | None) -> float:
    seconds = float(text) if text else math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError("it takes a number of seconds")
    return seconds


def _error_status(text: str | None) -> int:
    if not 400 <= _count(text) <= 599:
        raise ValueError("it takes an HTTP error status")
    return _count(text)


def _one_of(*choices: str) -> Callable[[str | None], str]:
    def read(text: str | None) -> str:
        if text not in choices:
            raise ValueError(f"it takes one of {', '.join(choices)}")
        return text

    return read


_READERS: Mapping[str, Callable[[str | None], object]] = MappingProxyType(
    {
        "latency": _seconds,
        "queue": _seconds,
        "silence": _seconds,
        "messages": _count,
        "candidates": _count,
        "matches": _count,
        "events": _count,
        "ends": _one_of(*get_args(TerminationReason)),
        "size": _count,
        "drops": _count,
        "drop_after": _count,
        "half_event": _count,
        "half_event_eof": _count,
        "clean_close_after": _count,
        "chunk": _positive_count,
        "stream_status": _error_status,
        "status": _one_of("cancelled", "action_required"),
        "meter": _one_of("missing", "drops"),
    }
)

WORDS: Mapping[str, Callable[[str | None], object]] = MappingProxyType(
    {field.name: _READERS.get(field.name, _flag) for field in fields(Story)}
)
