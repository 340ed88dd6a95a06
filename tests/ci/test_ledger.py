"""The ledger: steps, alarm, idempotence, tampering, and that an error uses nothing."""

import json
import multiprocessing

import numpy as np
import pytest

from drivetrain.ci import Ledger, LedgerError, TestSetSpent, Verdict, plan
from drivetrain.ci.ledger import digest_of

TEXT = "n > 0.8 +/- 0.05"
PASS = Verdict(True, True, ())
FAIL = Verdict(False, False, ())


def registered(path, **changes):
    ledger = Ledger(path)
    terms = {"reliability": 0.99, "steps": 4, "adaptivity": "full", "mode": "fp-free", **changes}
    ledger.register("f" * 64, TEXT, **terms)
    return ledger


def test_life_of_a_test_set(tmp_path):
    ledger = registered(tmp_path / "l.jsonl")
    for step in range(1, 5):
        assert ledger.alarm is None and ledger.remaining == 5 - step
        entry = ledger.record(f"c{step}", PASS if step == 2 else FAIL, predictions=np.arange(step))
        assert entry.step == step
    assert ledger.alarm == "all 4 steps of the test set are used" and ledger.accepted == "c2"
    with pytest.raises(TestSetSpent) as spent:
        ledger.record("c5", PASS, predictions=np.arange(9))
    assert spent.value.exit_code == 3
    ledger.register("e" * 64, TEXT, reliability=0.99, steps=4, adaptivity="full")
    assert ledger.remaining == 4 and ledger.accepted == "c2"
    assert ledger.verify() == 6


@pytest.mark.parametrize(("adaptivity", "passes"), [("first-change", 1), ("passes:2", 2)])
def test_the_set_retires_at_its_last_pass(tmp_path, adaptivity, passes):
    ledger = registered(tmp_path / "l.jsonl", adaptivity=adaptivity)
    for k in range(passes):
        assert ledger.alarm is None
        ledger.record(f"c{k}", PASS, predictions=np.arange(k))
    assert "retired at its" in ledger.alarm and ledger.remaining == 0


def test_a_commit_is_decided_once(tmp_path):
    ledger = registered(tmp_path / "l.jsonl")
    first = ledger.record("c1", FAIL, predictions=np.arange(5))
    before = ledger.path.read_bytes()
    again = ledger.record("c1", PASS, predictions=np.arange(5, dtype=np.int32))
    assert again.repeated and not first.repeated and again.passed is False
    with pytest.raises(LedgerError, match="c1 was decided with other predictions"):
        ledger.record("c1", PASS, predictions=np.arange(6))
    assert ledger.path.read_bytes() == before


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_an_edited_line_is_named(tmp_path, line):
    ledger = registered(tmp_path / "l.jsonl")
    for k in range(3):
        ledger.record(f"c{k}", FAIL, predictions=np.arange(k))
    lines = ledger.path.read_text().splitlines()
    lines[line - 1] = lines[line - 1].replace('"reliability":0.99', '"reliability":0.98')
    ledger.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(LedgerError, match=f"line {line} is broken"):
        ledger.verify()
    with pytest.raises(LedgerError, match=f"line {line} is broken"):
        Ledger(ledger.path)


def test_a_removed_doubled_or_garbled_line_is_found(tmp_path):
    ledger = registered(tmp_path / "l.jsonl")
    for k in range(3):
        ledger.record(f"c{k}", FAIL, predictions=np.arange(k))
    lines = ledger.path.read_text().splitlines()
    for bad, named in (([*lines[:2], lines[3]], 3), ([*lines[:2], lines[1], *lines[2:]], 3), ([*lines[:3], "{"], 4)):
        ledger.path.write_text("\n".join(bad) + "\n")
        with pytest.raises(LedgerError, match=f"line {named} is broken"):
            ledger.verify()


def test_a_line_holds_what_the_spec_lists(tmp_path):
    ledger = registered(tmp_path / "l.jsonl")
    ledger.record("c1", PASS, predictions=np.arange(3))
    line = json.loads(ledger.path.read_text().splitlines()[-1])
    assert set(line) >= {
        "v", "step", "commit", "time", "testset", "condition", "reliability", "mode", "adaptivity", "H", "pred", "d",
        "outcome", "passed", "labels_used", "prev",
    }  # fmt: skip
    assert line["pred"] == digest_of(np.arange(3)) and line["outcome"] == "TRUE"


def test_hidden_verdicts_are_not_in_the_ledger(tmp_path):
    texts = []
    for name, verdict in (("a", PASS), ("b", FAIL)):
        ledger = registered(tmp_path / f"{name}.jsonl", adaptivity="none")
        ledger.record("c1", verdict, predictions=np.arange(3))
        line = json.loads(ledger.path.read_text().splitlines()[-1])
        texts.append({key: value for key, value in line.items() if key not in ("time", "prev", "sha")})
        assert ledger.accepted == "c1" and ledger.passes == 0
    assert texts[0] == texts[1] and texts[0]["outcome"] is None and texts[0]["passed"] is None


def test_other_terms_or_another_set_are_refused(tmp_path):
    ledger = registered(tmp_path / "l.jsonl")
    good = plan(TEXT, reliability=0.99, steps=4, adaptivity="full")
    ledger.check("f" * 64, good)
    with pytest.raises(LedgerError, match="changed mid-life: fingerprint eeeeeeeeeeee, registered ffffffffffff"):
        ledger.check("e" * 64, good)
    for change, named in (
        ({"reliability": 0.999}, "reliability is 0.999"), ({"steps": 5}, "steps is 5"), ({"mode": "fn-free"}, "mode"),
        ({"adaptivity": "none"}, "adaptivity is 'none'"),
    ):  # fmt: skip
        with pytest.raises(LedgerError, match=named):
            ledger.check("f" * 64, plan(TEXT, **{"reliability": 0.99, "steps": 4, "adaptivity": "full", **change}))


def test_a_used_set_cannot_be_registered_anew(tmp_path):
    ledger = registered(tmp_path / "l.jsonl")
    ledger.record("c1", FAIL, predictions=np.arange(3))
    with pytest.raises(LedgerError, match="was used before, and H changed since"):
        ledger.register("f" * 64, TEXT, reliability=0.99, steps=40, adaptivity="full")
    ledger.register("e" * 64, TEXT, reliability=0.99, steps=4, adaptivity="full")
    with pytest.raises(LedgerError, match="was used before"):
        ledger.register("f" * 64, TEXT, reliability=0.99, steps=4, adaptivity="full")


def test_an_undecided_verdict_is_not_recorded(tmp_path):
    ledger = registered(tmp_path / "l.jsonl")
    before = ledger.path.read_bytes()
    with pytest.raises(ValueError, match="2 labels are missing"):
        ledger.record("c1", Verdict(None, False, (), needs_labels=np.array([3, 4])), predictions=np.arange(3))
    assert ledger.path.read_bytes() == before and ledger.remaining == 4


def test_a_failed_write_leaves_the_ledger_as_it_was(tmp_path, monkeypatch):
    ledger = registered(tmp_path / "l.jsonl")
    before = ledger.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(Exception, match="no space left"):
        ledger.record("c1", PASS, predictions=np.arange(3))
    monkeypatch.undo()
    assert ledger.path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l.jsonl", "l.jsonl.lock"]


def _record(path, name):
    Ledger(path).record(name, FAIL, predictions=np.arange(3))


def test_two_processes_at_once_lose_no_line(tmp_path):
    ledger = registered(tmp_path / "l.jsonl", steps=12)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_record, args=(ledger.path, f"c{k}")) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ledger.reload()
    assert sorted(entry.commit for entry in ledger.entries) == [f"c{k}" for k in range(8)]
    assert [entry.step for entry in ledger.entries] == list(range(1, 9)) and ledger.verify() == 9
