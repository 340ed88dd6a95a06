"""Protocol-buffer text format, read into nested dicts and written back: just enough for schema files.

A message is described by a dict from field name to `Field`; a field that isn't described is refused with its line
number, since a promise that is dropped silently is worse than none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..base.errors import nearest
from .schema import SchemaError


class Field(NamedTuple):
    """What a field holds: "int", "float", "bool", "string", a tuple of enum names, or the dict of a nested message."""

    kind: Any
    repeated: bool = False


class Token(NamedTuple):
    """A piece of text with its line (from 1)."""

    kind: str
    text: str
    line: int


_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)|(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"""|(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?f?)(?![\w.]))"""
    r"""|(?P<word>-?[A-Za-z_][\w.]*)|(?P<mark>[{}<>\[\]:,;])"""
)


def parse(text: str, message: dict[str, Field], where: str) -> dict[str, Any]:
    """Read text format; repeated fields become lists, messages dicts.

    Raises:
        SchemaError: bad syntax, an unknown field, a value of the wrong kind; `where` and the line are named.
    """
    parser = _Parser(list(_tokens(text, where)), where)
    return parser.message(message, "the file", end=None)


def _tokens(text: str, where: str) -> Iterator[Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise SchemaError(
                f"data: can't read {text[position : position + 20]!r} in a .pbtxt schema", where=f"{where}, line {line}"
            )
        if match.lastgroup != "space":
            yield Token(str(match.lastgroup), match[0], line)
        line += match[0].count("\n")
        position = match.end()
    yield Token("end", "the end of the file", line)


class _Parser:
    def __init__(self, tokens: list[Token], where: str) -> None:
        self.tokens, self.where, self.at = tokens, where, 0

    def fail(self, message: str, line: int, hint: str | None = None) -> SchemaError:
        return SchemaError(f"data: {message}", hint=hint, where=f"{self.where}, line {line}")

    def next(self) -> Token:
        token = self.tokens[self.at]
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def take(self, *marks: str) -> str | None:
        token = self.tokens[self.at]
        if token.kind == "mark" and token.text in marks:
            self.at += 1
            return token.text
        return None

    def message(self, fields: dict[str, Field], name: str, end: str | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while True:
            if end is not None and self.take(end):
                return found
            token = self.next()
            if token.kind == "end":
                if end is None:
                    return found
                raise self.fail(f"the file ends inside {name}, {end!r} is missing", token.line)
            if token.kind != "word":
                raise self.fail(f"{token.text!r} stands where a field of {name} should", token.line)
            self.field(found, fields, name, token)
            self.take(",", ";")

    def field(self, found: dict[str, Any], fields: dict[str, Field], name: str, token: Token) -> None:
        field = fields.get(token.text)
        if field is None:
            close = nearest(token.text, fields)
            guess = f"did you mean {close!r}? " if close else ""
            raise self.fail(
                f"field {token.text!r} of {name} is not implemented here",
                token.line,
                f"{guess}known: {', '.join(sorted(fields)) or 'none'}",
            )
        colon = self.take(":")
        values = self.values(field, token, colon is not None)
        if field.repeated:
            found.setdefault(token.text, []).extend(values)
        elif token.text in found or len(values) != 1:
            raise self.fail(f"field {token.text!r} of {name} is set twice", token.line)
        else:
            found[token.text] = values[0]

    def values(self, field: Field, token: Token, colon: bool) -> list[Any]:
        if self.take("["):
            values = []
            while not self.take("]"):
                values.append(self.value(field, token, True))
                self.take(",")
            return values
        return [self.value(field, token, colon)]

    def value(self, field: Field, token: Token, colon: bool) -> Any:
        if isinstance(field.kind, dict):
            opened = self.take("{", "<")
            if opened is None:
                raise self.fail(f"{token.text!r} is a message and needs '{{'", token.line)
            return self.message(field.kind, token.text, "}" if opened == "{" else ">")
        if not colon:
            raise self.fail(f"{token.text!r} needs ':' and a value", token.line)
        value = self.next()
        if field.kind == "string" and value.kind == "string":
            return self.string(value)
        read = _scalar(field.kind, value)
        if read is None:
            wanted = (
                f"one of {', '.join(field.kind)}" if isinstance(field.kind, tuple) else f"a value of type {field.kind}"
            )
            raise self.fail(f"field {token.text!r} is {value.text}", value.line, f"it should be {wanted}")
        return read

    def string(self, first: Token) -> str:
        parts = [_unescape(first.text[1:-1])]
        while self.tokens[self.at].kind == "string":  # adjacent strings join
            parts.append(_unescape(self.next().text[1:-1]))
        try:
            return b"".join(parts).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("a string is not UTF-8", first.line) from None


def _scalar(kind: Any, token: Token) -> Any:
    if isinstance(kind, tuple):
        return token.text if token.text in kind else None
    try:
        if kind == "bool":
            return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}.get(token.text)
        if kind == "int" and token.kind == "number":
            return int(token.text, 0)
        if kind == "float" and token.kind in ("number", "word"):
            text = token.text if token.text.lower().endswith(("inf", "infinity")) else token.text.rstrip("f")
            return float(text)
    except ValueError:
        return None
    return None


_ESCAPES = {"n": 10, "t": 9, "r": 13, "a": 7, "b": 8, "f": 12, "v": 11}


def _unescape(text: str) -> bytes:
    def replace(match: re.Match[bytes]) -> bytes:
        code = match[1].decode()
        if code[0] in "01234567":
            return bytes([int(code, 8) & 255])
        if code[0] in "xX" and len(code) > 1:
            return bytes([int(code[1:], 16)])
        if code[0] in "uU" and len(code) > 1:
            return chr(int(code[1:], 16)).encode("utf-8")
        return bytes([_ESCAPES[code]]) if code in _ESCAPES else code.encode()

    return re.sub(
        rb"\\([0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", replace, text.encode("utf-8")
    )


def write(found: dict[str, Any], message: dict[str, Field], indent: str = "") -> str:
    """The text format of nested dicts, in the order of `message`'s fields."""
    lines = []
    for name, field in message.items():
        if name not in found:
            continue
        for value in found[name] if field.repeated else [found[name]]:
            if isinstance(field.kind, dict):
                inner = write(value, field.kind, indent + "  ")
                lines.append(f"{indent}{name} {{\n{inner}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_literal(field.kind, value)}\n")
    return "".join(lines)


def _literal(kind: Any, value: Any) -> str:
    if kind == "string":
        text = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\{ord(match[0]):03o}", text) + '"'
    if kind == "bool":
        return "true" if value else "false"
    if kind == "float" and not math.isfinite(value):
        return str(float(value))
    return str(value)
