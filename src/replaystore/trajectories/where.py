"""The small language in which trajectories are chosen: `return > 100 and split in ("train", "val")`.

    expression = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation = "not" negation | comparison
    comparison = operand { ("==" | "!=" | "<" | "<=" | ">" | ">=") operand }
               | operand [ "not" ] "in" "(" literal { "," literal } [ "," ] ")"
    operand = literal | column | "(" expression ")"

A literal is a number (`3`, `-0.5`, `1e3`, `inf`, `nan`), `true`, `false`, or a string in single or double
quotes; a column is a name, or any text in backticks. The words mean what they mean in Python, chained
comparisons (`50 <= length < 100`) too, and nothing is ever evaluated as Python.

Invariants:
(1) Whole columns are compared at once, never row by row.
(2) Numbers, strings and booleans are never compared with each other: that is a mistake in the expression, and
an error. (3) Size and nesting are limited, so that an expression from somewhere else costs little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError
from replaystore.trajectories.compare import OPERATORS, Mask, Scalar, check_column, compare, kind, member

__all__ = ["MAX_CHARACTERS", "MAX_NESTING", "Expression", "equal", "parse"]

MAX_CHARACTERS = 10_000
"""The longest expression that is read."""
MAX_NESTING = 100
"""The deepest nesting of parentheses and `not`."""

EXAMPLE = 'return > 100 and 50 <= length < 1000 and split in ("train", "val")'

_WORDS = {"and", "or", "not", "in"}
_BOOLEANS = {"true": True, "True": True, "false": False, "False": False}
_ADVICE = {
    "=": "use == to compare",
    "&": "write and",
    "|": "write or",
    "!": "write not",
    "~": "write not",
    '"': "a string is not closed",
}
_ADVICE |= {"'": _ADVICE['"'], "`": "a column name is not closed", "[": "write a list in parentheses"}
_ADVICE |= dict.fromkeys("+-*/%", "there is no arithmetic here")

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>[+-]?(?:inf|nan|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.]))
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<quoted>`[^`]*`)
    |(?P<word>[^\W\d]\w*)
    |(?P<symbol>==|!=|<=|>=|[<>(),])""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """"number", "string", "quoted", "word", "symbol" or "end"."""
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class _Literal:
    value: Scalar
    start: int


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    start: int


@dataclass(frozen=True, slots=True)
class _Comparison:
    operands: tuple[_Node, ...]
    operators: tuple[str, ...]
    start: int


@dataclass(frozen=True, slots=True)
class _Membership:
    operand: _Node
    choices: tuple[_Literal, ...]
    start: int


@dataclass(frozen=True, slots=True)
class _Not:
    operand: _Node
    start: int


@dataclass(frozen=True, slots=True)
class _Junction:
    word: str
    operands: tuple[_Node, ...]
    start: int


_Node = _Literal | _Column | _Comparison | _Membership | _Not | _Junction


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression, ready to be asked of any table."""

    text: str
    _root: _Node

    def mask(self, columns: Mapping[str, NDArray[Any]], rows: int) -> Mask:
        """For which rows is it true?

        Args:
            columns: one-dimensional arrays of `rows` values: numbers, booleans or strings (also as objects).
            rows: the length of the answer.

        Returns:
            A new boolean array of shape (rows,).

        Raises:
            ArgumentError: a column is unknown, holds vectors, or is compared with a value of another kind.
        """
        answer = self._truth(self._root, columns)
        return np.array(np.broadcast_to(answer, (rows,)))

    def _value(self, node: _Node, columns: Mapping[str, NDArray[Any]]) -> NDArray[Any] | Scalar:
        """What a node stands for: a column (or a mask), or one literal value."""
        match node:
            case _Literal(value=value):
                return value
            case _Column(name=name, start=start):
                if name not in columns:
                    _fail(
                        self.text,
                        start,
                        f'there is no column "{name}"; the columns are {", ".join(columns) or "none"}',
                    )
                return check_column(
                    columns[name], lambda problem: _fail(self.text, start, f'column "{name}" {problem}')
                )
            case _Comparison(operands=operands, operators=operators):
                values = [self._value(operand, columns) for operand in operands]
                pairs = zip(values, operators, values[1:], operands[1:], strict=False)
                return reduce(
                    np.logical_and,
                    [self._compare(left, sign, right, at.start) for left, sign, right, at in pairs],
                )
            case _Membership(operand=operand, choices=choices, start=start):
                asked = self._value(operand, columns)
                for choice in choices:
                    self._same_kind(asked, choice.value, choice.start)
                return member(asked, [choice.value for choice in choices])
            case _Not(operand=operand):
                return np.logical_not(self._truth(operand, columns))
            case _Junction(word=word, operands=operands):
                masks = [self._truth(operand, columns) for operand in operands]
                return reduce(np.logical_and if word == "and" else np.logical_or, masks)

    def _truth(self, node: _Node, columns: Mapping[str, NDArray[Any]]) -> Mask | bool:
        value = self._value(node, columns)
        if kind(value) != "boolean":
            _fail(
                self.text,
                node.start,
                f"a {kind(value)} stands where true or false is expected: compare it with something",
            )
        return value  # type: ignore[return-value]  # kind has just made sure of it

    def _compare(
        self, left: NDArray[Any] | Scalar, sign: str, right: NDArray[Any] | Scalar, start: int
    ) -> Mask | bool:
        self._same_kind(left, right, start)
        if kind(left) == "boolean" and sign not in ("==", "!="):
            _fail(self.text, start, f"true and false have no order: use == or != instead of {sign}")
        return compare(left, sign, right)

    def _same_kind(self, left: NDArray[Any] | Scalar, right: NDArray[Any] | Scalar, start: int) -> None:
        if kind(left) != kind(right):
            _fail(self.text, start, f"a {kind(left)} is compared with a {kind(right)}")


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        ArgumentError: it is not an expression, or too long, or nested too deeply; the message says where.
    """
    if not isinstance(text, str):
        raise ArgumentError(
            f"where: an expression is a string such as {EXAMPLE!r}, not {type(text).__name__}"
        )
    if len(text) > MAX_CHARACTERS:
        raise ArgumentError(
            f"where: an expression of {len(text)} characters is too long; at most {MAX_CHARACTERS} are read"
        )
    return Expression(text, _Parser(text).expression_to_end())


def equal(name: str, column: NDArray[Any], value: object) -> Mask:
    """In which rows does a column have this value, or one of these values?

    Args:
        name: of the column, for messages.
        column: numbers, booleans or strings; shape (rows,).
        value: a number, boolean or string, or a list, tuple or set of them; NumPy scalars will do.

    Returns:
        A new boolean array of shape (rows,). Integers are compared exactly.

    Raises:
        ArgumentError: the column holds vectors, or the value is of another kind.
    """

    def refuse(problem: str) -> NoReturn:
        raise ArgumentError(f'where: column "{name}" {problem}')

    column = check_column(column, refuse)
    given = (
        value.ravel()
        if isinstance(value, np.ndarray)
        else value
        if isinstance(value, list | tuple | set | frozenset)
        else (value,)
    )
    choices: list[Scalar] = []
    for choice in given:
        plain = choice.item() if isinstance(choice, np.generic) else choice
        if not isinstance(plain, bool | int | float | str) or kind(plain) != kind(column):
            refuse(
                f"holds {kind(column)}s and cannot be equal to {plain!r}; give a {kind(column)}, or a "
                "list of them"
            )
        choices.append(plain)
    return np.array(member(column, choices))


class _Parser:
    """Recursive descent with one token of lookahead; every method reads one rule of the grammar above."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.position = 0
        self.nesting = 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.position]

    def take(self, *texts: str) -> _Token | None:
        """The next token if it is one of these words or symbols."""
        token = self.next
        if token.kind not in ("word", "symbol") or token.text not in texts:
            return None
        self.position += 1
        return token

    def fail(self, expected: str) -> NoReturn:
        found = "the end" if self.next.kind == "end" else repr(self.next.text)
        _fail(self.text, self.next.start, f"expected {expected}, found {found}")

    def deeper(self) -> None:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            _fail(self.text, self.next.start, f"nested more than {MAX_NESTING} deep")

    def expression_to_end(self) -> _Node:
        node = self.expression()
        if self.next.kind != "end":
            self.fail('a comparison, "and", "or" or the end')
        return node

    def expression(self) -> _Node:
        return self.junction("or", lambda: self.junction("and", self.negation))

    def junction(self, word: str, operand: Callable[[], _Node]) -> _Node:
        start = self.next.start
        operands = [operand()]
        while self.take(word):
            operands.append(operand())
        return operands[0] if len(operands) == 1 else _Junction(word, tuple(operands), start)

    def negation(self) -> _Node:
        token = self.take("not")
        if token is None:
            return self.comparison()
        self.deeper()
        node = _Not(self.negation(), token.start)
        self.nesting -= 1
        return node

    def comparison(self) -> _Node:
        start = self.next.start
        operands = [self.operand()]
        if negated := self.take("not"):
            if not self.take("in"):
                self.fail('"in" after "not"')
            return _Not(_Membership(operands[0], self.choices(), start), negated.start)
        if self.take("in"):
            return _Membership(operands[0], self.choices(), start)
        operators: list[str] = []
        while token := self.take(*OPERATORS):
            operators.append(token.text)
            operands.append(self.operand())
        return _Comparison(tuple(operands), tuple(operators), start) if operators else operands[0]

    def choices(self) -> tuple[_Literal, ...]:
        if not self.take("("):
            self.fail('"(" before a list of values')
        literals = []
        while True:
            literal = self.literal()
            if literal is None:
                self.fail("a number, a string, true or false")
            literals.append(literal)
            comma = self.take(",")
            if self.take(")"):
                return tuple(literals)
            if not comma:
                self.fail('"," or ")"')

    def operand(self) -> _Node:
        if self.take("("):
            self.deeper()
            node = self.expression()
            self.nesting -= 1
            if not self.take(")"):
                self.fail('")"')
            return node
        literal = self.literal()
        if literal is not None:
            return literal
        token = self.next
        if token.kind == "quoted" or (token.kind == "word" and token.text not in _WORDS):
            self.position += 1
            return _Column(token.text.strip("`"), token.start)
        return self.fail("a column or a value")

    def literal(self) -> _Literal | None:
        token = self.next
        value: Scalar
        if token.kind == "number":
            value = self.number(token)
        elif token.kind == "string":
            value = re.sub(r"\\(.)", self.unescape, token.text[1:-1], flags=re.DOTALL)
        elif token.kind == "word" and token.text in _BOOLEANS:
            value = _BOOLEANS[token.text]
        else:
            return None
        self.position += 1
        return _Literal(value, token.start)

    def number(self, token: _Token) -> int | float:
        # Beyond any column's range, and Python refuses to read integers of more than 4300 digits.
        if len(token.text) > 300:
            _fail(self.text, token.start, "a number of more than 300 characters")
        return int(token.text) if token.text.lstrip("+-").isdigit() else float(token.text)

    def unescape(self, found: re.Match[str]) -> str:
        if found[1] not in "\\\"'":
            _fail(self.text, self.next.start, rf"a string holds {found[0]!r}: only \\, \" and \' are known")
        return found[1]


def _tokens(text: str) -> list[_Token]:
    tokens = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            advice = _ADVICE.get(text[position], "a column with such a name goes in backticks")
            _fail(text, position, f"{text[position]!r} has no meaning here: {advice}")
        if found.lastgroup and found.lastgroup != "space":
            tokens.append(_Token(found.lastgroup, found[0], position))
        position = found.end()
    return [*tokens, _Token("end", "", len(text))]


def _fail(text: str, position: int, problem: str) -> NoReturn:
    shown = repr(text if len(text) <= 80 else text[:77] + "...")
    raise ArgumentError(
        f"where: at character {position + 1} of {shown}: {problem}; an expression looks like {EXAMPLE}"
    )
