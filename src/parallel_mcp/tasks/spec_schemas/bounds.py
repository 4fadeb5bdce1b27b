"""What is too large, too deep or not JSON at all, found before anything else looks at it."""

from __future__ import annotations

import math
from typing import cast

MAX_CHARS = 100_000
"""Of all names and texts as given; what is sent holds at most 15,000."""
MAX_VALUES = 20_000
MAX_DEPTH = 60
"""Of objects and arrays in each other, as JSON: a nesting of five objects needs about fifteen."""
_MAX_INTEGER_BITS = 1_024


def excess_of(given: object) -> str:
    """Why a value cannot be looked at as a schema; empty if it can.

    Ends at the first excess, so its cost is bounded whatever comes.
    """
    waiting: list[tuple[object, int]] = [(given, 1)]
    chars = values = 0
    while waiting:
        value, depth = waiting.pop()
        values += 1
        if values > MAX_VALUES:
            return f"it holds more than {MAX_VALUES:,} values"
        if isinstance(value, dict | list):
            container = cast("dict[object, object] | list[object]", value)
            if depth > MAX_DEPTH:
                return f"it is nested deeper than {MAX_DEPTH} levels, or without end"
            if len(container) > MAX_VALUES:
                return f"it holds more than {MAX_VALUES:,} values"
            if isinstance(container, dict):
                if not all(isinstance(key, str) for key in container):
                    return "it holds names that are not texts"
                waiting.extend((key, depth) for key in container)
                container = list(container.values())
            waiting.extend((member, depth + 1) for member in container)
        elif isinstance(value, str):
            chars += len(value)
            if chars > MAX_CHARS:
                return f"it holds more than {MAX_CHARS:,} characters"
            if not _is_sendable(value):
                return "it holds half characters"
        elif not _is_json_scalar(value):
            return "it holds something that is not JSON"
    return ""


def _is_sendable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_json_scalar(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return value.bit_length() <= _MAX_INTEGER_BITS
    return value is None
