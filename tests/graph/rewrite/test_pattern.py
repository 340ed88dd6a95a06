"""Rules as data: the matcher's conditions one by one, and published axioms through TASO's file format.

TASO's own file is read where the shared data has it. The axioms below are from its paper (SOSP 2019, table 2 and
figure 3), encoded by protobuf's own writer from the message definitions of its `rules.proto`.
"""

import itertools

import pytest
import torch
from torch import nn

from drivetrain.base.errors import InvalidValue, MissingFile
from drivetrain.graph.rewrite import optimize
from drivetrain.graph.rewrite.fused import CONV, MATMUL, aten
from drivetrain.graph.rewrite.pattern import Constraint, Op, PatternRule, Result, instantiate
from drivetrain.graph.rewrite.samples import Draw
from drivetrain.graph.rewrite.taso import fields, read_rules
from drivetrain.graph.rewrite.vocabulary import CannotBuild, number_of, permutation, words
from drivetrain.graph.verify import check, compare

A, B, C, D = -1, -2, -3, -4  # variables
CONCAT, SPLIT, TRANSPOSE, ADD, MUL, MM, CONVOLVE, ENLARGE, RELU = 12, 13, 15, 16, 17, 18, 3, 20, 8
MM_PLAIN, SWAP = {9: 0}, {10: 2, 12: 2, 13: 0}  # activation none; rank 2, axes (1, 0)
SAME_CONV = {6: 1, 7: 1, 8: 0, 9: 0}  # stride 1x1, padding "same", no activation


def joined(axis, rank):
    return {11: axis, 10: rank}


# name -> source, target, mapped (source op, target op, source slot, target slot), shapes of the variables
AXIOMS = {
    "sums associate": (
        [(ADD, [B, C], {}), (ADD, [A, (0, 0)], {})], [(ADD, [A, B], {}), (ADD, [(0, 0), C], {})],
        [(1, 1, 0, 0)], {A: (3, 4), B: (3, 4), C: (3, 4)},
    ),
    "products distribute": (
        [(ADD, [A, B], {}), (MUL, [(0, 0), C], {})],
        [(MUL, [A, C], {}), (MUL, [B, C], {}), (ADD, [(0, 0), (1, 0)], {})],
        [(1, 2, 0, 0)], {A: (3, 4), B: (3, 4), C: (3, 4)},
    ),
    "matrix products associate": (
        [(MM, [B, C], MM_PLAIN), (MM, [A, (0, 0)], MM_PLAIN)], [(MM, [A, B], MM_PLAIN), (MM, [(0, 0), C], MM_PLAIN)],
        [(1, 1, 0, 0)], {A: (2, 3), B: (3, 4), C: (4, 5)},
    ),
    "matrix products are linear": (
        [(ADD, [B, C], {}), (MM, [A, (0, 0)], MM_PLAIN)],
        [(MM, [A, B], MM_PLAIN), (MM, [A, C], MM_PLAIN), (ADD, [(0, 0), (1, 0)], {})],
        [(1, 2, 0, 0)], {A: (2, 3), B: (3, 4), C: (3, 4)},
    ),
    "a product transposed": (
        [(MM, [A, B], MM_PLAIN), (TRANSPOSE, [(0, 0)], SWAP)],
        [(TRANSPOSE, [A], SWAP), (TRANSPOSE, [B], SWAP), (MM, [(1, 0), (0, 0)], MM_PLAIN)],
        [(1, 2, 0, 0)], {A: (2, 3), B: (3, 4)},
    ),
    "convolutions are linear": (
        [(ADD, [B, C], {}), (CONVOLVE, [A, (0, 0)], SAME_CONV)],
        [(CONVOLVE, [A, B], SAME_CONV), (CONVOLVE, [A, C], SAME_CONV), (ADD, [(0, 0), (1, 0)], {})],
        [(1, 2, 0, 0)], {A: (2, 3, 5, 6), B: (4, 3, 3, 1), C: (4, 3, 3, 1)},
    ),
    "relu of a concatenation": (
        [(RELU, [A], {}), (RELU, [B], {}), (CONCAT, [(0, 0), (1, 0)], joined(1, 3))],
        [(CONCAT, [A, B], joined(1, 3)), (RELU, [(0, 0)], {})], [(2, 1, 0, 0)], {A: (2, 3, 4), B: (2, 1, 4)},
    ),
    "sibling convolutions": (
        [(CONVOLVE, [A, B], SAME_CONV), (CONVOLVE, [A, C], SAME_CONV)],
        [(CONCAT, [B, C], joined(0, 4)), (CONVOLVE, [A, (0, 0)], SAME_CONV), (SPLIT, [(1, 0)], {11: 1, 2: 2})],
        [(0, 2, 0, 0), (1, 2, 0, 1)], {A: (2, 3, 5, 6), B: (4, 3, 3, 3), C: (2, 3, 3, 3)},
    ),
    "siblings of two sizes": (
        [(CONVOLVE, [A, B], SAME_CONV), (CONVOLVE, [A, C], SAME_CONV)],
        [(ENLARGE, [B, C], {4: 3, 5: 3}), (CONCAT, [(0, 0), C], joined(0, 4)), (CONVOLVE, [A, (1, 0)], SAME_CONV),
         (SPLIT, [(2, 0)], {11: 1, 2: 2})],
        [(0, 3, 0, 0), (1, 3, 0, 1)], {A: (2, 3, 5, 6), B: (4, 3, 1, 1), C: (2, 3, 3, 5)},
    ),
    "a sum of convolutions": (
        [(CONVOLVE, [A, B], SAME_CONV), (CONVOLVE, [C, D], SAME_CONV), (ADD, [(0, 0), (1, 0)], {})],
        [(CONCAT, [A, C], joined(1, 4)), (CONCAT, [B, D], joined(1, 4)), (CONVOLVE, [(0, 0), (1, 0)], SAME_CONV)],
        [(2, 2, 0, 0)], {A: (2, 3, 5, 6), B: (4, 3, 3, 3), C: (2, 2, 5, 6), D: (4, 2, 3, 3)},
    ),
    "products side by side": (
        [(MM, [A, B], MM_PLAIN), (MM, [A, C], MM_PLAIN), (CONCAT, [(0, 0), (1, 0)], joined(1, 2))],
        [(CONCAT, [B, C], joined(1, 2)), (MM, [A, (0, 0)], MM_PLAIN)], [(2, 1, 0, 0)],
        {A: (2, 3), B: (3, 4), C: (3, 1)},
    ),
    "a split moved past relu": (
        [(CONCAT, [A, B], joined(0, 2)), (RELU, [(0, 0)], {}), (SPLIT, [(1, 0)], {11: 0, 2: 2})],
        [(CONCAT, [A, B], joined(0, 2)), (SPLIT, [(0, 0)], {11: 0, 2: 2}), (RELU, [(1, 0)], {}), (RELU, [(1, 1)], {})],
        [(2, 2, 0, 0), (2, 3, 1, 0)], {A: (2, 3), B: (1, 3)},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def messages():
    """The classes of rules.proto, made by protobuf itself."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="rules_for_test.proto", package="subst", syntax="proto2")
    shapes = {
        "Parameter": [("key", 5, 2, ""), ("value", 5, 2, "")],
        "Tensor": [("opId", 5, 2, ""), ("tsId", 5, 2, "")],
        "Operator": [("type", 5, 2, ""), ("input", 11, 3, "Tensor"), ("para", 11, 3, "Parameter")],
        "MapOutput": [("srcOpId", 5, 2, ""), ("dstOpId", 5, 2, ""), ("srcTsId", 5, 2, ""), ("dstTsId", 5, 2, "")],
        "Rule": [("srcOp", 11, 3, "Operator"), ("dstOp", 11, 3, "Operator"), ("mappedOutput", 11, 3, "MapOutput")],
        "RuleCollection": [("rule", 11, 3, "Rule")],
    }
    for name, members in shapes.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, label, of) in enumerate(members, 1):
            entry = message.field.add(name=field, number=number, type=kind, label=label)
            if of:
                entry.type_name = f".subst.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("subst.RuleCollection"))


def encoded(collection_class, axioms):
    collection = collection_class()
    for source, target, mapped, _ in axioms:
        rule = collection.rule.add()
        for side, ops in ((rule.srcOp, source), (rule.dstOp, target)):
            for type_, inputs, parameters in ops:
                op = side.add(type=type_)
                for operand in inputs:
                    number, slot = (operand, 0) if isinstance(operand, int) else operand
                    op.input.add(opId=number, tsId=slot)
                for key, value in parameters.items():
                    op.para.add(key=key, value=value)
        for src, dst, src_slot, dst_slot in mapped:
            rule.mappedOutput.add(srcOpId=src, dstOpId=dst, srcTsId=src_slot, dstTsId=dst_slot)
    return collection.SerializeToString()


def source_program(rule, shapes, seed):
    """A program that is the rule's source pattern: what its mapped results compute, on fresh inputs."""
    draw = Draw(seed)
    variables = {f"v{-number}": draw.input(*shape) for number, shape in shapes.items()}
    made = instantiate(draw.arena, rule.source, variables)
    return draw.graph(*(made[source.op][source.slot] for source, _ in rule.outputs))


@pytest.mark.parametrize("name", AXIOMS)
def test_published_axioms_are_read_matched_and_right(name, messages):
    shapes = AXIOMS[name][3]
    (rule,), refused = read_rules(encoded(messages, [AXIOMS[name]]))
    assert not refused
    report = check(rule, sample=lambda draw: source_program(rule, shapes, draw.seed))
    assert report.ok and report.worst < 1e-12, report
    graph = source_program(rule, shapes, 1)
    for change in rule.changes(graph):  # what it made is another program
        assert graph.replace(change.new).digest != graph.digest


def test_a_file_of_all_axioms_and_what_is_refused(messages, tmp_path):
    pool = ([(7, [A], {})], [(8, [A], {})], [(0, 0, 0, 0)], {})
    from_enlarged = ([(ENLARGE, [A, B], {})], [(RELU, [A], {})], [(0, 0, 0, 0)], {})
    path = tmp_path / "graph_subst.pb"
    path.write_bytes(encoded(messages, [*AXIOMS.values(), pool, from_enlarged]))
    rules, refused = read_rules(path)
    assert [rule.name for rule in rules] == [f"taso-{i}" for i in range(len(AXIOMS))]
    assert "average pool" in refused[len(AXIOMS)] and "enlarged" in refused[len(AXIOMS) + 1]
    assert rules[3].says == "matmul(v1, add(v2, v3)) = add(matmul(v1, v2), matmul(v1, v3))"


def published(shared_data):
    path = shared_data / "rules" / "taso-graph_subst.pb"
    if not path.is_file():
        pytest.skip("TASO's graph_subst.pb is not here")
    return read_rules(path)


def test_the_published_file_is_read_whole(shared_data):
    rules, refused = published(shared_data)
    assert len(rules) == 133 and not refused


FLAT = [(4, 4), (8, 4), (4, 8)]
IMAGES = [(4, 4, 4, 4), (4, 4, 3, 3), (8, 4, 3, 3), (4, 8, 3, 3), (4, 8, 4, 4)]


def first_fit(rule):
    """A program in which a rule fires, over small shapes of its variables; None where none of them fits."""
    names = sorted({x for op in rule.source for x in op.inputs if isinstance(x, str)})
    four = any(op.kind == "conv" or op.attributes.get("rank") == 4 for op in (*rule.source, *rule.target))
    for shapes in itertools.islice(itertools.product(IMAGES if four else FLAT, repeat=len(names)), 700):
        draw = Draw(1)
        variables = {name: draw.input(*shape) for name, shape in zip(names, shapes, strict=True)}
        try:
            made = instantiate(draw.arena, rule.source, variables)
        except CannotBuild:
            continue
        graph = draw.graph(*(made[source.op][source.slot] for source, _ in rule.outputs))
        if any(True for _ in rule.changes(graph)):
            return graph
    return None


@pytest.mark.slow
def test_the_published_rules_fire_and_are_right(shared_data):
    """The four that don't fire put convolutions of two inputs side by side, which makes groups."""
    silent = []
    for rule in published(shared_data)[0]:
        graph = first_fit(rule)
        if graph is None:
            silent.append(rule.says)
            continue
        for change in rule.changes(graph):
            assert compare(graph, graph.replace(change.new), 1)[0] < 1e-12, rule.says
    assert silent == ["concat(conv(v7, v10), conv(v8, v11)) = conv(concat(v7, v8), concat(v10, v11))"] * 4


def test_a_wrong_rule_in_a_file_is_found(messages):
    """TASO shipped some (its issues 31 and 92): here the products' factors are exchanged."""
    source, target, mapped, _ = AXIOMS["matrix products associate"]
    target = [(MM, [B, A], MM_PLAIN), target[1]]
    (rule,), _ = read_rules(encoded(messages, [(source, target, mapped, {})]))
    square = {A: (3, 3), B: (3, 3), C: (3, 3)}
    assert not check(rule, sample=lambda draw: source_program(rule, square, draw.seed)).ok


def test_shapes_that_do_not_fit_the_target_are_left_alone(messages):
    """Sibling kernels of two sizes match, but can't be put side by side."""
    (rule,), _ = read_rules(encoded(messages, [AXIOMS["sibling convolutions"]]))
    graph = source_program(rule, {A: (2, 3, 5, 6), B: (4, 3, 1, 1), C: (2, 3, 3, 3)}, 0)
    assert list(rule.matches(graph)) and not list(rule.changes(graph))


def chain():
    """relu(x y) as source, two words."""
    source = [Op("matmul", ("x", "y"), {"activation": 0}), Op("relu", (Result(0),))]
    return PatternRule("fuse", source, [Op("matmul", ("x", "y"), {"activation": 2})], [(Result(1), Result(0))])


def program(run):
    draw = Draw(0)
    x, y = draw.input(3, 4), draw.weight(4, 5)
    product = draw.arena.call(MATMUL, x, y, None, None, "")
    return draw.graph(*run(draw.arena.call, product, draw.arena.call(aten.relu.default, product)))


def test_an_interior_value_used_elsewhere_forbids_the_match():
    rule = chain()
    assert len(list(rule.changes(program(lambda call, p, r: [r])))) == 1
    assert not list(rule.changes(program(lambda call, p, r: [r, p])))  # returned
    assert not list(rule.changes(program(lambda call, p, r: [r, call(aten.sin.default, p)])))
    graph = program(lambda call, p, r: [call(aten.sin.default, r), r])  # the mapped one may be used
    (change,) = rule.changes(graph)
    assert compare(graph, graph.replace(change.new), 0)[0] < 1e-12


def test_equal_variables_are_equal_values_and_slots_are_kept():
    square = PatternRule("square", [Op("mul", ("x", "x"))], [Op("add", ("x", "x"))], [(Result(0), Result(0))])
    draw = Draw(0)
    x, y = draw.input(3), draw.input(3)
    graph = draw.graph(draw.arena.call(aten.mul.Tensor, x, y), draw.arena.call(aten.mul.Tensor, x, x))
    assert len(list(square.matches(graph))) == 1
    source = [Op("concat", ("x", "y"), {"axis": 0}), Op("concat", ("y", Result(0)), {"axis": 0})]
    ordered = PatternRule("ordered", source, [Op("concat", ("x", "y"), {"axis": 0})], [(Result(1), Result(0))])
    for second, count in (((y, 0), 1), ((0, y), 0), ((x, 0), 0)):
        inner = draw.arena.call(aten.cat.default, [x, y], 0)
        parts = [inner if isinstance(part, int) else part for part in second]
        graph = draw.graph(draw.arena.call(aten.cat.default, parts, 0))
        assert len(list(ordered.matches(graph))) == count


def test_sums_match_in_either_order():
    rule = PatternRule("r", [Op("relu", ("x",)), Op("add", ("y", Result(0)))], [Op("relu", ("x",))],
        [(Result(1), Result(0))])  # fmt: skip
    draw = Draw(0)
    x, y = draw.input(3), draw.input(3)
    for pair in ((x, y), (y, x)):
        graph = draw.graph(draw.arena.call(aten.add.Tensor, draw.arena.call(aten.relu.default, pair[0]), pair[1]))
        assert len(list(rule.matches(graph))) == 1


def test_two_words_stand_for_two_operators():
    """Both source operators may not be the same operator of the program."""
    two = PatternRule("two", [Op("relu", ("x",)), Op("relu", ("y",))], [Op("relu", ("x",)), Op("relu", ("y",))],
        [(Result(0), Result(0)), (Result(1), Result(1))])  # fmt: skip
    draw = Draw(0)
    x, y = draw.input(3), draw.input(3)
    one = draw.arena.call(aten.relu.default, x)
    assert not list(two.matches(draw.graph(one)))
    assert len(list(two.matches(draw.graph(one, draw.arena.call(aten.relu.default, y))))) == 2


def test_what_is_replaced_may_not_feed_a_variable():
    """Merging products where the second reads the first would make a program that reads itself."""
    source = [Op("matmul", ("x", "w"), {}), Op("matmul", ("y", "w"), {})]
    target = [Op("concat", ("x", "y"), {"axis": 0}), Op("matmul", (Result(0), "w"), {}),
        Op("split", (Result(1),), {"axis": 0, "outputs": 2})]  # fmt: skip
    rule = PatternRule("rows", source, target, [(Result(0), Result(2)), (Result(1), Result(2, 1))])
    draw = Draw(0)
    x, y, w = draw.input(2, 4), draw.input(3, 4), draw.weight(4, 4)
    first = draw.arena.call(MATMUL, x, w, None, None, "")
    assert not list(rule.matches(draw.graph(draw.arena.call(MATMUL, first, w, None, None, ""))))
    graph = draw.graph(first, draw.arena.call(MATMUL, y, w, None, None, ""))
    changes = list(rule.changes(graph))
    assert len(changes) == 2  # either one first
    assert all(compare(graph, graph.replace(change.new), 0)[0] < 1e-12 for change in changes)


def conv_pair(kernels):
    draw = Draw(0)
    x = draw.input(1, 3, 6, 6)
    made = [draw.arena.call(CONV, x, draw.weight(2, 3, k, k), None, None, (s, s), (p, p), (1, 1), 1, "")
        for k, s, p in kernels]  # fmt: skip
    return draw.graph(*made)


@pytest.mark.parametrize(
    ("constraint", "kernels", "count"),
    [
        (Constraint(0, "stride_h", "=", 2), [(3, 2, 1), (3, 1, 1)], 1),
        (Constraint(0, "stride_h", "!=", 2), [(3, 2, 1), (3, 1, 1)], 1),
        (Constraint(0, "stride_h", "=", (1, "stride_h")), [(3, 2, 1), (3, 1, 1)], 0),
        (Constraint(0, "stride_h", "=", (1, "stride_h")), [(3, 2, 1), (1, 2, 0)], 2),
        (Constraint(0, "kernel_h", "<", (1, "kernel_h")), [(3, 1, 1), (1, 1, 0)], 1),
        (Constraint(0, "in1.2", ">", (1, "in1.2")), [(3, 1, 1), (1, 1, 0)], 1),
        (Constraint(0, "pad", "=", 1), [(1, 1, 0), (3, 1, 1)], 1),  # 1x1 without padding is "same" and "valid"
        (Constraint(0, "pad", "=", 0), [(1, 1, 0), (3, 1, 1)], 2),
    ],
)
def test_constraints_on_one_and_on_two_operators(constraint, kernels, count):
    source = [Op("conv", ("x", "a")), Op("conv", ("x", "b"))]
    outputs = [(Result(0), Result(0)), (Result(1), Result(0))]
    rule = PatternRule("pair", source, [Op("relu", ("x",))], outputs, [constraint])
    assert len(list(rule.matches(conv_pair(kernels)))) == count


def test_words_of_a_program():
    draw = Draw(0)
    x = draw.input(4, 6)
    parts = [draw.arena.call(aten.slice.Tensor, x, 1, a, b) for a, b in ((0, 2), (2, 6))]
    lone = draw.arena.call(aten.slice.Tensor, x, 0, 0, 2)
    found = words(draw.graph(*parts, lone, draw.arena.call(aten.permute.default, x, (1, 0))))
    assert sorted(found) == ["split", "transpose"]  # a lone slice is no split
    assert permutation(number_of([2, 0, 1]), 3) == [2, 0, 1]


def test_rules_of_a_file_take_part_in_the_search(messages):
    class Siblings(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Conv2d(3, out, 3, padding=1, bias=False) for out in (4, 2))

        def forward(self, x):
            return self.a(x), self.b(x).sin()

    rules, _ = read_rules(encoded(messages, AXIOMS.values()))
    x = (torch.randn(1, 3, 8, 8),)
    result = optimize(Siblings().eval(), x, rules=rules, cost="launches", then="eager", rounds=2)
    name = f"taso-{list(AXIOMS).index('sibling convolutions')}"
    assert [(step.rule, step.times) for step in result.steps] == [(name, 1)]
    assert result.cost_after.launches == result.cost_before.launches - 1 and result.max_abs_err < 1e-5


def test_bad_rules_and_bad_files(tmp_path):
    relu = [Op("relu", ("x",))]
    for source, target, outputs, found in (
        ([], relu, [(Result(0), Result(0))], "no source"),
        ([Op("relux", ("x",))], relu, [(Result(0), Result(0))], "did you mean 'relu'"),
        ([Op("relu", (Result(0),))], relu, [(Result(0), Result(0))], "reads a later one"),
        (relu, [Op("relu", ("z",))], [(Result(0), Result(0))], "binds no z"),
    ):
        with pytest.raises(InvalidValue) as error:
            PatternRule("bad", source, target, outputs)
        assert found in str(error.value)
    with pytest.raises(InvalidValue, match="comparison"):
        PatternRule("bad", relu, relu, [(Result(0), Result(0))], [Constraint(0, "axis", "<=", 1)])
    with pytest.raises(MissingFile, match=r"no rule file .*none\.pb"):
        read_rules(tmp_path / "none.pb")
    for content, why in (
        (b"", "holds no rules"),
        (b"\x0a\x7fabc", "127 bytes"),
        (b"\x0a", "unfinished"),
        (b"\x0d", "wire type 5"),
    ):
        with pytest.raises(InvalidValue, match=why):
            read_rules(content)


def test_negative_numbers_take_ten_bytes():
    assert fields(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")[1] == [-1]
