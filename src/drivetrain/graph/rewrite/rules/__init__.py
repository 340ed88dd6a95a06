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

_PROVED = "z3, for all real values, on programs of at most 40 values with random attributes"
_EXHAUSTED = "; without rounding, on integers, for all 1-D attributes with kernels up to 3"
_EXHAUSTIVE = ("merge-convs", "enlarge-kernel", "absorb-residual", "add-convs", "merge-groups")
for _rule in RULES:
    _rule.proof = _PROVED + (_EXHAUSTED if _rule.name in _EXHAUSTIVE else "")

__all__ = ["RULES"]
