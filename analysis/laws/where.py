"""Row filters such as `kept == 1 and dataset != "c4"`: comparisons joined by and, or, not. No code is run."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from functools import reduce
from keyword import iskeyword

import numpy as np
from numpy.typing import NDArray

from analysis.laws.status import FitError

Column = NDArray[np.float64] | NDArray[np.str_]
Mask = NDArray[np.bool_]

_COMPARE: dict[type[ast.cmpop], Callable[..., object]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EQUALITY = (operator.eq, operator.ne)
_ALLOWED = 'comparisons (== != < <= > >= in) of columns with numbers or "text", joined by and, or, not, parentheses'
_LITERAL = r"'[^']*'|\"[^\"]*\"|`[^`]*`"
_OTHER_LANGUAGES = {
    r"&&?": "write and in place of &",
    r"\|\|?": "write or in place of |",
    r"(?<![<>=!])=(?!=)": "write == in place of =",
    r"!(?!=)": "write not in place of !",
    r"<>": "write != in place of <>",
}
"""What SQL, pandas and C write otherwise, and what to write here."""
_EXACT_INTEGERS = 2**53
"""Numbers are doubles: beyond this two different integers may be one number."""
_NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*(?:[eE][-+]?\d+)?\s*[%kKMGBT]?")
"""What people write for a number, also where it is none here: 10M, 1,000, 50%."""
_WORDS = frozenset({"and", "or", "not", "in", "is", "True", "False", "None"})


def written(name: str) -> str:
    """A column's name as a filter has it: in backticks unless it is a plain word."""
    return name if name.isidentifier() and not iskeyword(name) else f"`{name}`"


def where(expression: str, columns: Mapping[str, Column], cells: Mapping[str, NDArray[np.str_]] | None = None) -> Mask:
    """Which rows satisfy the expression.

    A column whose name is no plain word is taken as it stands (metrics.val/loss < 2), or in backticks where that could
    be read otherwise. `cells`: the columns as they are written in the file; a quoted text is compared with these.
    Raises FitError, naming what is allowed, for anything else.
    """
    names: dict[str, str] = {}
    python = _with_plain_names(expression, columns, names)
    try:
        tree = ast.parse(python.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FitError(
            f"cannot read the filter {_short(expression)!r}: {_advice(expression)}; the name of a column that is no "
            f"plain word goes in backticks."
        ) from error
    n = len(next(iter(columns.values()))) if columns else 0
    return _Filter(expression, columns, cells or {}, names, n).mask(tree.body)


def _with_plain_names(expression: str, columns: Mapping[str, Column], names: dict[str, str]) -> str:
    """The expression with a plain word for each column that Python cannot read as one; `names` maps these back."""
    unusual = [name for name in columns if written(name) != name and not _is_ambiguous(name)]
    longest_first = sorted(unusual, key=len, reverse=True)
    alternatives = "|".join(rf"(?<![\w.]){re.escape(name)}(?!\w)" for name in longest_first)

    def plain(match: re.Match[str]) -> str:
        text = match.group(0)
        if text[0] in "'\"":
            return text
        word = f"column_{len(names)}__"
        names[word] = text.strip("`") if text[0] == "`" else text
        return word

    return re.sub(_LITERAL + (f"|{alternatives}" if alternatives else ""), plain, expression)


def _is_ambiguous(name: str) -> bool:
    """Whether a name could be a number, a word or a part of the filter itself: such names need backticks."""
    return _is_number(name) or name in _WORDS or bool(re.search(r"[<>=!'\"`&|]", name))


def _advice(expression: str) -> str:
    """What to write in place of another language's operators, and what is allowed."""
    return "; ".join([*_translations(expression), f"a filter is made of {_ALLOWED}"])


def _translations(expression: str) -> list[str]:
    bare = re.sub(_LITERAL, " ", expression)
    return [advice for pattern, advice in _OTHER_LANGUAGES.items() if re.search(pattern, bare)]


def _short(expression: str) -> str:
    return expression if len(expression) <= 200 else expression[:200] + "..."


class _Filter:
    def __init__(
        self,
        expression: str,
        columns: Mapping[str, Column],
        cells: Mapping[str, NDArray[np.str_]],
        names: Mapping[str, str],
        n: int,
    ) -> None:
        self.expression, self.columns, self.cells, self.names, self.n = expression, columns, cells, names, n

    def mask(self, node: ast.expr) -> Mask:
        match node:
            case ast.BoolOp(op=joiner, values=values):
                join = np.logical_and if isinstance(joiner, ast.And) else np.logical_or
                masks = [self.mask(value) for value in values]
                return reduce(join, masks)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.mask(operand)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                result = np.ones(self.n, dtype=bool)
                for op, a, b in zip(ops, [left, *comparators[:-1]], comparators, strict=True):
                    result &= self._compare(op, a, b)
                return result
        raise self._refuse(node)

    def _compare(self, op: ast.cmpop, a: ast.expr, b: ast.expr) -> Mask:
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(b, ast.List | ast.Tuple):
                raise FitError(
                    f'the filter {_short(self.expression)!r} has {self._said(b)} after in: write a list, such as ["a", '
                    f'"b"]; a filter is made of {_ALLOWED}.'
                )
            found = np.zeros(self.n, dtype=bool)
            for item in b.elts:
                found |= self._apply(operator.eq, a, item)
            return found if isinstance(op, ast.In) else ~found
        if type(op) not in _COMPARE:
            raise self._refuse(op)
        return self._apply(_COMPARE[type(op)], a, b)

    def _apply(self, compare: Callable[..., object], a: ast.expr, b: ast.expr) -> Mask:
        self._check_column(a, b)
        self._check_digits(a, compare in _EQUALITY)
        self._check_digits(b, compare in _EQUALITY)
        left, right = self._operand(a), self._operand(b)
        if compare not in _EQUALITY:
            self._check_order(a, left)
            self._check_order(b, right)
        if _is_text(left) != _is_text(right) and compare in _EQUALITY:
            left, right = self._as_written(a, left), self._as_written(b, right)
        if _is_text(left) != _is_text(right):
            quoted = any(isinstance(node, ast.Constant) and isinstance(node.value, str) for node in (a, b))
            advice = "take the quotes off, as a column of numbers is compared with a number"
            raise FitError(
                f"the filter {_short(self.expression)!r} compares a number with text, {self._said(a)} with "
                f"{self._said(b)}: {advice if quoted else 'put the text side in quotes'}."
            )
        return np.broadcast_to(np.asarray(compare(left, right), dtype=bool), (self.n,))

    def _check_column(self, a: ast.expr, b: ast.expr) -> None:
        """A comparison of two constants keeps all rows or none, which nobody means."""
        if not all(isinstance(node, ast.Constant | ast.UnaryOp) for node in (a, b)):
            return
        names = [node.value for node in (a, b) if isinstance(node, ast.Constant) and node.value in self.columns]
        if names:
            advice = f"take the quotes off the column: {written(str(names[0]))}"
        else:
            advice = f"there are {', '.join(map(written, self.columns))}"
        raise FitError(
            f"the filter {_short(self.expression)!r} compares {self._said(a)} with {self._said(b)}, and no column: "
            f"{advice}."
        )

    def _check_order(self, node: ast.expr, value: object) -> None:
        """Numbers that are read as text, since a cell among them is none, have no order: "10" comes before "9"."""
        if not (isinstance(node, ast.Name) and isinstance(value, np.ndarray) and value.dtype.kind == "U"):
            return
        number = [bool(_NUMBER.fullmatch(str(cell).strip())) for cell in value]
        if 2 * sum(number) < len(number):
            return
        plain = [_is_number(str(cell)) for cell in value]
        cell = next((str(cell) for cell, fine in zip(value, plain, strict=True) if not fine), "")
        name = written(self.names.get(node.id, node.id))
        raise FitError(
            f"the filter {_short(self.expression)!r} asks for an order of column {name}, which is text, since its cell "
            f"{_short(cell)!r} is no number: correct such cells, or compare with == and in."
        )

    def _check_digits(self, node: ast.expr, equality: bool) -> None:
        """A whole number that doubles cannot tell from its neighbours is refused; in an order, one that they do not
        hold: it is an id, and no number of FLOPs."""
        if not (isinstance(node, ast.Constant) and isinstance(node.value, int)):
            return
        if abs(node.value) > _EXACT_INTEGERS and (equality or _exact(node.value) != node.value):
            whole = _short(str(node.value))
            raise FitError(
                f"the filter {_short(self.expression)!r} compares with {whole}, which has more digits than a number "
                f'holds: put it in quotes, "{whole}", with ==, != or in, and it is compared as it is written.'
            )

    def _as_written(self, node: ast.expr, value: object) -> object:
        """A column's cells as the file has them, to be compared with a quoted text; anything else as it is."""
        name = self.names.get(node.id, node.id) if isinstance(node, ast.Name) else ""
        return self.cells.get(name, value)

    def _operand(self, node: ast.expr) -> object:
        match node:
            case ast.Name(id=name):
                column = self.names.get(name, name)
                if column not in self.columns:
                    raise FitError(f"the filter names column {column!r}; there are {', '.join(self.columns)}.")
                return self.columns[column]
            case ast.Constant(value=bool()):
                raise self._refuse(node)
            case ast.Constant(value=int() | float() as value):
                return float(value)
            case ast.Constant(value=str() as text):
                return text
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -float(value)
        raise self._refuse(node)

    def _said(self, node: ast.AST) -> str:
        """A part of the filter as the user wrote it, nearly."""
        text = ast.unparse(node)
        for word, name in self.names.items():
            text = text.replace(word, f"`{name}`")
        return _short(text)

    def _refuse(self, node: ast.AST) -> FitError:
        said = self._said(node) if isinstance(node, ast.expr) else "'is'"
        told = f"the filter {_short(self.expression)!r} has {said}, which is not allowed"
        looks_like_a_name = isinstance(node, ast.Attribute | ast.BinOp | ast.Subscript | ast.Call)
        if looks_like_a_name and not _translations(self.expression):
            there = ", ".join(map(written, self.columns))
            told += f" (there is no such column; there are {there}, in backticks where the name is no plain word)"
        return FitError(f"{told}: {_advice(self.expression)}.")


def _exact(value: int) -> int:
    """The double next to it."""
    try:
        return int(float(value))
    except OverflowError:
        return 0


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind == "U")
