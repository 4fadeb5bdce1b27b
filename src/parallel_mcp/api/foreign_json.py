"""JSON that somebody else wrote -> values that can be written as JSON again."""

import json
import re
from typing import Any, cast

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NEXT_NAME = re.compile(r'\s*[{,]\s*"((?:[^"\\]|\\.)*)"\s*:\s*')


def parsed(text: bytes | str) -> Any:
    """The value of a JSON text. Half characters become U+FFFD and NaN becomes null: neither could be sent on.

    Raises:
        ValueError: Not JSON, or nested too deeply.
    """
    content = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    try:
        value = json.loads(content, parse_constant=_null)
        return _whole(value) if _SURROGATE_ESCAPE.search(content) else value
    except RecursionError:
        raise ValueError("nested too deeply") from None


def leading_members(text: str) -> dict[str, Any]:
    """The first members of a JSON object whose end is missing, as far as they are whole."""
    decoder = json.JSONDecoder(parse_constant=_null)
    members: dict[str, Any] = {}
    position = 0
    while name := _NEXT_NAME.match(text, position):
        try:
            value, position = decoder.raw_decode(text, name.end())
        except (ValueError, RecursionError):
            break
        members[name[1]] = _whole(value)
    return members


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {_whole(name): _whole(item) for name, item in cast("dict[str, Any]", value).items()}
    return value


def _null(constant: str) -> None:
    """What NaN and the infinities stand for in JSON: nothing."""
