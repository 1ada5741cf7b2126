"""Row filters such as `kept == 1 and dataset != "c4"`: comparisons joined by and, or, not. No code is run."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from functools import reduce

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
_ALLOWED = 'comparisons (== != < <= > >= in) of columns with numbers or "text", joined by and, or, not, parentheses'


def where(expression: str, columns: Mapping[str, Column]) -> Mask:
    """Which rows satisfy the expression. A column whose name is no identifier goes in backticks: `val/loss` < 2.

    Raises FitError, naming what is allowed, for anything else.
    """
    names: dict[str, str] = {}

    def quoted(match: re.Match[str]) -> str:
        names[f"column_{len(names)}__"] = match.group(1)
        return f"column_{len(names) - 1}__"

    try:
        tree = ast.parse(re.sub(r"`([^`]+)`", quoted, expression).strip(), mode="eval")
    except SyntaxError as error:
        raise FitError(f"cannot read the filter {expression!r}: use {_ALLOWED}.") from error
    n = len(next(iter(columns.values()))) if columns else 0
    return _Filter(expression, columns, names, n).mask(tree.body)


class _Filter:
    def __init__(self, expression: str, columns: Mapping[str, Column], names: Mapping[str, str], n: int) -> None:
        self.expression, self.columns, self.names, self.n = expression, columns, names, n

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
        left = self._operand(a)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(b, ast.List | ast.Tuple):
                raise self._refuse(b)
            found = np.zeros(self.n, dtype=bool)
            for item in b.elts:
                found |= self._apply(operator.eq, left, self._operand(item))
            return found if isinstance(op, ast.In) else ~found
        if type(op) not in _COMPARE:
            raise self._refuse(op)
        return self._apply(_COMPARE[type(op)], left, self._operand(b))

    def _apply(self, compare: Callable[..., object], left: object, right: object) -> Mask:
        if _is_text(left) != _is_text(right):
            raise FitError(f"the filter {self.expression!r} compares a number with text: put the text side in quotes.")
        return np.broadcast_to(np.asarray(compare(left, right), dtype=bool), (self.n,))

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

    def _refuse(self, node: ast.AST) -> FitError:
        kind = type(node).__name__
        return FitError(f"the filter {self.expression!r} has {kind}, which is not allowed: use {_ALLOWED}.")


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind == "U")
