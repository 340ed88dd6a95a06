"""The rules, R1 to R15, and sets of them by name."""

from .algebra import BatchOverTime, FactorSum, Interpolate, Reassociate
from .fuse import FoldBatchNorm, FuseActivation, FuseResidual
from .group import MergeGroups, PoolAsConvolution, PoolIntoConvolution
from .merge import EnlargeKernel, MergeConvolutions, MergeMatmuls
from .residual import AbsorbResidual, AddConvolutions
from .shape import ActivateBeforePool, ActivateParts, JoinSlices, SliceOfConcatenation

RULES = (
    FoldBatchNorm(), FuseActivation(), FuseResidual(), JoinSlices(), SliceOfConcatenation(),
    MergeConvolutions(), EnlargeKernel(), MergeMatmuls(), AbsorbResidual(), AddConvolutions(),
    ActivateParts(), ActivateBeforePool(), FactorSum(), Interpolate(), Reassociate(), BatchOverTime(),
    MergeGroups(), PoolIntoConvolution(), PoolAsConvolution(),
)  # fmt: skip

__all__ = ["RULES"]
