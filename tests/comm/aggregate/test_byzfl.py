"""Agreement with ByzFL 0.0.11 on its own definitions, by numbers that it printed (it computes in float32)."""

import pytest
import torch

from drivetrain.comm.aggregate import ARC, NNM, CenteredClipping, Clip, Krum, MultiKrum, Rule, get
from drivetrain.comm.aggregate.rule import Round


def gradients(n: int, d: int = 4) -> torch.Tensor:
    g = torch.tensor([[(i * 37 + j * 17 + (i * j) % 7 * 11) % 29 / 29 for j in range(d)] for i in range(n)])
    g[-2] += 4
    g[-1] -= 3
    return g


def rules(n: int) -> dict[str, Rule]:
    return {
        "krum": Krum.byzfl(n, 2),
        "multi-krum": MultiKrum.byzfl(n, 2),
        "trimmed-mean": get("trimmed-mean"),
        "median": get("median"),
        "meamed": get("meamed"),
        "mda": get("mda"),
        "centered-clipping": CenteredClipping(radius=1.5, previous=torch.zeros(4)),
    }


PRINTED = {
    (8, "krum"): [0.551724136, 0.896551728, 0.241379306, 0.586206913],
    (8, "multi-krum"): [0.356321841, 0.557471275, 0.3735632, 0.522988498],
    (8, "trimmed-mean"): [0.327586204, 0.560344815, 0.344827592, 0.551724136],
    (8, "median"): [0.327586204, 0.568965554, 0.258620679, 0.551724136],
    (8, "meamed"): [0.356321841, 0.557471216, 0.3735632, 0.522988498],
    (8, "mda"): [0.356321812, 0.557471275, 0.3735632, 0.522988498],
    (8, "centered-clipping"): [0.281011343, 0.413346976, 0.26375407, 0.402297735],
    (9, "krum"): [0.37931034, 0.862068951, 0.689655185, 0.517241359],
    (9, "multi-krum"): [0.399014771, 0.551724136, 0.423645318, 0.581280768],
    (9, "trimmed-mean"): [0.393103451, 0.551724136, 0.413793087, 0.593103468],
    (9, "median"): [0.37931034, 0.551724136, 0.275862068, 0.586206913],
    (9, "meamed"): [0.399014771, 0.551724076, 0.423645288, 0.581280768],
    (9, "mda"): [0.399014741, 0.551724136, 0.423645288, 0.581280768],
    (9, "centered-clipping"): [0.318444371, 0.428663403, 0.320491612, 0.452775598],
}


@pytest.mark.parametrize("n, name", PRINTED)
def test_rules(n, name):
    assert rules(n)[name](gradients(n), 2).tolist() == pytest.approx(PRINTED[n, name], abs=2e-7)


def prepared(part, n):
    g = gradients(n)
    return part.prepare(Round(g, 2))[0].g


def test_nearest_neighbour_mixing():
    mixed = prepared(NNM(), 8)
    assert mixed[0].tolist() == pytest.approx([0.356321841, 0.557471275, 0.3735632, 0.522988558], abs=2e-7)
    assert mixed[6].tolist() == pytest.approx([1.086206794, 1.270115018, 1.12643683, 1.316092014], abs=3e-7)
    assert mixed[7].tolist() == pytest.approx([-0.051724117, 1e-08, -0.224137917, 0.051724136], abs=2e-7)


def test_adaptive_clipping():
    """n=8, f=2: floor(2 * 2 * 6 / 8) = 3 vectors are shortened."""
    clipped, before = prepared(ARC(), 8), gradients(8)
    assert torch.equal(clipped[:5], before[:5])
    assert clipped[5].tolist() == pytest.approx([0.365071386, 0.829707682, 0.663766146, 0.497824609], abs=2e-7)
    assert clipped[7].tolist() == pytest.approx([-0.517126799, -0.620552182, -0.723977566, -0.577458322], abs=2e-7)


def test_clipping():
    clipped = prepared(Clip(2.0), 9)
    assert clipped[7].tolist() == pytest.approx([1.078922749, 0.98838377, 0.897844791, 1.026108384], abs=2e-7)
    assert torch.equal(clipped[:7], gradients(9)[:7])
