"""Invented companies, people and things: names that do not repeat, and a page about each on a reserved domain."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from parallel_mcp.simulator.corpus import Page

_FIRST_TEXT = """
Alder Amber Argon Aster Atlas Basalt Beacon Birch Bright Cedar Cobalt Copper Coral Crest Delta Ember Falcon Fern Flint
Forge Garnet Glacier Granite Harbor Hazel Heron Indigo Iron Juniper Lark Linden Lumen Maple Meridian Nimbus North Onyx
Orbit Quartz River
"""
_SECOND_TEXT = """
bridge bank craft dale field gate grove line mark mere path point quay reach ridge ross stone ton ward well
"""
_KINDS_TEXT = "Analytics Dynamics Energy Group Health Industries Labs Logistics Networks Robotics Software Systems"
_GIVEN_TEXT = """
Ada Amir Ana Arjun Astrid Bruno Camila Chen Clara Daniel Elif Emma Farah Felix Grace Hana Hugo Ines Ivan Jonas Kaito
Lena Liam Lucia Maja Marco Maya Milan Nadia Noor Olga Omar Paul Priya Rosa Samir Sofia Tomas Yara Zoe
"""
_FAMILY_TEXT = """
Abe Almeida Anders Bakker Becker Castillo Costa Dahl Dubois Eriksen Fischer Garcia Hansen Haddad Ito Jansen Kaya Keller
Kim Kovacs Larsen Lopez Mehta Moreau Nagy Novak Okafor Olsen Patel Petrov Rossi Sato Schmidt Silva Singh Tanaka Varga
Weber Yilmaz Zhang
"""
_INITIALS = "ABCDEF"
_CITIES_TEXT = (
    "Tallinn, Estonia; Porto, Portugal; Lyon, France; Austin, United States; Osaka, Japan; Pune, India; "
    "Toronto, Canada; Nairobi, Kenya; Graz, Austria; Utrecht, Netherlands"
)
FIRST, SECOND, KINDS = _FIRST_TEXT.split(), _SECOND_TEXT.split(), _KINDS_TEXT.split()
GIVEN, FAMILY, CITIES = _GIVEN_TEXT.split(), _FAMILY_TEXT.split(), _CITIES_TEXT.split("; ")
HOW_MANY = len(FIRST) * len(SECOND) * len(KINDS)

ProfileWriter = Callable[[int], Page]


def company(number: int) -> Page:
    """Write the page of a company; the number, below `HOW_MANY`, decides everything on it. The title is its name."""
    name = f"{_compound(number)} {KINDS[number // (len(FIRST) * len(SECOND))]}"
    dice = Random(f"company:{name}")
    founder, leader, city = _person_name(dice), _person_name(dice), dice.choice(CITIES)
    founded = dice.randint(1988, 2022)
    sentences = (
        f"{name} is a company with its headquarters in {city}.",
        f"It was founded in {founded} by the founder {founder}.",
        f"The chief executive officer (CEO) is {leader}.",
        f"The number of employees is {dice.randint(12, 4200)}.",
        f"Annual revenue reached {dice.randint(2, 900)} million dollars in {dice.randint(2023, 2025)}.",
        f"Its latest funding round raised {dice.randint(3, 250)} million dollars.",
        f"Its main product is called {_compound(dice.randrange(800))}.",
    )
    return Page(
        f"https://{_slug(name)}.example/about", name, f"{dice.randint(2024, 2026)}-03-14", (" ".join(sentences),)
    )


def person(number: int) -> Page:
    """Write the page of a person."""
    rest, given = divmod(number, len(GIVEN))
    initial, family = divmod(rest, len(FAMILY))
    name = f"{GIVEN[given]} {_INITIALS[initial]}. {FAMILY[family]}"
    dice = Random(f"person:{name}")
    employer, city = company(dice.randrange(HOW_MANY)).name, dice.choice(CITIES)
    sentences = (
        f"{name} works in {city}.",
        f"The current employer or company is {employer}.",
        f"The role or job title is {dice.choice(['chief executive', 'researcher', 'engineer', 'investor'])}.",
        f"The years of experience are {dice.randint(3, 35)}.",
        f"The degree is from the university of {city.split(',')[0]}, dated {dice.randint(1985, 2018)}.",
    )
    return Page(f"https://people.example/{_slug(name)}", name, None, (" ".join(sentences),))


def thing(entity_type: str) -> ProfileWriter:
    """Return the writer of pages about things of any other type."""

    def write(number: int) -> Page:
        name = f"{_compound(number)} {KINDS[number // (len(FIRST) * len(SECOND))]}"
        dice = Random(f"thing:{entity_type}:{name}")
        maker = company(dice.randrange(HOW_MANY)).name
        sentences = (
            f"{name} is one of the {entity_type or 'entities'} listed here.",
            f"It dates from the year {dice.randint(1990, 2025)} and stands in {dice.choice(CITIES)}.",
            f"The maker, owner or operator is {maker}.",
            f"The price is {dice.randint(5, 900)} dollars.",
            f"The rating is {dice.randint(20, 50) / 10} of 5.",
        )
        return Page(f"https://catalog.example/{_slug(name)}", name, None, (" ".join(sentences),))

    return write


def _compound(number: int) -> str:
    return FIRST[number % len(FIRST)] + SECOND[number // len(FIRST) % len(SECOND)]


def _person_name(dice: Random) -> str:
    return f"{dice.choice(GIVEN)} {dice.choice(FAMILY)}"


def _slug(name: str) -> str:
    return "-".join(re.findall("[a-z]+", name.lower()))
