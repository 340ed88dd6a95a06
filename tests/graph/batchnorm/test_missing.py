"""What the specification asks for and is not there yet; each turns red when it is built."""

import importlib

import pytest
import torch
from torch import nn

from drivetrain import nets
from drivetrain.graph.batchnorm import patch_, restructure

from .test_joint import compiled, targets


@pytest.mark.xfail(strict=True, raises=ModuleNotFoundError, reason="no Triton form: on a GPU the modules run")
def test_kernel_for_gpus():
    importlib.import_module("drivetrain.graph.batchnorm.triton_kernel")


@pytest.mark.xfail(strict=True, raises=TypeError, reason="one level only, BNFF; the others are modelled")
def test_levels():
    restructure(nets.densenet_small(depths=(1, 1, 1)), level="stats_reuse")


@pytest.mark.xfail(strict=True, raises=TypeError, reason="patch_ does not time its edges; the compiler option does")
def test_patch_keeps_edges_that_do_not_pay():
    patch_(nets.densenet_small(depths=(1, 1, 1)), example=torch.randn(2, 3, 16, 16))


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="the compiled form copies concatenations; patch_ does not"
)
def test_compiled_concatenations_are_not_copied():
    run, graphs = compiled(nn.Sequential(*[nets.densenet.DenseLayer(8 + 4 * i, 4) for i in range(3)]))
    run(torch.randn(2, 8, 8, 8)).sum().backward()
    copied = [
        node for node in graphs["forward"].graph.nodes if "aten.cat" in str(node.target) and node.meta["val"].dim() == 4
    ]
    assert len(copied) <= 1 and targets(graphs["forward"])


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="a patched ResNet-50 takes 1.1x channels_last's time")
def test_patch_leaves_models_that_channels_last_serves_better():
    assert not any(edge.applied for edge in patch_(nets.resnet50()))
