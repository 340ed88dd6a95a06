"""Test sets, predictions, labels and legacy files: what is read, and what is refused."""

import numpy as np
import pytest
import torch

from drivetrain.ci import TestSet, predict, read_predictions
from drivetrain.ci.legacy import read_legacy
from drivetrain.ci.testset import DuplicateIds


def write(path, text):
    path.write_text(text)
    return path


def test_three_formats_read_the_same(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    ids, labels, x = [f"i{k}" for k in range(5)], [0, 2, None, 1, None], [0.5, 1.5, 2.5, 3.5, 4.5]
    rows = "".join(f"{i},{'' if label is None else label},{v}\n" for i, label, v in zip(ids, labels, x, strict=True))
    write(tmp_path / "t.csv", "id,label,x\n" + rows)
    pyarrow.parquet.write_table(pa.table({"id": ids, "label": labels, "x": x}), tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", id=np.array(ids), label=np.array([0, 2, -1, 1, -1]), x=np.array(x))
    for name in ("t.csv", "t.parquet", "t.npz"):
        found = TestSet(tmp_path / name)
        assert found.ids.tolist() == ids and found.labels.tolist() == [0, 2, -1, 1, -1] and found.pool_size == 5


def test_labels_do_not_change_the_fingerprint_features_do(tmp_path):
    def fingerprint(text):
        return TestSet(write(tmp_path / "t.csv", text)).fingerprint

    base = fingerprint("id,label,x\na,0,1\nb,,2\n")
    assert base == fingerprint("id,label,x\na,0,1\nb,1,2\n") == fingerprint("id,x\na,1\nb,2\n")
    assert len({base, fingerprint("id,label,x\na,0,1\nb,,3\n"), fingerprint("id,label,x\na,0,1\nc,,2\n")}) == 3


def test_a_torch_dataset(tmp_path):
    data = torch.utils.data.TensorDataset(torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 0, 1, 0, 1]))
    found = TestSet.from_dataset(data)
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1] and found.pool_size == 6
    other = torch.utils.data.TensorDataset(torch.arange(12.0).reshape(6, 2), torch.tensor([1, 1, 0, 1, 0, 1]))
    assert TestSet.from_dataset(other).fingerprint == found.fingerprint
    moved = torch.utils.data.TensorDataset(torch.arange(12.0).reshape(6, 2) + 1, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert TestSet.from_dataset(moved).fingerprint != found.fingerprint


def test_predict_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.9), torch.nn.Linear(8, 3))
    x = torch.randn(70, 4)
    found = predict(model, x, batch_size=16)
    assert model.training and found.dtype == np.int64
    model.eval()
    assert found.tolist() == model(x).argmax(1).tolist()
    data = torch.utils.data.TensorDataset(x, torch.zeros(70))
    assert predict(model, data, batch_size=9).tolist() == found.tolist() == predict(model, x.numpy()).tolist()
    assert not model.training
    binary = torch.nn.Linear(4, 1)
    assert predict(binary, x).tolist() == (binary(x)[:, 0] > 0).long().tolist()
    with pytest.raises(ValueError, match="NaN for item 33"):
        predict(model, torch.where(torch.arange(70)[:, None] == 33, torch.nan, x), batch_size=16)


def test_duplicate_ids_warn(tmp_path):
    with pytest.warns(DuplicateIds, match="1 ids occur more than once"):
        TestSet(write(tmp_path / "t.csv", "id,label\na,0\nb,1\na,1\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,0\nb\n", r"1 values where the header has 2\n\(t.csv, line 3\)"),
        ("name,label\na,0\n", "id column 'id' is unknown"),
        ("id,label\na,cat\n", r"row 0: label 'cat' is no integer class"),
        ("id,label\na,1.5\n", r"row 0: label '1.5'"),
        ("id,label\na,-4\n", r"row 0: label -4"),
        ("id,label\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_bad_test_sets_name_the_row(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        TestSet(write(tmp_path / "t.csv", text))


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no test set"):
        TestSet(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match=r"no .csv, .parquet, .npz file"):
        TestSet(write(tmp_path / "t.txt", "x"))
    with pytest.raises(ValueError, match="test set t.parquet"):
        TestSet(write(tmp_path / "t.parquet", "x" * 100))
    np.savez(tmp_path / "evil.npz", id=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match=r"evil.npz"):
        TestSet(tmp_path / "evil.npz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,prediction\na,0\nb,1\nz,1\n", r"id 'z' is not in the test set\n\(p.csv, line 4\)"),
        ("id,prediction\na,0\na,1\n", "stands there twice"),
        ("id,prediction\na,0\n", r"1 of 2 items\nthe first without one has id 'b'"),
        ("id,prediction\na,x\nb,1\n", "'x' is no number"),
        ("a,b\n1,2\n", "id,prediction"),
    ],
)
def test_predictions_by_id(tmp_path, text, message):
    testset = TestSet(write(tmp_path / "t.csv", "id,label\na,0\nb,1\n"))
    with pytest.raises(ValueError, match=message):
        read_predictions(write(tmp_path / "p.csv", text), testset)
    assert read_predictions(write(tmp_path / "p.csv", "id,prediction\nb,1\na,0\n"), testset).tolist() == [0, 1]


LEGACY = """ml:
  - steps      : 32
  - reliability: 0.9999
  - adaptivity : none -> someone@example.org
  - mode       : fp-free
  - script     : ./test_model.py
  - condition  : n - o > 0.02 +/- 0.01
  - email      : someone@example.org
"""


def test_legacy_yaml_by_key_in_any_order(tmp_path):
    pytest.importorskip("yaml")
    config = read_legacy(write(tmp_path / "ci.yml", LEGACY))
    assert (config.steps, config.reliability, config.adaptivity) == (32, 0.9999, "none")
    assert config.predict == "./test_model.py {out}" and config.report_to
    config = read_legacy(write(tmp_path / "ci.yml", LEGACY.replace("none -> someone@example.org", "firstChange")))
    assert config.plan().adaptivity == "first-change"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.9999", "!!python/object/apply:os.system ['touch owned']", "no tag makes objects"),
        ("steps ", "stpes ", "did you mean 'steps'"),
        ("  - mode       : fp-free\n", "", "'mode' is missing"),
        ("0.9999", "1.9999", "reliability is 1.9999"),
        ("none -> someone@example.org", "sometimes", "adaptivity 'sometimes' is unknown"),
        ("n - o >", "n * o >", "linear in n, o, d"),
        ("  - email", "  - mode : fn-free\n  - email", "'mode' stands there twice"),
        ("ml:", "nl:", "no list 'ml'"),
    ],
)
def test_bad_legacy_files(tmp_path, monkeypatch, old, new, message):
    pytest.importorskip("yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        read_legacy(write(tmp_path / "ci.yml", LEGACY.replace(old, new)))
    assert not (tmp_path / "owned").exists()
