"""The peer of 08_ci.py in an environment of its own: answers each input line with the seconds of one check.

mlflow has no three-valued decision, so this is what a user of `validate_evaluation_results` runs: accuracies of both
models from the arrays, then the thresholds on them.
"""

import contextlib
import sys
import time

import numpy as np
from mlflow import validate_evaluation_results
from mlflow.models import MetricThreshold
from mlflow.models.evaluation import EvaluationResult
from mlflow.models.evaluation.validation import ModelValidationFailedException


def check(new, old, labels):
    start = time.perf_counter()
    candidate = EvaluationResult(metrics={"accuracy_score": float(np.mean(new == labels))}, artifacts={})
    baseline = EvaluationResult(metrics={"accuracy_score": float(np.mean(old == labels))}, artifacts={})
    rule = MetricThreshold(threshold=0.85, min_absolute_change=0.02, greater_is_better=True)
    with contextlib.suppress(ModelValidationFailedException):
        validate_evaluation_results(
            candidate_result=candidate, baseline_result=baseline, validation_thresholds={"accuracy_score": rule}
        )
    return time.perf_counter() - start


if __name__ == "__main__":
    arrays = np.load(sys.argv[1])
    new, old, labels = arrays["new"], arrays["old"], arrays["labels"]
    check(new, old, labels)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(check(new, old, labels), flush=True)
