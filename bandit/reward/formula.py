"""Signals become a reward: combined as configured, then put through a formula.

A formula is an expression over signal names, such as ``watch_s / 30 + 2 * like - 5 * skip``.
A signal that was not sent counts as 0. The raw signals stay in the log, so any other formula can
be asked of an old log later.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Literal

from bandit.errors import InvalidFormula

MAX_FORMULA_LENGTH = 1_000
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
}
_ALLOWED = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub, ast.UAdd,
    ast.Constant, ast.Name, ast.Load, ast.Call,
)  # fmt: skip


class Formula:
    """A reward formula, checked and compiled once.

    :raises InvalidFormula: anything but numbers, signal names, ``+ - * /``, parentheses and the functions
        min, max, abs, log1p, sqrt; the message says what was found

    >>> Formula("watch_s / 10 + 2 * like")({"watch_s": 5.0, "like": 1.0})
    2.5
    >>> Formula("like")({})
    0.0
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > MAX_FORMULA_LENGTH:
            raise InvalidFormula(f"formula has {len(text)} characters; at most {MAX_FORMULA_LENGTH} are allowed")
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise InvalidFormula(
                f"formula {text!r} is not an expression; write for example 'watch_s / 30 + 2 * like'"
            ) from None
        names: set[str] = set()
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if id(node) not in called:
                self._check(node, names)
        self.names = frozenset(names)
        try:
            self._code = compile(tree, "<formula>", "eval")
        except (RecursionError, MemoryError):
            raise InvalidFormula("formula is nested too deeply") from None
        self._globals: dict[str, Any] = {"__builtins__": {}, **_FUNCTIONS}

    @staticmethod
    def _check(node: ast.AST, names: set[str]) -> None:
        if not isinstance(node, _ALLOWED):
            raise InvalidFormula(
                f"formula uses {type(node).__name__}; allowed are numbers, signal names, + - * /, parentheses "
                f"and {', '.join(_FUNCTIONS)}"
            )
        if isinstance(node, ast.Constant) and (
            isinstance(node.value, bool) or not isinstance(node.value, int | float) or abs(node.value) > 1e9
        ):
            raise InvalidFormula(f"formula holds {node.value!r}; allowed are numbers between -1e9 and 1e9")
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS or node.keywords:
                raise InvalidFormula(f"formula calls what is not one of {', '.join(_FUNCTIONS)}")
            n_args = len(node.args)
            few, many = (2, 8) if node.func.id in ("min", "max") else (1, 1)
            if not few <= n_args <= many:
                raise InvalidFormula(f"{node.func.id} takes {few} to {many} arguments, not {n_args}")
        if isinstance(node, ast.Name):
            names.add(node.id)
            if node.id in _FUNCTIONS:
                raise InvalidFormula(f"formula uses the function {node.id} as a number; call it, or rename the signal")

    def __call__(self, signals: Mapping[str, float]) -> float | None:
        """Reward of these combined signals; None where the formula has no finite value there."""
        values = {name: float(signals.get(name, 0.0)) for name in self.names}
        try:
            reward = float(eval(self._code, self._globals, values))
        except (ArithmeticError, ValueError):
            return None
        return reward if math.isfinite(reward) else None


def combine(how: str, so_far: float | None, value: float) -> float:
    """One more report of a signal, combined with what was known.

    :param how: ``sum``, ``max`` or ``last``
    """
    if so_far is None or how == "last":
        return value
    return so_far + value if how == "sum" else max(so_far, value)


#: How several rewards of one placement become one.
Aggregation = Literal["last", "earliest", "average", "median", "sum", "min", "max"]


def aggregate(how: Aggregation, rewards: Sequence[float]) -> float | None:
    """One reward of several, in the order in which they came; None of none.

    >>> [aggregate(how, [-2.0, 0.0, -4.0, -1.0]) for how in ("last", "earliest", "average", "median")]
    [-1.0, -2.0, -1.75, -1.5]
    >>> [aggregate(how, [-2.0, 0.0, -4.0, -1.0]) for how in ("sum", "min", "max")]
    [-7.0, -4.0, 0.0]
    """
    if not rewards:
        return None
    if how == "last" or how == "earliest":
        return rewards[-1 if how == "last" else 0]
    if how == "min" or how == "max":
        return min(rewards) if how == "min" else max(rewards)
    if how == "median":
        return median(rewards)
    total = math.fsum(rewards)
    return total if how == "sum" else total / len(rewards)
