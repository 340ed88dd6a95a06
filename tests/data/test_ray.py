"""Many files on a real (local) Ray cluster."""

from __future__ import annotations

import pytest

from drivetrain import DrivetrainError
from drivetrain.data import analyze


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="ray is not installed (drivetrain[ray])")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def folder(tmp_path):
    for index in range(5):
        rows = "".join(f"{index * 100 + i},{'abc'[i % 3]}\n" for i in range(100))
        (tmp_path / f"part-{index}.csv").write_text("x,s\n" + rows)
    return tmp_path


def test_parts_on_workers_equal_the_whole(cluster, folder):
    from drivetrain.data.ray import analyze_files

    parts, whole = analyze_files(folder, parts=3, slices=["s"]), analyze(folder, slices=["s"])
    assert parts.num_examples == whole.num_examples == 500
    assert parts.features["s"].text.counts == whole.features["s"].text.counts
    assert parts.features["x"].numeric.mean == pytest.approx(249.5)
    assert parts.slices["s=a"].num_examples == whole.slices["s=a"].num_examples


def test_a_bad_file_on_a_worker_is_named(cluster, folder):
    from drivetrain.data.ray import analyze_files

    (folder / "part-9.csv").write_text("a,a\n1,2\n")
    with pytest.raises(DrivetrainError, match=r"part-9.csv:1: two columns are named 'a'"):
        analyze_files(folder)


def test_ray_data(cluster, folder):
    import ray.data

    from drivetrain.data.ray import map_batches

    stats = map_batches(ray.data.read_csv(str(folder)))
    assert stats.num_examples == 500
    assert stats.features["x"].numeric.max == 499
