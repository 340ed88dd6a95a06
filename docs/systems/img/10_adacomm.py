"""Draw 10-adacomm.svg from benchmarks/results/10_adacomm.json: loss and period over seconds on links of 20 Mbit/s."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[2] / "benchmarks" / "results" / "10_adacomm.json"
STYLES = (  # method, label, colour, width
    ("plain DDP", "plain DDP", "#7f7f7f", 1.4),
    ("PostLocalSGD 8", "PostLocalSGD, period 8", "#bcbd22", 1.4),
    ("fixed:20", "fixed period 20", "#17becf", 1.4),
    ("adacomm:tau0=20,interval_s=1", "AdaComm", "#1f77b4", 2.0),
    ("marginal", "marginal (default)", "#d62728", 2.0),
    ("marginal +3LC", "marginal + 3LC", "#9467bd", 2.0),
)
PANELS = (("mlp 20mbit", "MLP on digits, 20 Mbit/s"), ("cnn 20mbit", "CNN on MNIST, 20 Mbit/s"))


def main() -> None:
    facts = json.loads(RESULT.read_text())["facts"]
    plt.rcParams.update({"svg.hashsalt": "drivetrain", "font.size": 9, "svg.fonttype": "path"})
    panels = [panel for panel in PANELS if f"curves, {panel[0]}" in facts]
    figure, axes = plt.subplots(
        2, len(panels), figsize=(4.2 * max(len(panels), 1.5), 4.6), layout="constrained", sharex="col", squeeze=False,
        gridspec_kw={"height_ratios": (3, 1.4)},
    )  # fmt: skip
    for (part, title), (above, below) in zip(panels, axes.T, strict=True):
        curves, periods = facts[f"curves, {part}"], facts[f"periods, {part}"]
        for method, label, colour, width in STYLES:
            _, seconds, losses = zip(*curves[method][1:], strict=True)
            above.plot(seconds, losses, color=colour, linewidth=width, label=label)
            if method in periods:
                at, taus = zip(*periods[method], strict=True)
                below.step(at, taus, color=colour, linewidth=width, where="post")
        above.set_title(f"{title}, D/Y = {facts[f'alpha, {part}']:.1f}", fontsize=9)
        above.set_yscale("log")
        below.set_yscale("log")
        below.set_xscale("log")
        below.set_xlabel("seconds")
        for axis in (above, below):
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(alpha=0.25, which="both", linewidth=0.5)
    axes[0][0].set_ylabel("training loss")
    axes[1][0].set_ylabel("tau")
    axes[0][0].legend(fontsize=7, frameon=False, loc="lower left")
    figure.savefig(HERE / "10-adacomm.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
