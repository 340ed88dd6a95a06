"""The registry of lowerings: names, what they lack here, and the session that runs ONNX models."""

import copy
import pickle

import pytest
import torch
from torch import nn

from drivetrain.base.errors import DrivetrainError, MissingExtra
from drivetrain.graph import lower_onnxruntime, lowering
from drivetrain.graph.lowering import LOWERINGS, find_lowering, find_runner, lacks, of_programs, to_try
from drivetrain.graph.rewrite import optimize


def flat(module, *inputs):
    """A module as an fx graph of ATen operators with its weights inside."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad():
        return make_fx(module)(*inputs)


def test_every_line_of_the_registry_leads_somewhere():
    assert all(callable(find_lowering(name)) for name in LOWERINGS)
    assert all(callable(find_runner(name)) for name in of_programs())
    assert "auto" not in of_programs() and "inductor" not in to_try() and {"eager", "onednn"} <= set(to_try())
    for ask in (find_lowering, find_runner, lacks):
        with pytest.raises(DrivetrainError, match="'onnxruntime'"):
            ask("onnxruntim")


def test_what_is_not_installed_is_not_tried_and_named_when_asked_for(monkeypatch):
    monkeypatch.setattr(lowering, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert "onnxruntime" not in to_try() and lacks("onnxruntime") == "onnxscript"
    with pytest.raises(MissingExtra, match="needs onnxscript"):
        optimize(nn.Linear(2, 2).eval(), (torch.ones(1, 2),), then="onnxruntime")


@pytest.mark.parametrize("name", ["eager", "onednn", "onnxruntime"])
def test_a_graph_with_its_weights_inside_is_lowered(name):
    if lacks(name):
        pytest.skip(f"needs {lacks(name)}")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    image = torch.randn(2, 3, 8, 8)
    graph = flat(model, image)
    lowered = find_lowering(name)(graph, [image], "inference")
    (result,) = torch.utils._pytree.tree_leaves(lowered([image]))
    with torch.no_grad():
        assert torch.allclose(result, model(image), atol=1e-5)


@pytest.mark.parametrize("name", ["onednn", "onnxruntime"])
def test_inference_lowerings_refuse_training(name):
    with pytest.raises(DrivetrainError, match=f"'{name}' runs inference, this is a forward graph"):
        find_lowering(name)(flat(torch.relu, torch.ones(2)), [torch.ones(2)], "forward")


class Two(nn.Module):
    def forward(self, x, unread, flag):
        return x.transpose(0, 1) @ x, torch.where(flag, x, -x), x


@pytest.fixture
def session():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    examples = (torch.randn(3, 4), torch.randn(7), torch.tensor([True, False, True, False]))
    return lower_onnxruntime.Session(lower_onnxruntime.export(Two(), examples), threads=1), examples


def test_a_session_takes_any_strides_gradients_and_dtypes(session):
    run, (x, unread, flag) = session
    for given in (x, x.t().contiguous().t(), x.clone().requires_grad_()):
        for result, expected in zip(run(given, unread, flag), Two()(x, unread, flag), strict=True):
            assert torch.allclose(result, expected, atol=1e-6)


class Image(nn.Module):
    def forward(self, x, y):
        return torch.relu(x).sum(1), y + x.mean()


def test_images_that_lie_channels_last_go_in_as_they_lie():
    pytest.importorskip("onnxscript")
    x, y = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.randn(2, 3, 4, 5)
    run = lower_onnxruntime.Session(lower_onnxruntime.export(Image(), (x, y)), threads=1)
    assert [(entry.name, entry.shape) for entry in run._session.get_inputs()] == [
        ("rows_0", [2, 4, 5, 3]), ("input_1", [2, 3, 4, 5]),
    ]  # fmt: skip
    by_numpy = lower_onnxruntime._by_numpy(
        run._session, ["rows_0", "input_1"], [0, 1], [entry.name for entry in run._session.get_outputs()]
    )
    for call in (run, by_numpy, pickle.loads(pickle.dumps(run))):
        for one, other in ((x, y), (x.contiguous(), y.to(memory_format=torch.channels_last))):
            for result, expected in zip(call(one, other), Image()(x, y), strict=True):
                assert torch.allclose(result, expected, atol=1e-6)


def test_results_of_two_calls_do_not_share_memory(session):
    run, (x, unread, flag) = session
    first = run(x, unread, flag)
    kept = [value.clone() for value in first]
    run(x + 1, unread, flag)
    assert all(torch.equal(value, old) for value, old in zip(first, kept, strict=True))


def test_a_session_is_copied_and_pickled(session):
    run, given = session
    for again in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert again.threads == 1 and torch.equal(again(*given)[1], run(*given)[1])


def test_the_public_way_is_taken_where_the_inner_one_is_missing(session, monkeypatch):
    run, given = session
    monkeypatch.delattr(type(run._session._sess), "run_with_ort_values", raising=False)
    if hasattr(run._session._sess, "run_with_ort_values"):  # a compiled class that can't be changed
        by_numpy = lower_onnxruntime._by_numpy(
            run._session, ["input_0", "input_2"], [0, 2], [entry.name for entry in run._session.get_outputs()]
        )
        assert torch.equal(by_numpy(*given)[1], run(*given)[1])
    else:
        assert torch.equal(lower_onnxruntime.Session(run.model)(*given)[1], Two()(*given)[1])


def test_threads_are_those_of_pytorch(session):
    run, _ = session
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        options = lower_onnxruntime.Session(run.model)._session.get_session_options()
    finally:
        torch.set_num_threads(before)
    assert options.intra_op_num_threads == 2 and options.inter_op_num_threads == 1


def test_what_has_no_onnx_form_is_told():
    pytest.importorskip("onnxscript")
    with pytest.raises(DrivetrainError, match="the ONNX export") as error:
        lower_onnxruntime.export(nn.Module(), (torch.ones(2),))
    assert "Traceback" not in str(error.value)
    with pytest.raises(DrivetrainError, match="takes tensors, found an input 3"):
        lower_onnxruntime.export(Two(), (3,))
