"""Statistics of a mini-batch: per channel a mean and a sum of squared differences, mergeable and reusable (spec 19, 2).

    m values per channel, mean = sum x / m, m2 = sum (x - mean)^2; variance = m2 / m, unbiased m2 / (m - 1)

Naive E[x^2] - E[x]^2 in float32 is off by 905 % at a mean of 10,000 (section 2.5); here rows are shifted by their first
value, rows are merged in float64 by Chan's formula, and m2 is a sum of squares, so it is never negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from drivetrain.base.errors import InvalidValue

from . import channels_last, kernel

ROW = 4096  # values that are summed in float32


def batch_statistics(xs: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared differences of each channel.

    Args:
        xs: [N, C, H, W], or several that stand for their concatenation along the channels; any floating dtype.

    Returns:
        mean and m2, float64 [C].
    """
    parts = [xs] if isinstance(xs, Tensor) else list(xs)
    for native in (kernel, channels_last):
        if native.fits(parts):
            return native.stats(parts)
    found = [reference_statistics(x) for x in parts]
    return torch.cat([mean for mean, _ in found]), torch.cat([m2 for _, m2 in found])


def reference_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """The plain torch version: float64 throughout, shifted by the first value of each channel."""
    flat = x.detach().transpose(0, 1).reshape(x.shape[1], -1)
    if flat.shape[1] == 0:
        zero = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        return zero, zero.clone()
    shift = flat[:, :1].double()
    moved = flat.double() - shift
    mean = moved.mean(dim=1)
    m2 = (moved - mean[:, None]).square().sum(dim=1)
    return mean + shift[:, 0], m2


def merge(first: tuple[float, Tensor, Tensor], second: tuple[float, Tensor, Tensor]) -> tuple[float, Tensor, Tensor]:
    """Two disjoint halves of a mini-batch as (count, mean, m2) -> the whole (Chan et al. 1979)."""
    (n1, mean1, m2_1), (n2, mean2, m2_2) = first, second
    n = n1 + n2
    if n == 0:
        return first
    delta = mean2 - mean1
    return n, mean1 + delta * (n2 / n), m2_1 + m2_2 + delta.square() * (n1 * n2 / n)


def synchronise(count: int, mean: Tensor, m2: Tensor, group: object = None) -> tuple[int, Tensor, Tensor]:
    """Statistics over all ranks of a group: one all-reduce of (count, sum x, sum x^2) in float64 (SyncBN)."""
    import torch.distributed as dist

    packed = torch.cat([mean.new_tensor([float(count)]), mean * count, m2 + mean.square() * count])
    dist.all_reduce(packed, group=group)
    total, sums, squares = packed[0], *packed[1:].chunk(2)
    mean = sums / total
    return int(total), mean, (squares - mean.square() * total).clamp_min(0)


def check_count(shape: Sequence[int]) -> int:
    """m, the number of values of a channel; torch's own error where a variance of one value is asked for.

    Raises:
        InvalidValue: m < 2 (also a ValueError, with torch's words).
    """
    count = int(shape[0] * shape[2] * shape[3])
    if count == 1:
        raise InvalidValue(
            f"Expected more than 1 value per channel when training, got input size torch.Size({list(shape)})"
        )
    return count


def update_running(bn: nn.BatchNorm2d, count: int, mean: Tensor, m2: Tensor) -> None:
    """What torch's BatchNorm does after a training batch: the unbiased variance, momentum=None cumulative."""
    if not bn.track_running_stats or bn.running_mean is None or bn.running_var is None:
        return
    with torch.no_grad():
        factor = bn.momentum
        if bn.num_batches_tracked is not None:
            bn.num_batches_tracked.add_(1)
            if factor is None:
                factor = 1.0 / float(bn.num_batches_tracked)
        factor = 0.0 if factor is None else factor
        bn.running_mean.mul_(1 - factor).add_(mean.to(bn.running_mean.dtype), alpha=factor)
        bn.running_var.mul_(1 - factor).add_((m2 / (count - 1)).to(bn.running_var.dtype), alpha=factor)
