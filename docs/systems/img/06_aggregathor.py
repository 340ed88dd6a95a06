"""Draw 06-aggregathor.svg from benchmarks/results/06_aggregathor.json: loss over seconds on a link that loses."""

import json
from itertools import accumulate
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[2] / "benchmarks" / "results" / "06_aggregathor.json"
COLOURS = {
    "TCP, plain DDP": ("0.6", "-"),
    "TCP, Multi-Krum": ("C3", "-"),
    "UDP, Multi-Krum, mask": ("C0", "-"),
    "UDP, Multi-Krum, stale": ("C0", ":"),
    "UDP, average-nan, mask": ("C2", "-"),
}
WINDOW = 8  # steps in a running mean


def main() -> None:
    result = json.loads(RESULT.read_text())
    plt.rcParams.update({"svg.hashsalt": "drivetrain", "font.size": 9, "svg.fonttype": "path"})
    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    rows = {row["name"].partition(": ")[2]: row for row in result["rows"]}
    for name, curve in result["facts"]["curves"].items():
        colour, line = COLOURS[name]
        seconds, loss = curve["seconds"], curve["loss"][2:]
        smooth = [sum(loss[max(0, k - WINDOW + 1) : k + 1]) / len(loss[max(0, k - WINDOW + 1) : k + 1])
                  for k in range(len(loss))]  # fmt: skip
        lost = rows[name]["lost"]
        label = f"{name} ({100 * lost:.0f} % lost)" if lost else name
        axis.plot(list(accumulate(seconds)), smooth, color=colour, linestyle=line, label=label)
    axis.set_yscale("log")
    axis.set_xlabel("seconds of training")
    axis.set_ylabel("training loss of rank 0")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "06-aggregathor.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
