"""Draw 12-metaflow.svg from benchmarks/results/12_metaflow.json: how many times faster than eager channels last."""

import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[2] / "benchmarks" / "results" / "12_metaflow.json"
NETS = (  # name in the result file, label
    ("squeezenet", "SqueezeNet 1.0"),
    ("resnet50", "ResNet-50"),
    ("inception-v3", "Inception-v3"),
    ("densenet121", "DenseNet-121"),
    ("sru", "SRU text classifier"),
)
FORMS = (  # name, colour
    ("Inductor", "#1f77b4"),
    ("onnxruntime", "#7f7f7f"),
    ("ours", "#d62728"),
)
EAGER = "eager channels_last"


def main() -> None:
    facts = json.loads(RESULT.read_text())["facts"]
    plt.rcParams.update({"svg.hashsalt": "drivetrain", "font.size": 9, "svg.fonttype": "path"})
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.3), layout="constrained", sharey=True)
    for axis, threads in zip(axes, (1, 2), strict=True):
        for place, (name, _) in enumerate(NETS):
            found = facts.get(f"{name}, {threads} thr.")
            if found is not None:
                draw(axis, place, found)
        axis.axvline(1, color="#7f7f7f", linewidth=1)
        axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}", fontsize=9)
        axis.set_xlabel("times faster than eager channels last")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.25, linewidth=0.5)
    axes[0].set_yticks(range(len(NETS)), [label for _, label in NETS])
    axes[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for _, colour in FORMS]
    limit = plt.Line2D([], [], color="black", marker="|", linestyle="none", markersize=9)
    labels = [*(form for form, _ in FORMS), "at this machine's peak"]
    figure.legend([*handles, limit], labels, ncols=4, fontsize=8, frameon=False, loc="outside lower center")
    figure.savefig(HERE / "12-metaflow.svg", metadata={"Date": None})


def draw(axis: plt.Axes, place: int, found: dict) -> None:
    """One network's bars, and a mark where the final program's operations or weights alone would end."""
    times = found["times"]
    for shift, (form, colour) in zip((-0.27, 0.0, 0.27), FORMS, strict=True):
        if form not in times:
            continue
        ratio = statistics.median(a / b for a, b in zip(times[EAGER], times[form], strict=True))
        axis.barh(place + shift, ratio, height=0.25, color=colour)
        axis.text(ratio + 0.05, place + shift, f"{ratio:.2f}", va="center", fontsize=7)
    least = max(found["flops"] / found["peak_flops"], found["weight_bytes"] / found["peak_bytes"])
    axis.plot(statistics.median(times[EAGER]) / least, place, "|", color="black", markersize=16)


if __name__ == "__main__":
    main()
