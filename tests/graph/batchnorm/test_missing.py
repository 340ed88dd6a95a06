"""What the specification asks for and is not there yet; each turns red when it is built."""

import importlib

import pytest
import torch
from torch import nn

from drivetrain import nets

from .test_joint import compiled, targets


@pytest.mark.xfail(strict=True, raises=ModuleNotFoundError, reason="no Triton form: on a GPU the modules run")
def test_kernel_for_gpus():
    importlib.import_module("drivetrain.graph.batchnorm.triton_kernel")


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
