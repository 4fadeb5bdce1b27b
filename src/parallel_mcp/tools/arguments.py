"""Arguments as models send them -> a checked model, or an error that says what is accepted and echoes no value.

`null` counts as absent. An object or an array may come as JSON text; a text that merely looks like JSON stays text.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast, get_origin

from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase
from pydantic import ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from parallel_mcp.errors import InvalidArguments
from parallel_mcp.render.untrusted import one_line


class Arguments(ArgModelBase):
    """Base of every tool's arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


MAX_DEPTH = 64

# Names that models use for arguments that are called otherwise here.
_OTHER_NAMES = {
    "query": ("objective", "input"),
    "question": ("objective", "input"),
    "prompt": ("input", "objective"),
    "task": ("input",),
    "queries": ("search_queries",),
    "url": ("urls",),
    "schema": ("output_schema",),
    "model": ("processor",),
}

# What is accepted, where pydantic's own words are not those of the caller.
_ACCEPTED = {
    "string_type": "a text",
    "list_type": "an array",
    "dict_type": "an object",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}
_ONE_OF = frozenset({"literal_error", "enum"})

_Arguments = TypeVar("_Arguments", bound=ArgModelBase)


def read_arguments(model: type[_Arguments], given: Mapping[str, Any]) -> _Arguments:
    """Check the arguments of a call.

    Raises:
        InvalidArguments: An argument is unknown, missing, or not what is accepted.
    """
    refuse_unknown(list(model.model_fields), given)
    refuse_unsendable(given)
    present = {name: _parsed(model, name, value) for name, value in given.items() if not _is_absent(model, name, value)}
    try:
        return model.model_validate(present)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise InvalidArguments("; ".join(dict.fromkeys(map(_problem_text, problems)))) from None


def refuse_unknown(known: Sequence[str], given: Mapping[str, Any]) -> None:
    """Refuse an argument that the tool does not have, naming the one that is probably meant.

    Raises:
        InvalidArguments: There is one.
    """
    for name in given:
        if name not in known:
            others = ("id", "ids") if name.endswith("_id") else _OTHER_NAMES.get(name, ())
            meant = [other for other in others if other in known]
            nearest = meant or difflib.get_close_matches(name[:64], known, n=1, cutoff=0.4)
            advice = f"did you mean `{nearest[0]}`?" if nearest else f"the arguments are {', '.join(known)}."
            raise InvalidArguments(f"`{one_line(name, 40)}` is not an argument of this tool; {advice}")


def refuse_unsendable(given: object) -> None:
    """Half characters, NaN and depths cannot be part of a request; better said now than after a price was reserved.

    Raises:
        InvalidArguments: There are some.
    """
    if _is_deep(given):
        raise InvalidArguments(f"The arguments are nested deeper than {MAX_DEPTH} levels.")
    try:
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise InvalidArguments("The arguments hold characters or numbers that cannot be sent as JSON.") from None


def _is_deep(given: object) -> bool:
    """Whether containers are nested too deeply; level by level, so that no depth is too much to look at."""
    level = [given]
    for _ in range(MAX_DEPTH):
        level = [member for value in level for member in _members(value) if isinstance(member, Mapping | list)]
        if not level:
            return False
    return True


def _members(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(cast("Mapping[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []


def _is_absent(model: type[ArgModelBase], name: str, value: Any) -> bool:
    """Whether a value stands for "not given": null, and an empty text for anything but a text."""
    return value is None or (value == "" and model.model_fields[name].annotation is not str)


def _parsed(model: type[ArgModelBase], name: str, value: Any) -> Any:
    """A container that came as JSON text, parsed; anything else as it is."""
    container = get_origin(model.model_fields[name].annotation)
    if container not in (list, dict) or not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = None
    refuse_unsendable(parsed)
    if isinstance(parsed, container):
        return cast("Any", parsed)
    if container is list and value.strip():
        return [value]  # one item where a list is wanted
    raise InvalidArguments(f"`{name}` is {'an array' if container is list else 'an object'}, or its JSON text.")


def _problem_text(problem: ErrorDetails) -> str:
    """`name`: what is accepted. The name of a member comes from the caller, so it is left out."""
    kind, context = problem["type"], problem.get("ctx", {})
    name = str(problem["loc"][0]) if problem["loc"] else "arguments"
    if kind == "missing":
        return f"`{name}` is required"
    if kind in ("too_long", "string_too_long"):
        return f"`{name}`: at most {context['max_length']:,} {'items' if kind == 'too_long' else 'characters'}"
    reason = _ACCEPTED.get(kind) or problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"`{name}`: {'one of ' if kind in _ONE_OF else ''}{reason[:400]}"
