"""Draw docs/systems/img/17-data-validation.svg from benchmarks/results/17_data_validation.json: CPU seconds and memory
by engine.

    python docs/systems/img/17_data_validation.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
RESULT = HERE.parents[2] / "benchmarks" / "results" / "17_data_validation.json"
PANELS = (("Parquet", "Parquet, 1M rows"), ("CSV", "CSV, 1M rows"), ("Parquet 10M", "Parquet, 10M rows"))
COLOURS = {"drivetrain analyze": "#0b7285", "read only": "#adb5bd"}


def main() -> None:
    """One panel for each file; bars are medians, whiskers the fastest and slowest run."""
    plt.rcParams.update({"svg.hashsalt": "17", "font.size": 9, "svg.fonttype": "none"})
    rows = json.loads(RESULT.read_text())["rows"]
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained")
    for axis, (prefix, title) in zip(axes, PANELS, strict=True):
        found = [row for row in rows if row["name"].startswith(f"{prefix} ") and "peak_MB" in row]
        found = [row for row in found if prefix != "Parquet" or not row["name"].startswith("Parquet 10M")]
        for place, row in enumerate(reversed(found)):
            name = row["name"].removeprefix(f"{prefix} ").replace(": data set scanner (CSV: open_csv)", "")
            name = name.replace(": iter_batches, the cheapest", ", cheapest").removesuffix(", one query")
            name = name.replace(", streaming, exact", "")
            cpu = row["cpu_s"]
            colour = next((c for start, c in COLOURS.items() if name.startswith(start)), "#f08c00")
            spread = [[cpu["median"] - cpu["low"]], [cpu["high"] - cpu["median"]]]
            axis.barh(place, cpu["median"], xerr=spread, color=colour, ecolor="#495057", height=0.65)
            axis.text(cpu["high"], place, f"  {row['peak_MB']} MB", va="center", fontsize=7.5, color="#495057")
            axis.text(-0.02, place, name, va="center", ha="right", transform=axis.get_yaxis_transform())
        axis.set(title=title, xlabel="CPU seconds (peak memory)", yticks=[])
        axis.margins(x=0.28)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "17-data-validation.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
