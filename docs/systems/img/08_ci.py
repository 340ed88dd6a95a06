"""Draw 08-ci.svg from benchmarks/results/08_ci.json: labels asked for, as a share of the paper's plain bound."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[2] / "benchmarks" / "results" / "08_ci.json"
ROWS = (  # beginning of the fact's name, label
    ("F1 any accuracy (exact)", "n > A, any A (paper's exact bound)"),
    ("F1 n > 0.5", "n > 0.5"),
    ("F1 n > 0.7", "n > 0.7"),
    ("F1 n > 0.8", "n > 0.8"),
    ("F2 n - o > 0.02,", "n - o > 0.02"),
    ("F2 n - o > 0.02 and d", "n - o > 0.02 and d < 0.1"),
)
KINDS = (("none", "no feedback", "#1f77b4", -0.16), ("full", "full feedback", "#d62728", 0.16))


def main() -> None:
    facts = json.loads(RESULT.read_text())["facts"]
    plt.rcParams.update({"svg.hashsalt": "drivetrain", "font.size": 9, "svg.fonttype": "path"})
    figure, axis = plt.subplots(figsize=(8.4, 3.2), layout="constrained")
    for ending, label, colour, shift in KINDS:
        for place, (start, _) in enumerate(ROWS):
            found = next(v for name, v in facts.items() if name.startswith(start) and name.endswith(f", {ending}"))
            height = place + shift
            axis.plot([found["low"], found["high"]], [height, height], color=colour, linewidth=3, alpha=0.35)
            axis.plot(found["median"], height, "o", color=colour, markersize=5, label=None if place else label)
            axis.annotate(
                f"{found['median']:.2f}", (found["high"], height), (5, -3), textcoords="offset points", fontsize=7
            )
    axis.axvline(1, color="#7f7f7f", linewidth=1)
    axis.set_yticks(range(len(ROWS)), [label for _, label in ROWS])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.05)
    label = "labels as a share of the plain (Hoeffding) bound: median and range over the 16-cell grid"
    figure.supxlabel(label, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.25, linewidth=0.5)
    axis.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(0.93, 0.02))
    figure.savefig(HERE / "08-ci.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
