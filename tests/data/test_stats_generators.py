"""Optional statistics against closed forms; all merge and can be saved."""

from __future__ import annotations

import numpy as np
import pytest

from drivetrain.data import Stats, analyze
from drivetrain.data.generators import CrossFeatures, Image, Language, Lift, MutualInformation, Paired, Time


def split_and_whole(rows, generators, tmp_path):
    """The same statistics from the whole and from two saved halves."""
    whole = analyze(rows, generators=generators)
    half = len(rows) // 3
    for index, part in enumerate((rows[:half], rows[half:])):
        analyze(part, generators=generators).save(tmp_path / f"{index}.json")
    return whole, Stats.load(tmp_path / "0.json") | Stats.load(tmp_path / "1.json")


def test_language(tmp_path):
    rows = [{"t": "the cat sat"}, {"t": "the the dog"}, {"t": "<pad> bird"}, {"t": None}]
    request = Language("t", vocabulary=["the", "cat", "dog"], tokens=["the"], excluded=["<pad>"])
    for stats in split_and_whole(rows, [request], tmp_path):
        language = stats.features["t"].extras["language"]
        assert language.coverage == pytest.approx(5 / 7)
        assert language.avg_token_length == pytest.approx((3 + 3 + 3 + 3 + 3 + 3 + 4) / 7)
        assert language.occurrences("the") == (0, 1.0, 2)
        assert language.fraction("the") == pytest.approx(2 / 3)
        assert (language.min_length, language.max_length) == (2, 3)


def test_image(tmp_path):
    rows = [
        {"i": b"\xff\xd8\xff" + b"0" * 100},
        {"i": b"\x89PNG\r\n\x1a\n1"},
        {"i": b"nothing"},
        {"i": b"RIFF0000WEBP"},
    ]
    for stats in split_and_whole(rows, [Image("i")], tmp_path):
        image = stats.features["i"].extras["image"]
        assert image.formats == {"jpeg": 1, "png": 1, "unknown": 1, "webp": 1}
        assert (image.supported_fraction, image.max_num_bytes) == (0.75, 103)


def test_time(tmp_path):
    rows = [{"d": "2024-02-29"}, {"d": "2024-03-01"}, {"d": "2023-12-31"}]
    for stats in split_and_whole(rows, [Time("d")], tmp_path):
        assert stats.features["d"].extras["time"].format == "%Y-%m-%d"
    assert analyze([*rows, {"d": "2023-02-29"}], generators=[Time("d")]).features["d"].extras["time"].format is None


def test_cross_features(tmp_path):
    rng = np.random.default_rng(0)
    x = 1e6 + rng.normal(size=999)
    y = 2 * x + rng.normal(size=999)
    rows = [{"x": a, "y": b if i % 5 else None} for i, (a, b) in enumerate(zip(x, y, strict=True))]
    keep = np.arange(999) % 5 != 0
    for stats in split_and_whole(rows, [CrossFeatures()], tmp_path):
        cross = stats.extras["cross"]
        assert cross.correlation("x", "y") == pytest.approx(np.corrcoef(x[keep], y[keep])[0, 1], rel=1e-9)
        assert cross.covariance("y", "x") == pytest.approx(np.cov(x[keep], y[keep], ddof=0)[0, 1], rel=1e-9)


def test_lift(tmp_path):
    rows = [{"x": "a", "y": 1}] * 30 + [{"x": "a", "y": 0}] * 10 + [{"x": "b", "y": 0}] * 60
    for stats in split_and_whole(rows, [Lift("x", "y")], tmp_path):
        lift = stats.extras["lift of x on y"]
        assert lift.lift("a", 1) == pytest.approx((30 / 40) / (30 / 100))
        assert lift.lift("b", 1) == 0.0


def test_mutual_information(tmp_path):
    rng = np.random.default_rng(1)
    label = rng.integers(0, 4, 6_000)
    rows = [
        {"label": int(v), "same": int(v) + 10, "noise": float(n), "half": int(v) // 2}
        for v, n in zip(label, rng.random(6_000), strict=True)
    ]
    for stats in split_and_whole(rows, [MutualInformation("label")], tmp_path):
        bits = stats.extras["mutual information with label"].all
        assert list(bits)[:2] == ["same", "half"]
        assert bits["same"] == pytest.approx(2.0, abs=0.01), "four equally frequent labels"
        assert bits["half"] == pytest.approx(1.0, abs=0.01)
        # 10 bins x 4 labels: 27 degrees of freedom, so 2 n ln2 MI ~ chi²(27): the corrected estimate is within 0.006.
        assert bits["noise"] < 0.006


def test_paired_columns(tmp_path):
    rows = [
        {"v": [1.0, 2.0], "i": [0, 5]},
        {"v": [1.0], "i": None},
        {"v": None, "i": [1]},
        {"v": [1.0, 2.0], "i": [3]},
    ]
    for stats in split_and_whole(rows, [Paired("s", "v", ("i",))], tmp_path):
        paired = stats.extras["paired s"]
        assert paired.missing_value == 1
        assert paired.missing_partner == {"i": 1}
        assert paired.length_mismatch == {"i": 1}


def test_a_schema_asks_for_what_its_domains_need():
    from drivetrain.data.domains import ImageDomain, IntDomain, TextDomain
    from drivetrain.data.schema import Feature, Schema, SparseFeature

    schema = Schema(
        {
            "t": Feature("t", type="string", domain=TextDomain()),
            "i": Feature("i", type="bytes", domain=ImageDomain()),
            "k": Feature("k", type="int", domain=IntDomain(categorical=True)),
        },
        sparse={"s": SparseFeature("s", ["k"], "t")},
    )
    stats = analyze([{"t": "a b", "i": b"BM", "k": 3}, {"t": "c", "i": b"BM", "k": 3}], schema=schema)
    assert stats.features["t"].extras["language"].num_tokens == 3
    assert stats.features["i"].extras["image"].formats == {"bmp": 2}
    assert stats.features["k"].text.counts == {"3": 2}
    assert stats.features["k"].type == "int"
    assert stats.extras["paired s"].num_examples == 2
