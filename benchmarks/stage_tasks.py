"""What benchmarks/24_stage.py measures, in operators that torch and TensorFlow (in an environment of its own) share.

`python benchmarks/stage_tasks.py` prints TensorFlow's CPU seconds per call as JSON; 24_stage.py calls it when TF_PYTHON
names an interpreter that has tensorflow.

Shapes: N samples, 2 dimensions.
"""

from __future__ import annotations

import json
import sys
import time

STEPS, SAMPLES, STEP = 10, 200, 0.1
# The precision matrix of the 2-D Gaussian with covariance [[50.05, -49.95], [-49.95, 50.05]].
PRECISION = [[5.005, 4.995], [4.995, 5.005]]


def leapfrog(x_N2, v_N2, precision_22, scale_2):
    """Ten scaled leapfrog steps and the energies at their end: 116 small operators."""
    for _ in range(STEPS):
        v_N2 = v_N2 * scale_2 - (x_N2 @ precision_22) * (STEP / 2)
        x_N2 = x_N2 * scale_2 + v_N2 * STEP
        v_N2 = v_N2 * scale_2 - (x_N2 @ precision_22) * (STEP / 2)
    return x_N2, v_N2, (v_N2 * v_N2 + x_N2 * (x_N2 @ precision_22)) * 0.5 + v_N2


def tensorflow_seconds(rounds: int = 7, calls: int = 200) -> dict[str, list[float]]:
    """CPU seconds per call: TensorFlow eagerly, as a tf.function, and compiled by XLA."""
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    draw = np.random.default_rng(0)
    x, v = (tf.constant(draw.normal(size=(SAMPLES, 2)).astype("float32")) for _ in range(2))
    rest = (tf.constant(PRECISION, tf.float32), tf.constant([0.99, 0.99], tf.float32))
    runs = {"eager": leapfrog, "tf.function": tf.function(leapfrog), "XLA": tf.function(leapfrog, jit_compile=True)}
    small = [tf.constant([1.0, 2.0]) for _ in range(4)]
    runs["overhead"] = tf.function(lambda a, b, c, d: a + b)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 1):
        for name, run in runs.items():
            args = small if name == "overhead" else (x, v, *rest)
            repeats = 10 * calls if name == "overhead" else calls
            start = time.process_time()
            for _ in range(repeats):
                run(*args)
            if round_number:  # the first round traces
                found[name].append((time.process_time() - start) / repeats)
    return found


if __name__ == "__main__":
    json.dump(tensorflow_seconds(), sys.stdout)
