"""JSON outputs: a value for any schema the API accepts, drawn from the sentences found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from pydantic import JsonValue

from parallel_mcp.simulator.dossiers import Dossier
from parallel_mcp.simulator.library import search_terms
from parallel_mcp.simulator.payloads import Json
from parallel_mcp.simulator.research import Quote, Research
from parallel_mcp.simulator.specs import Schema, resolved

NOT_FOUND = "Not found"
DEEPEST = 12
STEM = 5
_NUMBER = re.compile(r"(?<![\w.,-])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\w.,-])-?\d+(?:\.\d+)?(?![\w-])")
_YEAR = re.compile(r"\b(?:1[5-9]|20)\d{2}\b")
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(rf"\b\d{{4}}-\d{{2}}-\d{{2}}\b|\b(?:\d{{1,2}} )?(?:{_MONTHS}) \d{{4}}\b|\b(?:1[5-9]|20)\d{{2}}\b")
_NAME = re.compile(r"(?<!^)(?<!\. )\b[A-Z][\w'-]+(?: (?:of |de |van )?[A-Z][\w'-]+)+")
_NEGATION = re.compile(r"\b(no|not|never|none|cannot|neither)\b", re.IGNORECASE)
_SPELT_NUMBERS = {"three": 3, "five": 5, "ten": 10}


@dataclass
class Answer:
    """A value, the sentences it was drawn from, and for arrays those of each element."""

    value: Json
    quotes: list[Quote] = field(default_factory=list[Quote])
    elements: list[list[Quote]] = field(default_factory=list[list[Quote]])


@dataclass(frozen=True)
class Subject:
    """What a value is about: the words of its name, of its description and of its parent's name."""

    name: str
    words: str

    def member(self, name: str, schema: Schema) -> Subject:
        described = schema.get("description")
        return Subject(name, f"{_spoken(name)} {described if isinstance(described, str) else ''} {_spoken(self.name)}")

    def place_in(self, sentence: str) -> int | None:
        """Return where the first word of the subject begins in a sentence; words match by their first letters."""
        stems = "|".join(re.escape(word[:STEM]) for word in search_terms(self.words) if not word.isdigit())
        match = re.search(rf"\b({stems})", sentence, re.IGNORECASE) if stems else None
        return match.start() if match else None


class FieldWriter:
    """Writes values for the schemas of one run."""

    def __init__(self, research: Research | Dossier, root: Schema, dice: Random) -> None:
        self._research = research
        self._root = root
        self._dice = dice
        self._used: set[str] = set()

    def write_fields(self) -> dict[str, Answer]:
        """Return an answer for each top-level property."""
        return self._members(self._root, Subject("", ""), depth=0)

    def _write(self, schema: JsonValue, subject: Subject, depth: int) -> Answer:
        schema = self._simplified(schema)
        found = bool(self._research.pages)
        options = schema.get("enum")
        if "const" in schema:
            return Answer(schema["const"], self._candidates(subject)[:1])
        if isinstance(options, list) and options:
            return self._choice(options, subject)
        kind = _kind(schema, found=found)
        match kind:
            case "object":
                return self._object(schema, subject, depth)
            case "array":
                return self._array(schema, subject, depth)
            case "number" | "integer":
                return self._number(subject, whole=kind == "integer")
            case "boolean":
                return self._boolean(subject)
            case "null":
                return Answer(None)
            case _:
                return self._string(subject)

    def _simplified(self, schema: JsonValue) -> Schema:
        """Follow references, merge `allOf`, and choose an alternative of a union."""
        if not isinstance(schema, dict):
            return {}
        for _ in range(DEEPEST):
            if "$ref" in schema:
                schema = resolved(schema, self._root)
            alternatives = schema.get("anyOf") or schema.get("oneOf")
            if isinstance(alternatives, list) and alternatives:
                schema = _without(schema, "anyOf", "oneOf") | self._alternative(alternatives)
            merged = schema.get("allOf")
            if isinstance(merged, list):
                schema = _without(schema, "allOf") | _merged(merged)
        return schema

    def _alternative(self, alternatives: Sequence[JsonValue]) -> Schema:
        schemas = [schema for schema in alternatives if isinstance(schema, dict)]
        nulls = [schema for schema in schemas if schema.get("type") == "null"]
        values = [schema for schema in schemas if schema.get("type") != "null"]
        preferred = [*values, *nulls] if self._research.pages else [*nulls, *values]
        return preferred[0] if preferred else {}

    def _object(self, schema: Schema, subject: Subject, depth: int) -> Answer:
        if depth >= DEEPEST:
            return Answer({})
        members = self._members(schema, subject, depth)
        quotes = [quote for answer in members.values() for quote in answer.quotes]
        return Answer({name: answer.value for name, answer in members.items()}, quotes)

    def _members(self, schema: Schema, subject: Subject, depth: int) -> dict[str, Answer]:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        return {
            name: self._write(member, subject.member(name, self._simplified(member)), depth + 1)
            for name, member in properties.items()
        }

    def _array(self, schema: Schema, subject: Subject, depth: int) -> Answer:
        fixed = schema.get("prefixItems")
        items = fixed if isinstance(fixed, list) else [schema.get("items", {})] * self._how_many(subject)
        answers = [self._write(item, subject, depth + 1) for item in items] if depth < DEEPEST else []
        quotes = [quote for answer in answers for quote in answer.quotes]
        return Answer([answer.value for answer in answers], quotes, [answer.quotes for answer in answers])

    def _how_many(self, subject: Subject) -> int:
        """Return the number a name such as `top_5_products` asks for, else two to four; none without sources."""
        if not self._research.pages:
            return 0
        for part in re.split(r"[\W_]+", subject.name):
            if part.isdecimal() and 0 < int(part) <= 20:
                return int(part)
            if part in _SPELT_NUMBERS:
                return _SPELT_NUMBERS[part]
        return self._dice.randint(2, 4)

    def _string(self, subject: Subject) -> Answer:
        candidates = self._candidates(subject)
        if not candidates:
            return Answer(NOT_FOUND)
        for pattern in _patterns(subject):
            for quote in candidates:
                if found := self._unused_match(pattern, subject, quote.sentence):
                    return Answer(found, [quote])
        if re.search(r"\b(url|website|link)\b", subject.words, re.IGNORECASE):
            return Answer(candidates[0].page.url, candidates[:1])
        return Answer(candidates[0].sentence, [self._spend(candidates[0])])

    def _unused_match(self, pattern: re.Pattern[str], subject: Subject, sentence: str) -> str | None:
        """Return what looks like the value, names only once and never the one asked about."""
        for text in _matches(pattern, subject, sentence):
            if pattern is not _NAME:
                return text
            if text not in self._used and text.lower() not in self._research.question.lower():
                self._used.add(text)
                return text
        return None

    def _number(self, subject: Subject, *, whole: bool) -> Answer:
        """Return a number that stands beside the subject, preferably one not given yet."""
        stated = self._stated_numbers(subject)
        if not stated:
            return Answer(0)
        number, quote = next((pair for pair in stated if str(pair[0]) not in self._used), stated[0])
        self._used.add(str(number))
        return Answer(round(number) if whole or number.is_integer() else number, [quote])

    def _stated_numbers(self, subject: Subject) -> list[tuple[float, Quote]]:
        """Return the first number of every sentence that has one; years only where a year is wanted."""
        wants_year = re.search(r"\byear\b", subject.words, re.IGNORECASE) is not None
        stated: list[tuple[float, Quote]] = []
        for quote in self._candidates(subject):
            texts = _matches(_YEAR if wants_year else _NUMBER, subject, quote.sentence)
            numbers = [float(text.replace(",", "")) for text in texts]
            fitting = [number for number in numbers if wants_year or not _is_year(number)]
            stated += [(number, quote) for number in fitting[:1]]
        return stated

    def _boolean(self, subject: Subject) -> Answer:
        candidates = self._candidates(subject)
        if not candidates:
            return Answer(False)
        return Answer(_NEGATION.search(candidates[0].sentence) is None, candidates[:1])

    def _choice(self, options: Sequence[JsonValue], subject: Subject) -> Answer:
        """Choose the option a sentence mentions; without one, an option for "unknown", or any."""
        candidates = self._candidates(subject)
        for quote in candidates:
            for option in options:
                if isinstance(option, str) and option and option.lower() in quote.sentence.lower():
                    return Answer(option, [quote])
        if not candidates:
            unknown = [option for option in options if option is None or str(option).lower() in ("unknown", "other")]
            return Answer([*unknown, *options][0])
        return Answer(self._dice.choice(options), candidates[:1])

    def _candidates(self, subject: Subject) -> list[Quote]:
        """Return the sentences for a value: those that name it first, then those about the question; used ones last."""
        quotes = [*self._research.quotes_about(subject.words), *self._research.quotes]
        quotes += [Quote(page, sentence) for page in self._research.pages for sentence in page.sentences]
        distinct = list({quote.sentence: quote for quote in quotes}.values())
        return sorted(
            distinct, key=lambda quote: (quote.sentence in self._used, subject.place_in(quote.sentence) is None)
        )

    def _spend(self, quote: Quote) -> Quote:
        self._used.add(quote.sentence)
        return quote


def _kind(schema: Schema, *, found: bool) -> str:
    """Return the type to write; of several, the first that is not null, and null when nothing was found."""
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [name for name in kind if isinstance(name, str)]
        values = [name for name in kinds if name != "null"]
        return "null" if "null" in kinds and (not found or not values) else values[0]
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "string"


def _patterns(subject: Subject) -> list[re.Pattern[str]]:
    """Return what a string of this subject looks like inside a sentence; nothing means a whole sentence."""
    words = subject.words.lower()
    if re.search(r"\byear\b", words):
        return [_YEAR]
    if re.search(r"\b(date|dated|when|founded|published)\b", words):
        return [_DATE]
    if re.search(r"\b(names?|ceo|founders?|author)\b", subject.name.replace("_", " ").lower()):
        return [_NAME]
    return []


def _matches(pattern: re.Pattern[str], subject: Subject, sentence: str) -> list[str]:
    """Return what matches in a sentence; what follows a word of the subject goes first."""
    place = subject.place_in(sentence) or 0
    found = list(pattern.finditer(sentence))
    return [match.group() for match in sorted(found, key=lambda match: match.start() < place)]


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")


def _is_year(number: float) -> bool:
    return number.is_integer() and 1900 <= number <= 2100


def _without(schema: Schema, *keywords: str) -> Schema:
    return {key: value for key, value in schema.items() if key not in keywords}


def _merged(schemas: Sequence[JsonValue]) -> Schema:
    merged: Schema = {}
    for schema in schemas:
        if isinstance(schema, dict):
            both = _properties(merged) | _properties(schema)
            merged = {**merged, **schema, **({"properties": both} if both else {})}
    return merged


def _properties(schema: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}
