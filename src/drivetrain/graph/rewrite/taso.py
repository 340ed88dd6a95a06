"""Reads TASO's rule file (`graph_subst.pb`, Apache-2.0, not shipped here) without protobuf, as pattern rules.

    rules, refused = read_rules("graph_subst.pb")

The file is a protobuf message: RuleCollection{1: Rule{1: source Operator, 2: target Operator, 3: MapOutput}},
Operator{1: type, 2: Tensor{1: operator or negative variable, 2: slot}, 3: Parameter{1: key, 2: value}},
MapOutput{1: source operator, 2: target operator, 3: source slot, 4: target slot}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from drivetrain.base.errors import InvalidValue, MissingFile

from .pattern import Op, Operand, PatternRule, Result
from .vocabulary import CannotBuild, permutation

# TASO's operator numbers that have a word here; and the others by name, for messages
KINDS = {
    3: "conv", 8: "relu", 9: "sigmoid", 10: "tanh", 12: "concat", 13: "split", 15: "transpose", 16: "add", 17: "mul",
    18: "matmul", 20: "enlarge",
}  # fmt: skip
OTHERS = {
    0: "input", 1: "weight", 2: "any", 4: "dropout", 5: "linear", 6: "max pool", 7: "average pool", 11: "batch norm",
    14: "reshape", 19: "multiply by a scalar", 21: "merge groups", 22: "identity matrix", 23: "identity kernel",
    24: "ones", 25: "pooling kernel",
}  # fmt: skip
# TASO's parameter numbers -> attributes; None: not needed, since shapes or the layout of results say it
PARAMETERS = {
    0: None, 1: None, 2: "outputs", 3: None, 4: "kernel_h", 5: "kernel_w", 6: "stride_h", 7: "stride_w", 8: "pad",
    9: "activation", 10: "rank", 11: "axis", 12: "perm", 13: None,
}  # fmt: skip
_WANTED = {
    "conv": {"stride_h", "stride_w", "pad", "activation", "kernel_h", "kernel_w"}, "matmul": {"activation"},
    "concat": {"axis", "rank"}, "split": {"axis", "outputs"}, "transpose": {"perm", "rank"},
}  # fmt: skip

Fields = Mapping[int, list[int | bytes]]


def read_rules(source: str | Path | bytes) -> tuple[list[PatternRule], dict[int, str]]:
    """The rules of a file that can be matched, and why the others can't, by their place in the file.

    Args:
        source: a path, or the file's bytes.

    Raises:
        MissingFile, InvalidValue: no such file; bytes that are no rule file.
    """
    if isinstance(source, bytes):
        content, name = source, "the rule file"
    else:
        path = Path(source)
        if not path.is_file():
            raise MissingFile(f"graph: there is no rule file {path}")
        content, name = path.read_bytes(), str(path)
    rules, refused = list[PatternRule](), dict[int, str]()
    try:
        for number, raw in enumerate(_messages(fields(content), 1)):
            try:
                rules.append(_rule(number, fields(raw)))
            except _Unsupported as error:
                refused[number] = str(error)
    except (ValueError, IndexError, KeyError) as error:
        raise InvalidValue(f"graph: {name} is no TASO rule file: {error}") from error
    if not rules and not refused:
        raise InvalidValue(f"graph: {name} holds no rules")
    return rules, refused


class _Unsupported(Exception):
    """A rule with an operator that programs here have no word for."""


def _rule(number: int, rule: Fields) -> PatternRule:
    source = [_operator(fields(raw)) for raw in _messages(rule, 1)]
    target = [_operator(fields(raw)) for raw in _messages(rule, 2)]
    if any(op.kind == "enlarge" for op in source):
        raise _Unsupported("an enlarged kernel in the source can't be told from a kernel with zeros")
    outputs: list[tuple[Result, Operand]] = []
    for raw in _messages(rule, 3):
        found = fields(raw)
        first, second, slot, other = (_number(found, field) for field in (1, 2, 3, 4))
        if not (0 <= first < len(source) and 0 <= second < len(target)):
            raise ValueError(f"rule {number} maps operator {first} to {second}, of {len(source)} and {len(target)}")
        outputs.append((Result(first, slot), Result(second, other)))
    return PatternRule(f"taso-{number}", source, target, outputs)


def _operator(found: Fields) -> Op:
    type_ = _number(found, 1)
    if type_ not in KINDS:
        raise _Unsupported(f"operator {OTHERS.get(type_, f'number {type_}')}")
    kind = KINDS[type_]
    parameters = {_number(entry, 1): _number(entry, 2) for entry in map(fields, _messages(found, 3))}
    attributes = {}
    for key, value in parameters.items():
        name = PARAMETERS.get(key)
        if name in _WANTED.get(kind, ()):
            attributes[str(name)] = value
    if kind == "transpose":
        try:
            order = permutation(attributes["perm"], attributes["rank"])
        except CannotBuild as error:
            raise ValueError(str(error)) from error
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"transpose by {order}, which is no order of axes")
    inputs: list[Operand] = []
    for entry in map(fields, _messages(found, 2)):
        op, slot = _number(entry, 1), _number(entry, 2)
        inputs.append(f"v{-op}" if op < 0 else Result(op, slot))
    return Op(kind, tuple(inputs), attributes)


def fields(content: bytes) -> dict[int, list[int | bytes]]:
    """A protobuf message's fields by number: integers and nested bytes.

    Raises:
        ValueError: it ends in the middle of a field, or has a field that these messages don't have.
    """
    found: dict[int, list[int | bytes]] = {}
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        if key & 7 == 0:
            value, position = _varint(content, position)
            signed = value - (1 << 64) if value >> 63 else value
            found.setdefault(key >> 3, []).append(signed)
        elif key & 7 == 2:
            length, position = _varint(content, position)
            if position + length > len(content):
                raise ValueError(f"a field of {length} bytes at {position} in {len(content)}")
            found.setdefault(key >> 3, []).append(content[position : position + length])
            position += length
        else:
            raise ValueError(f"a field of wire type {key & 7} at byte {position}")
    return found


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(content) or shift > 63:
            raise ValueError(f"an unfinished number at byte {position}")
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _messages(found: Fields, field: int) -> Iterator[bytes]:
    for value in found.get(field, ()):
        if not isinstance(value, bytes):
            raise ValueError(f"field {field} is a number where a message belongs")
        yield value


def _number(found: Fields, field: int) -> int:
    values = found.get(field, [])
    if not values or not isinstance(values[-1], int):
        raise ValueError(f"field {field} is missing")
    return values[-1]
