"""What was found about a JSON Schema, and how a model is told: the place, the rule, a corrected version.

Names of fields are the caller's own and shown cleaned and cut; no value that the caller wrote is shown, neither a
description nor a default nor a choice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

Schema = dict[str, JsonValue]
Path = tuple[str, ...]

MAX_NAME_CHARS = 40
MAX_PATH_CHARS = 160
MAX_TEXT_CHARS = 1_500
_MOST_ERRORS_SHOWN = 3
_MOST_WARNINGS = 8
_MOST_PLACES = 5


@dataclass(frozen=True)
class Finding:
    """One place where a schema breaks a rule, or could be better.

    Attributes:
        place: Keywords and names from the root to it; empty for the root.
        rule: A short name.
        advice: What is wrong and what to write instead, in our words.
        corrected: A schema that keeps the rule, to stand at this place; its descriptions are the author's to keep.
    """

    place: Path
    rule: str
    advice: str
    corrected: Schema | None = None

    @property
    def path(self) -> str:
        """The place for a reader: `properties.company.items`."""
        shown = ".".join(map(shown_name, self.place)) or "the root"
        return shown if len(shown) <= MAX_PATH_CHARS else f"…{shown[-MAX_PATH_CHARS:]}"


class Refused(Exception):
    """A schema, or a part of one, cannot be used."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.advice)
        self.finding = finding


def shown_name(name: str) -> str:
    """A name of the caller's for a reader: no invisible or marking characters, at most 40 characters."""
    clean = "".join(char if char.isprintable() and char not in "<>`" else "?" for char in name[:MAX_NAME_CHARS])
    return clean if len(name) <= MAX_NAME_CHARS else f"{clean[:-1]}…"


def error_text(argument: str, errors: Sequence[Finding]) -> str:
    """What is wrong with a schema, in at most about 1,500 characters."""
    has_correction = any(error.corrected for error in errors[:_MOST_ERRORS_SHOWN])
    keep = " (corrections leave out descriptions and choices: keep yours)" if has_correction else ""
    lines = [f"`{argument}` breaks rules for schemas{keep}:"]
    for error in errors[:_MOST_ERRORS_SHOWN]:
        line = f"- At {error.path} ({error.rule}): {error.advice}"
        correction = f" Corrected: {json.dumps(error.corrected, ensure_ascii=False)}" if error.corrected else ""
        if sum(map(len, lines)) + len(line) + len(correction) <= MAX_TEXT_CHARS:
            line += correction
        lines.append(line)
    if more := len(errors) - _MOST_ERRORS_SHOWN:
        lines += [f"- and {more} more."] if more > 0 else []
    return "\n".join(lines)


def warning_texts(warnings: Sequence[Finding]) -> list[str]:
    """Warnings for the reader of a result: equal ones together, at most eight."""
    places: dict[str, list[str]] = {}
    for warning in warnings:
        places.setdefault(warning.advice, []).append(warning.path)
    return [f"{_listed(paths)}: {advice}" for advice, paths in list(places.items())[:_MOST_WARNINGS]]


def _listed(paths: list[str]) -> str:
    shown = list(dict.fromkeys(paths))
    more = len(shown) - _MOST_PLACES
    return ", ".join(shown[:_MOST_PLACES]) + (f" and {more} more" if more > 0 else "")
