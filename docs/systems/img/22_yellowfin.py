"""Draw 22-yellowfin.svg from benchmarks/results/22_yellowfin.json: loss by iteration on the two tasks."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[2] / "benchmarks" / "results" / "22_yellowfin.json"
STYLES = (  # beginning of the row's name, label, colour, width
    ("AdamW", "AdamW, best of 6 rates", "#7f7f7f", 1.4),
    ("SGD", "SGD momentum 0.9, best of 4", "#bcbd22", 1.4),
    ("Prodigy", "Prodigy, untuned", "#17becf", 1.4),
    ("YellowFin, untuned", "YellowFin, untuned", "#1f77b4", 2.2),
    ("YellowFin STEADY", "YellowFin STEADY, untuned", "#d62728", 2.2),
)
PANELS = (
    ("digits", "LeNet-5 on MNIST digits", (0.02, 0.05, 0.1, 0.2, 0.5, 1)),
    ("text", "LSTM on TinyShakespeare characters", (1.6, 1.8, 2, 2.5, 3)),
)


def main() -> None:
    facts = json.loads(RESULT.read_text())["facts"]
    plt.rcParams.update({"svg.hashsalt": "drivetrain", "font.size": 9, "svg.fonttype": "path"})
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.1), layout="constrained")
    for axis, (task, title, ticks) in zip(axes, PANELS, strict=True):
        for start, label, colour, width in STYLES:
            curve = next((v for name, v in facts.items() if name.startswith(f"curve {task}: {start}")), None)
            if curve:
                steps = [100 + 25 * place for place in range(len(curve))]
                axis.plot(steps, curve, color=colour, linewidth=width, label=label)
        axis.set_yscale("log")
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("iteration")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, which="both", linewidth=0.5)
    axes[0].set_ylabel("training loss, mean of 100 steps")
    axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(HERE / "22-yellowfin.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
