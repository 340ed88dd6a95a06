"""Draw 06-attack-table.svg from benchmarks/results/06_attack_table.json: accuracy of every rule under every attack."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[2] / "benchmarks" / "results" / "06_attack_table.json"
ORDER = (  # from none to strong resilience
    *("average", "average-nan", "cge", "centered-clipping", "geometric-median", "meamed", "phocas"),
    *("trimmed-mean", "median", "krum", "mda", "multi-krum", "bulyan"),
)


def main() -> None:
    result = json.loads(RESULT.read_text())
    rows = {row["name"]: row for row in result["rows"]}
    attacks = [key for key in rows["average"] if key != "name"]
    attacks.sort(key=lambda name: (name != "no_attack", sum(rows[rule][name] for rule in ORDER)))
    values = [[100 * rows[rule][attack] for attack in attacks] for rule in ORDER]
    stopped = {(rule, attack.replace("-", "_")) for rule, attack in result["facts"]["stopped"]}
    plt.rcParams.update({"svg.hashsalt": "drivetrain", "font.size": 9, "svg.fonttype": "path"})
    figure, axis = plt.subplots(figsize=(8.4, 4.6), layout="constrained")
    image = axis.imshow(values, cmap="RdYlGn", vmin=10, vmax=100, aspect="auto")
    for y, rule in enumerate(ORDER):
        for x, attack in enumerate(attacks):
            text = "stop" if (rule, attack) in stopped else f"{values[y][x]:.0f}"
            axis.text(x, y, text, ha="center", va="center", fontsize=7.5)
    axis.set_xticks(range(len(attacks)), [name.replace("_", " ") for name in attacks], rotation=40, ha="right")
    axis.set_yticks(range(len(ORDER)), ORDER)
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, label="test accuracy, %", shrink=0.8)
    figure.suptitle(result["setting"], fontsize=9)
    figure.savefig(HERE / "06-attack-table.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
