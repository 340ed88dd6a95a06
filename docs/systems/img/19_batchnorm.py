"""Draw 19-batchnorm.svg from benchmarks/results/19_batchnorm.json: speed to the best peer, and what is kept."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[2] / "benchmarks" / "results" / "19_batchnorm.json"
OURS, PEER = "#1f77b4", "#bdbdbd"
FORMS = ("eager", "eager channels_last", "Inductor", "ours, compiled", "ours")


def main() -> None:
    content = json.loads(RESULT.read_text())
    facts, rows = content["facts"], {row["name"]: row for row in content["rows"]}
    cases = [name.removesuffix("_times_the_best_peer") for name in facts if name.endswith("_times_the_best_peer")]
    plt.rcParams.update({"svg.hashsalt": "drivetrain", "font.size": 9, "svg.fonttype": "path"})
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.4), layout="constrained")
    names, speeds, kept = [], [], []
    for case in cases:
        for form in FORMS:
            if form in facts[f"{case}_times_the_best_peer"]:
                names.append(f"{case}: {form}")
                speeds.append(facts[f"{case}_times_the_best_peer"][form])
                kept.append(rows[f"{case}: {form}"]["activations_MB"] / rows[f"{case}: eager"]["activations_MB"])
    colours = [OURS if ": ours" in name else PEER for name in names]
    for axis, values, title in (
        (axes[0], speeds, "training step: speed to the best peer"),
        (axes[1], kept, "kept for the backward, of eager's"),
    ):
        axis.barh(names, values, color=colours)
        axis.axvline(1, color="#444444", linewidth=0.6)
        for place, value in enumerate(values):
            axis.text(value, place, f" {value:.2f}", va="center", fontsize=7)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.14)
    axes[1].set_yticklabels([])
    figure.savefig(HERE / "19-batchnorm.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
