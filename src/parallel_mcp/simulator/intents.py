"""Reading what somebody wants to know: which fields, about what (API reference, section 14).

find the CEO and founding year of each company          fields CEO, founding year; about a company
given a person and a city, find whether they live there     a field of yes or no; about a person, a city
revenue of Vantor Robotics and Solenne Foods            field revenue; two things named
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ASKING = re.compile(
    r"^(?:please |i (?:want|need|would like)(?: to)? |also |can you |us(?:e|ing) [^,]*?(?: to |, ))*"
    r"(?:find(?: out)?|get|list|show|tell me|give me|look up|collect|research|identify|determine|add|check|know"
    r"|predict|forecast)? ?"
    r"(?:(?:what|which|who) (?:is|are) |what's )?",
    re.IGNORECASE,
)
_REMOVING = re.compile(r"^(?:please )?(?:remove|drop|delete|without) ", re.IGNORECASE)
_GIVEN = re.compile(
    r"^(?:given|for|from) (.+?)(?:[,:] ?)((?:find|get|list|what|whether|look|tell|research).+)$", re.IGNORECASE
)
_ABOUT = re.compile(r"^(.*) (?<!number )(?<!list )(?<!date )(?<!place )(?:of|for|about|at) (.+)$", re.IGNORECASE)
_EACH = re.compile(r"\b(?:each|every|all|these) ([a-z]+) ?", re.IGNORECASE)
_AND = re.compile(r", ?(?:and )?| and ", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:the|an?|its|their|his|her|current|each|every|all|these|list of|names? of) ", re.IGNORECASE)
_PROPER = re.compile(r"[A-Z][\w.&'-]*(?: (?:(?:of|de|the) )?[A-Z0-9][\w.&'-]*)*")


@dataclass(frozen=True)
class Intent:
    """What is wanted.

    Attributes:
        fields: What to find out, as phrases.
        columns: The kinds of things it is about, as phrases.
        named: Single things it is about, by name.
        removes: The fields are to be taken away from an earlier task.
    """

    fields: tuple[str, ...]
    columns: tuple[str, ...]
    named: tuple[str, ...]
    removes: bool = False


def read_intent(text: str) -> Intent:
    """Read an intent; the fields are empty when nothing in it can be read."""
    line = " ".join(text.split()).rstrip(".?! ")
    if _REMOVING.match(line):
        return Intent(_phrases(_REMOVING.sub("", line)), (), (), removes=True)
    given = _GIVEN.match(line)
    if given:
        return Intent(_fields(given[2]), _phrases(given[1]), ())
    asked = _ASKING.sub("", line, count=1)
    about = _ABOUT.match(asked)
    if about is None:
        each = _EACH.search(asked)
        return Intent(_fields(_EACH.sub("", asked)), (each[1],) if each else (), ())
    subjects = _phrases(about[2])
    named = tuple(subject for subject in subjects if _PROPER.fullmatch(subject))
    columns = tuple(subject for subject in subjects if subject not in named)
    return Intent(_fields(about[1]), columns[:1], named)


def _fields(text: str) -> tuple[str, ...]:
    asked = _ASKING.sub("", text, count=1)
    about = _ABOUT.match(asked)
    return _phrases(about[1] if about else asked)


def _phrases(text: str) -> tuple[str, ...]:
    """Split at commas and "and"; articles are dropped, and what has no letters."""
    phrases = [_without_articles(part.strip()) for part in _AND.split(text)]
    return tuple(dict.fromkeys(phrase for phrase in phrases if re.search(r"[^\W\d_]", phrase)))


def _without_articles(phrase: str) -> str:
    while (shorter := _ARTICLE.sub("", phrase, count=1)) != phrase:
        phrase = shorter
    return phrase
