"""Suggestions for tasks: schemas and processors, derived from words alone (API reference, section 14).

Warnings, by what the intent says:

    schema_generalization   it names single things; they become rows, and the schema is for all of their kind
    unparsable_input        it speaks of attached data, of which nothing arrives here, or it has no words
    unattainable_task       it asks for the future, for what is private, or for an action
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import JsonValue

from parallel_mcp.simulator.bodies import JsonForm, Lenient, TaskSpec
from parallel_mcp.simulator.errors import invalid
from parallel_mcp.simulator.intents import Intent, read_intent
from parallel_mcp.simulator.payloads import Json, JsonObject
from parallel_mcp.simulator.processors import PROCESSORS

WORDS_IN_A_NAME = 6
NEVER_SUGGESTED = frozenset({"lite", "lite-fast"})
FOR_REPORTS = "pro"
_UNATTAINABLE = re.compile(
    r"\b(predict|forecast|tomorrow|next (week|month|year)|in the future|lottery|passwords?|home address|social security"
    r"|private (e-?mail|phone|number)|log in|book (me )?a|buy|purchase|send (an? )?e-?mails?)\b",
    re.IGNORECASE,
)
_ATTACHED = re.compile(
    r"\b(attached|attachment|spreadsheet|csv|excel|xlsx|uploaded|the (list|table|file|rows) (below|above))\b",
    re.IGNORECASE,
)
_WHETHER = re.compile(r"^(whether|if) (it |they )?(is |are |has |have )?", re.IGNORECASE)
_WHOLE = re.compile(r"\b(number|count|how many|year|employees|headcount|age)\b", re.IGNORECASE)
_AMOUNT = re.compile(r"\b(revenue|price|cost|amount|percentage|share|rate|valuation|gdp|salary)\b", re.IGNORECASE)
_SEVERAL = re.compile(r"\b(names|products|competitors|founders|investors|customers|topics|executives)\b", re.IGNORECASE)
_ALREADY_A_COLUMN = re.compile(r"_(name|url|id|email|code|address)$|^(name|url|website|domain|email|country|city)$")
_KINDS = (
    (
        "company",
        re.compile(r"compan|startup|business|firm|ceo|founde|revenue|employees|headquarter|funding", re.IGNORECASE),
    ),
    ("person", re.compile(r"person|people|author|candidate|scientist|birth", re.IGNORECASE)),
    ("product", re.compile(r"product|software|tool|device|price", re.IGNORECASE)),
    ("country", re.compile(r"countr|gdp|capital|nation|population", re.IGNORECASE)),
)


class SuggestedTask(Lenient):
    """A task as it was suggested, or as the caller has changed it since."""

    input_schema: dict[str, JsonValue] | None = None
    output_schema: dict[str, JsonValue] | None = None
    title: str | None = None


class SuggestRequest(Lenient):
    user_intent: str
    previous_task: SuggestedTask | None = None


class SuggestProcessorRequest(Lenient):
    task_spec: TaskSpec
    choose_processors_from: list[str] | None = None


def suggested_task(user_intent: str, previous: SuggestedTask | None) -> JsonObject:
    """Write the task for an intent. Of an earlier task the input stays, and the output is added to or taken from."""
    intent = read_intent(user_intent)
    columns = _columns(intent, user_intent)
    outputs = _outputs(intent, previous)
    input_schema: Json = previous.input_schema if previous else None
    return {
        "input_schema": input_schema or _object({name: _column(name) for name in columns}),
        "output_schema": _object(outputs),
        "inputs": [{columns[0]: name} for name in intent.named] if not input_schema else [],
        "title": _title(columns[0], intent, previous),
        "warnings": _warnings(user_intent, intent),
    }


def recommended_processors(spec: TaskSpec, choices: Sequence[str] | None) -> list[str]:
    """Return the cheapest processor that handles the fields of a spec, or the strongest when none of the choices does.

    Raises:
        Invalid: A choice is no processor, or one that is never recommended.
    """
    allowed = [name for name in PROCESSORS if name not in NEVER_SUGGESTED]
    unknown = [name for name in choices or [] if name not in allowed]
    if unknown:
        raise invalid(f"cannot be recommended: {', '.join(unknown)}", "body", "choose_processors_from")
    names = (
        [name for name in allowed if name in choices] if choices else [n for n in allowed if not n.endswith("-fast")]
    )
    fitting = [name for name in names if _handles(name, spec)]
    return [(fitting or names[-1:])[0]]


def _handles(name: str, spec: TaskSpec) -> bool:
    """A report takes deep research; fields take a processor with room for them."""
    processor = PROCESSORS[name]
    if not isinstance(spec.output_schema, JsonForm):
        return processor.researches_deeply
    properties = spec.output_schema.json_schema.get("properties")
    return len(properties if isinstance(properties, dict) else {}) <= processor.most_fields


def _columns(intent: Intent, text: str) -> list[str]:
    """Name the input columns after what the intent is about; a kind is guessed where it names single things only."""
    names = [_slug(phrase) for phrase in intent.columns]
    if names and not intent.named:
        return list(dict.fromkeys(_column_name(name) for name in names))
    guessed = next((kind for kind, pattern in _KINDS if pattern.search(text)), "")
    return [_column_name(guessed) if guessed else "subject"]


def _column_name(name: str) -> str:
    """Turn `companies` or `company` into `company_name`; what names a column already stays."""
    if _ALREADY_A_COLUMN.search(name):
        return name
    singular = re.sub(r"ies$", "y", name) if name.endswith("ies") else re.sub(r"(?<!s)s$", "", name)
    return singular if _ALREADY_A_COLUMN.search(singular) else f"{singular}_name"


def _outputs(intent: Intent, previous: SuggestedTask | None) -> JsonObject:
    earlier = previous.output_schema.get("properties") if previous and previous.output_schema else None
    outputs: JsonObject = dict(earlier) if isinstance(earlier, dict) else {}
    fields = {_slug(_WHETHER.sub("", phrase)): phrase for phrase in intent.fields}
    if intent.removes:
        return {name: member for name, member in outputs.items() if name not in fields}
    outputs |= {name: _field(phrase) for name, phrase in fields.items()}
    return outputs or {"answer": _field("answer to the question")}


def _field(phrase: str) -> JsonObject:
    description = f"The {phrase}. If it cannot be found, say so."
    if _WHETHER.match(phrase):
        return {"type": "boolean", "description": f"True if {phrase.partition(' ')[2]}."}
    if _SEVERAL.search(phrase):
        return {"type": "array", "items": {"type": "string"}, "description": description}
    if _WHOLE.search(phrase):
        return {"type": "integer", "description": description}
    return {"type": "number" if _AMOUNT.search(phrase) else "string", "description": description}


def _column(name: str) -> JsonObject:
    return {"type": "string", "description": f"The {name.replace('_', ' ')} the task is about."}


def _object(members: JsonObject) -> JsonObject:
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def _title(column: str, intent: Intent, previous: SuggestedTask | None) -> str:
    if previous is not None and previous.title:
        return previous.title
    wanted = " and ".join(_WHETHER.sub("", phrase) for phrase in intent.fields[:2]) or "information"
    words = ["find", *column.removesuffix("_name").split("_"), *wanted.split()]
    return " ".join(word[:1].upper() + word[1:] for word in words)


def _warnings(text: str, intent: Intent) -> list[JsonObject]:
    warnings: list[JsonObject] = []
    if intent.named:
        named = ", ".join(intent.named)
        warnings.append(_warning("schema_generalization", f"The schema fits more than what was named ({named})."))
    if _ATTACHED.search(text) or not (intent.fields or intent.named or intent.columns):
        warnings.append(_warning("unparsable_input", "No input data could be read from the request."))
    if _UNATTAINABLE.search(text):
        warnings.append(_warning("unattainable_task", "Web research cannot find this out, or do it."))
    return warnings


def _warning(kind: str, message: str) -> JsonObject:
    return {"type": kind, "message": message, "detail": None}


def _slug(phrase: str) -> str:
    return "_".join(re.findall(r"[a-z0-9]+", phrase.lower())[:WORDS_IN_A_NAME]) or "answer"
