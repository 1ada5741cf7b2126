"""A law written as a formula, such as `E + A/N^a + B/D^b + G/(N^p D^q)`, into a `PowerLaws` value.

    law      =  ["L" "="] term { "+" term }
    term     =  coefficient { power } [ "/" ( power | "(" power { power } ")" ) ]
    power    =  variable "^" ["-"] exponent

A variable is what is raised to a power; each term has a coefficient of its own; `*` may stand between factors. An
exponent below the line (or written `^-a`) is positive; one above it may have either sign: `k N^a D^b`. No code is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from analysis.laws.forms import PowerLaws, Term
from analysis.laws.status import FitError

NAME = "formula"
MAX_LENGTH = 400
EXAMPLE = "E + A/N^a + B/D^b"

_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<number>\d+\.?\d*(?:[eE][-+]?\d+)?)|(?P<mark>\*\*|[-+*/^()=]))")


def looks_like_formula(text: str) -> bool:
    """Whether the text is meant as a formula and not as the name of a form."""
    return any(mark in text for mark in "^/+*=( ")


def parse_formula(text: str) -> PowerLaws:
    """The law that the formula describes. Raises FitError with what cannot be read."""
    if len(text) > MAX_LENGTH:
        raise FitError(f"the formula has {len(text)} characters: give at most {MAX_LENGTH}.")
    terms, rising, falling = [], set[str](), set[str]()
    for coefficient, powers in _Reader(text).terms():
        rising |= {power.exponent for power in powers if power.above}
        falling |= {power.exponent for power in powers if not power.above}
        terms.append(Term(coefficient, tuple((power.variable, power.exponent) for power in powers)))
    _check(text, terms, rising & falling)
    return PowerLaws(NAME, tuple(terms), rising=frozenset(rising))


@dataclass(frozen=True)
class _Power:
    variable: str
    exponent: str
    above: bool


class _Reader:
    """Reads tokens from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0
        self.tokens = list(self._split())

    def _split(self) -> Iterator[str]:
        position, text = 0, self.text.rstrip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise self._error(f"{text[position:].strip()[:10]!r} is no part of a formula")
            yield "^" if found["mark"] == "**" else found[0].strip()
            position = found.end()

    def _error(self, what: str) -> FitError:
        shown = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        return FitError(f"cannot read the formula {shown!r}: {what}. Write a sum of terms such as {EXAMPLE}.")

    def _next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def _take(self, wanted: str = "") -> str:
        token = self._next()
        if not token or (wanted and token != wanted):
            what = repr(wanted) if wanted else "something"
            raise self._error(f"{what} is missing {f'before {token!r}' if token else 'at the end'}")
        self.place += 1
        return token

    def terms(self) -> Iterator[tuple[str, list[_Power]]]:
        if self.tokens[1:2] == ["="]:
            self.place = 2
        while True:
            yield self._term()
            if not self._next():
                return
            if self._next() == "-":
                raise self._error("terms are added, not subtracted: every coefficient is positive")
            self._take("+")

    def _term(self) -> tuple[str, list[_Power]]:
        coefficient = ""
        powers: list[_Power] = []
        below = False
        while self._next() not in ("", "+", "-"):
            token = self._take()
            if token == "/":
                below = True
                powers += self._below()
            elif token == "*":
                continue
            elif not _is_name(token):
                raise self._error(f"{token!r} stands where a coefficient or a variable is expected")
            elif self._next() == "^":
                powers.append(self._power(token, above=not below))
                below = False
            elif coefficient:
                raise self._error(f"{coefficient!r} and {token!r} are two coefficients of one term; leave one out")
            else:
                coefficient = token
        if not coefficient:
            raise self._error("a term has no coefficient of its own")
        return coefficient, powers

    def _below(self) -> list[_Power]:
        if self._next() != "(":
            return [self._power(self._name("a variable"), above=False)]
        self._take("(")
        powers = []
        while self._next() != ")":
            if self._next() == "*":
                self._take()
            powers.append(self._power(self._name("a variable"), above=False))
        self._take(")")
        return powers

    def _power(self, variable: str, above: bool) -> _Power:
        if self._next() != "^":
            raise self._error(f"{variable!r} has no exponent; write {variable}^a")
        self._take("^")
        if self._next() == "-":
            self._take()
            above = not above
        return _Power(variable, self._name("the name of an exponent"), above)

    def _name(self, what: str) -> str:
        token = self._take()
        if not _is_name(token):
            raise self._error(f"{token!r} stands where {what} is expected (hold a value with --fixed)")
        return token


def _is_name(token: str) -> bool:
    return token[0].isalpha() or token[0] == "_"


def _check(text: str, terms: list[Term], both: set[str]) -> None:
    """Every name has one meaning."""

    def refuse(what: str) -> FitError:
        return FitError(f"in the formula {text[:80]!r} {what}.")

    coefficients = [term.coefficient for term in terms]
    variables = {variable for term in terms for variable, _ in term.powers}
    exponents = {exponent for term in terms for _, exponent in term.powers}
    if not variables:
        raise refuse(f"nothing is raised to a power: write terms such as {EXAMPLE}")
    for name in coefficients:
        if coefficients.count(name) > 1:
            raise refuse(f"{name!r} is the coefficient of two terms: give each its own")
    for one, other, what in (
        (set(coefficients), variables, "a coefficient and a variable"),
        (set(coefficients), exponents, "a coefficient and an exponent"),
        (variables, exponents, "a variable and an exponent"),
    ):
        if one & other:
            raise refuse(f"{min(one & other)!r} is {what}: give them different names")
    if both:
        raise refuse(f"{min(both)!r} stands above the line and below it: use two exponents")
    if sum(not term.powers for term in terms) > 1:
        raise refuse("two terms have no power: one irreducible loss is enough")
    for term in terms:
        repeated = [variable for variable, _ in term.powers]
        if len(set(repeated)) < len(repeated):
            raise refuse(f"{max(repeated, key=repeated.count)!r} stands twice in one term: use one power")
