"""Draw 01-threelc.svg from benchmarks/results/01_threelc.json: loss over seconds at 20 Mbit/s, bytes of a step."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[2] / "benchmarks" / "results" / "01_threelc.json"
STYLES = (  # name of the row, of the curve, colour
    ("plain DDP", "ddp", "#7f7f7f"),
    ("fp16 hook", "fp16-hook", "#bcbd22"),
    ("PowerSGD rank 1", "powersgd:1", "#17becf"),
    ("3LC block 4096", "3lc", "#d62728"),
)


def main() -> None:
    found = json.loads(RESULT.read_text())
    rows = {row["name"]: row for row in found["rows"]}
    plt.rcParams.update({"svg.hashsalt": "drivetrain", "font.size": 9, "svg.fonttype": "path"})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.4, 3.1), layout="constrained", gridspec_kw={"width_ratios": [2, 1]}
    )
    for name, method, colour in STYLES:
        losses = found["facts"][f"losses {method}"]
        step = rows[name]["step"]["median"]
        smooth = [sum(losses[max(0, end - 10) : end]) / min(end, 10) for end in range(1, len(losses) + 1)]
        left.plot([step * (i + 1) for i in range(len(losses))], smooth, color=colour, label=name, linewidth=1.8)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_yticks((0.2, 0.5, 1, 2), ("0.2", "0.5", "1", "2"))
    left.minorticks_off()
    left.set_xlabel("seconds (150 steps; median step at 20 Mbit/s)")
    left.set_ylabel("training loss, mean of 10 steps")
    left.legend(fontsize=7, frameon=False)
    names = [name for name, *_ in STYLES]
    sizes = [rows[name]["kB_per_step"] for name in names]
    right.barh(names[::-1], sizes[::-1], color=[colour for *_, colour in STYLES][::-1])
    for place, size in enumerate(sizes[::-1]):
        right.text(size * 1.15, place, f"{size:,.0f} kB", va="center", fontsize=8)
    right.set_xscale("log")
    right.set_xlim(10, 2e5)
    right.set_xlabel("sent by a rank in a step")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    left.grid(alpha=0.25, linewidth=0.5)
    figure.savefig(HERE / "01-threelc.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
