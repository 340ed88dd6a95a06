"""Normal form, structural hash, source lines and tensor metas of ATen graphs."""

import torch
from torch import nn

from drivetrain.graph import capture, normalise, source_line, structural_hash, tensor_meta
from drivetrain.graph.ir import compute_nodes, copy_graph, is_impure

X = torch.ones(2, 3)


def hash_of(function, *args):
    return structural_hash(capture(function, args or (X, X.clone())).module)


def test_the_hash_ignores_names_and_the_order_of_independent_nodes():
    def one(a, b):
        left = a.sin()
        right = b.cos()
        return left * right

    def other(a, b):
        right = b.cos()
        left = a.sin()
        return left * right

    assert hash_of(one) == hash_of(other)


def test_commutative_operands_may_be_swapped_and_others_may_not():
    assert hash_of(lambda a, b: a.sin() + b) == hash_of(lambda a, b: b + a.sin())
    assert hash_of(lambda a, b: a - b) != hash_of(lambda a, b: b - a)
    assert hash_of(lambda a, b: a / b) != hash_of(lambda a, b: b / a)


def test_add_with_alpha_is_told_from_add():
    assert hash_of(lambda a, b: torch.add(a, b)) != hash_of(lambda a, b: torch.add(a, b, alpha=2))


def test_one_one_point_zero_and_true_are_different_constants():
    hashes = {hash_of(lambda a, b, k=k: a.sin() * k) for k in (1, 1.0, True)}
    assert len(hashes) == 3


def test_attributes_shapes_and_dtypes_count():
    assert hash_of(lambda a, b: a.sum(0)) != hash_of(lambda a, b: a.sum(1))
    assert hash_of(torch.sin, X) != hash_of(torch.sin, X.double())
    assert hash_of(torch.sin, X) != hash_of(torch.sin, torch.ones(2, 4))


def test_which_operand_is_shared_counts():
    assert hash_of(lambda a, b: a.sin() - a.sin()) != hash_of(lambda a, b: a.sin() - b.sin())


def test_the_values_of_constants_count_unless_told_otherwise():
    def graph_with(value):
        module = nn.Module()
        module.register_buffer("k", torch.tensor([value]))
        graph = torch.fx.Graph()
        x = graph.placeholder("x")
        graph.output(graph.call_function(torch.ops.aten.mul.Tensor, (x, graph.get_attr("k"))))
        return torch.fx.GraphModule(module, graph)

    one, two = graph_with(1.0), graph_with(2.0)
    assert structural_hash(one) != structural_hash(two)
    assert structural_hash(one, constants=False) == structural_hash(two, constants=False)


def test_a_source_line_names_the_users_file():
    def double(a):
        return torch.relu(a) * 2  # this line

    node = next(n for n in capture(double, (X,)).module.graph.nodes if "relu" in n.name)
    line = source_line(node)
    assert line.file == __file__ and line.function == "double" and "this line" in line.code


def test_the_meta_tells_the_memory_format():
    x = torch.ones(2, 3, 4, 4)
    program = capture(lambda a: a.to(memory_format=torch.channels_last), (x,))
    first, last = program.input_nodes[0], compute_nodes(program.module)[-1]
    assert tensor_meta(first).memory_format is torch.contiguous_format
    assert tensor_meta(last).memory_format is torch.channels_last
    assert tensor_meta(first).shape == (2, 3, 4, 4) and tensor_meta(first).dtype is torch.float32
    assert str(tensor_meta(first)) == "float32[2, 3, 4, 4]"


def test_the_normal_form_drops_dead_nodes_and_defaults_and_keeps_random_ones():
    def f(a, b):
        a.exp()
        torch.rand(2)
        return torch.add(other=a.sin(), input=b, alpha=1)

    program = capture(f, (X, X.clone()), decompose=False)
    before = program(X, X)
    normalise(program.module)
    names = [str(node.target) for node in compute_nodes(program.module)]
    assert "aten.exp.default" not in names and "aten.rand.default" in names
    add = next(node for node in program.module.graph.nodes if node.name == "add")
    assert add.kwargs == {}
    assert torch.equal(program(X, X), before)


def test_two_spellings_have_one_normal_form():
    def spelled(a, b):
        return torch.ops.aten.add.Tensor(a.sin(), b, alpha=1)

    def short(a, b):
        return torch.ops.aten.add.Tensor(b, a.sin())

    forms = [normalise(capture(f, (X, X.clone())).module) for f in (spelled, short)]
    assert structural_hash(forms[0]) == structural_hash(forms[1])
    assert [str(n.args) for n in compute_nodes(forms[0])] == [str(n.args) for n in compute_nodes(forms[1])]


def test_a_writing_node_is_impure_and_a_copied_graph_is_independent():
    program = capture(lambda a: a + 1, (X,))
    assert not is_impure(compute_nodes(program.module)[0])
    copied = copy_graph(program.module.graph)
    assert len(copied.nodes) == len(program.module.graph.nodes)
    assert not set(copied.nodes) & set(program.module.graph.nodes)
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    assert is_impure(graph.call_function(torch.ops.aten.add_.Tensor, (x, x)))
