"""Draw 24-stage.svg from benchmarks/results/24_stage.json: many small operators, and what a call costs."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[2] / "benchmarks" / "results" / "24_stage.json"
OURS, PEER = "#1f77b4", "#bdbdbd"


def bars(axis, values: dict[str, float], title: str, unit: str) -> None:
    """Horizontal bars, ours coloured, the figure at their end."""
    names = list(values)
    colours = [OURS if name.startswith("drivetrain") else PEER for name in names]
    axis.barh(names, list(values.values()), color=colours)
    for place, value in enumerate(values.values()):
        axis.text(value, place, f" {value:.3g}{unit}", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.18)


def main() -> None:
    facts = json.loads(RESULT.read_text())["facts"]
    plt.rcParams.update({"svg.hashsalt": "drivetrain", "font.size": 9, "svg.fonttype": "path"})
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 2.9), layout="constrained")
    speeds = sorted(facts["leapfrog_times_eager"].items(), key=lambda item: -item[1])
    bars(axes[0], dict(speeds), f"leapfrog, {facts['leapfrog_operators']} small operators: speed to torch eager", "x")
    costs = {
        name: cost for name, cost in facts["overhead_us"].items() if name.startswith(("drivetrain", "torch.compile"))
    }
    bars(axes[1], costs, "µs that a call adds, 4 tensors", "")
    figure.savefig(HERE / "24-stage.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
