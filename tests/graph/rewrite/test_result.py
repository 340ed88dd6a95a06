"""What a result tells, and that it goes to a file and comes back."""

import json
import zipfile

import pytest
import torch
from torch import nn

from drivetrain.base.errors import InvalidValue, MissingFile
from drivetrain.graph.cost import CostTable, Measured
from drivetrain.graph.lowering import to_try
from drivetrain.graph.rewrite import OptimizeResult, optimize
from drivetrain.graph.rewrite.meta import Meta
from drivetrain.graph.rewrite.optimized import same_layout
from drivetrain.graph.rewrite.price import key_of


class Fire(nn.Module):
    """Two siblings that can be merged once the smaller kernel is enlarged, as SqueezeNet's."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return self.norm(torch.cat([self.small(x), self.large(x)], 1)).relu()


IMAGE = torch.randn(1, 4, 9, 9)


def optimized(then, **options):
    return optimize(Fire().eval(), (IMAGE,), table=CostTable(None), then=then, rounds=2, **options)


def chosen(result, then):
    """The result as if a form had won the race, which on a busy machine is a matter of luck."""
    for label, _, build in result.searched:
        if label == then:
            result.module, result.then = build(), label
            result.searched.fit(result.module, (IMAGE,), {})
    return result


@pytest.mark.parametrize("then", [*to_try(), "original"])
def test_a_result_is_saved_and_loaded(then, tmp_path):
    result = chosen(optimized("eager" if then == "original" else then, cost="launches"), then)
    if then == "original":
        result.then = "original"
    path = result.save(tmp_path / "fire.opt")
    again = OptimizeResult.load(path)
    assert again.then == then and again.steps == result.steps and again.max_abs_err == result.max_abs_err
    assert again.measured == result.measured and again.cost_after == result.cost_after
    with torch.no_grad():
        one, other = result.module(IMAGE), again.module(IMAGE)
    assert torch.allclose(one, other, atol=1e-6) and same_layout(Meta.of(one), Meta.of(other))
    assert "enlarge-kernel" in again.to_html("again") or then == "original"
    assert again.program()(IMAGE).shape == (1, 16, 9, 9)


def test_bad_files_are_told(tmp_path):
    with pytest.raises(MissingFile, match="no file"):
        OptimizeResult.load(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InvalidValue, match="no saved result"):
        OptimizeResult.load(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("result.json", json.dumps({"format": 99}))
    with pytest.raises(InvalidValue, match="format 99 instead of 1"):
        OptimizeResult.load(tmp_path / "zip")


def test_steps_tell_where_and_what_was_gained():
    result = optimized("eager", cost="launches")
    steps = {step.rule: step for step in result.steps}
    assert steps["enlarge-kernel"].where[0].startswith("conv 1x1 -> [1, 8, 9, 9]")
    assert "test_result.py" in steps["enlarge-kernel"].where[0]
    assert steps["enlarge-kernel"].gains == (0.0,) and sum(steps["merge-convs"].gains) > 0
    page = result.to_html("Fire")
    assert "merge-convs" in page and "conv 1x1" in page and "result.program" not in page


def test_the_diff_shows_what_became_of_it():
    text = optimized("eager", cost="launches").diff()
    assert "--- original" in text and "-conv 1x1 -> [1, 8, 9, 9]" in text and "+conv 3x3 relu -> [1, 16, 9, 9]" in text


class Synthetic(CostTable):
    """Convolutions cost what a function of the kernel says; everything else is cheap."""

    def __init__(self, merged_us):
        super().__init__(None)
        self.merged_us = merged_us

    def time(self, key, run):
        if "drivetrain.conv" not in key:
            return Measured(0.1, 1, 0.0)
        wide = "f32[16," in key
        return Measured(self.merged_us if wide else 10.0, 1, 0.0)


@pytest.mark.parametrize(("merged_us", "taken"), [(30.0, False), (12.0, True)])
def test_enlarging_a_kernel_is_taken_only_where_measurement_says_so(merged_us, taken):
    """10 us for each convolution, 30 for the merged one: as on a CPU. 12: as where kernels start slowly."""
    model = Fire().eval()
    model.norm = nn.Identity()
    result = optimize(model, (IMAGE,), table=Synthetic(merged_us), then="eager", rounds=1, alpha=1.05)
    applied = {step.rule for step in result.steps}
    assert ({"enlarge-kernel", "merge-convs"} <= applied) is taken
    assert taken or not {"enlarge-kernel", "merge-convs"} & applied
    assert result.explored > 1


def test_keys_hold_the_layout():
    result = optimized("eager", cost="launches")
    keys = [key_of(node) for node in result.searched.forms[0].order if "conv" in str(node.op)]
    assert keys and all("cl" in key for key in keys)
