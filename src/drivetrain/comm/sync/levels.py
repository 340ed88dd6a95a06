"""Two levels: average often inside a node, where it is cheap, and rarely between nodes (spec 10 §3, hierarchy).

Inside, parameters and buffers are averaged every `every` local steps. Between nodes, every tau steps: the node's mean
goes to its leader, the leaders average as any ranks do, and the result goes back into the nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from drivetrain.base.errors import DrivetrainError, InvalidValue

from .averager import Averager, Decide, Outcome
from .decision import DECISION, NOTE, Decision, Note
from .layout import Layout


@dataclass(frozen=True)
class Levels:
    """The groups of a rank.

    Attributes:
        inner: the ranks of its node; the first of them is the leader.
        leaders: the leaders of all nodes; on other ranks None.
        nodes: how many there are.
        every: local steps between averagings inside a node.
    """

    inner: dist.ProcessGroup
    leaders: dist.ProcessGroup | None
    nodes: int
    every: int = 1

    @classmethod
    def of_world(cls, ranks_per_node: int, every: int = 1) -> Levels:
        """Groups of the default process group's ranks, in order; every rank must call it.

        Raises:
            InvalidValue: the ranks can't be cut into nodes of that size.
        """
        world, rank = dist.get_world_size(), dist.get_rank()
        if ranks_per_node < 1 or world % ranks_per_node or every < 1:
            raise InvalidValue(
                f"comm: {world} ranks can't be cut into nodes of {ranks_per_node} that average every {every} steps",
                hint="ranks_per_node must divide the number of ranks, every is 1 or more",
            )
        firsts = list(range(0, world, ranks_per_node))
        inner = [dist.new_group(list(range(first, first + ranks_per_node))) for first in firsts]
        leaders = dist.new_group(firsts)
        return cls(inner[rank // ranks_per_node], leaders if rank in firsts else None, len(firsts), every)


class TwoLevels:
    """What `Averager` is for one group, for the ranks of several nodes.

    Args:
        layout: what is sent.
        levels: the groups.
        between: averages between the leaders; None on other ranks.
    """

    def __init__(self, layout: Layout, levels: Levels, between: Averager | None) -> None:
        self.layout, self.levels, self.between = layout, levels, between
        self.size = dist.get_world_size(levels.inner)
        self.source = dist.get_process_group_ranks(levels.inner)[0]

    def inside(self) -> None:
        """Average parameters and buffers over the node."""
        layout = self.layout
        flat = layout.flat([*layout.params, *layout.buffers])
        self._mean(flat)
        layout.set_params(layout.pieces(flat[: layout.numel], list(layout.params)))
        with torch.no_grad():
            for buffer, value in zip(layout.buffers, layout.pieces(flat[layout.numel :], layout.buffers), strict=True):
                buffer.copy_(value if buffer.is_floating_point() else value.round())

    def run(self, change: Tensor, rest: Tensor, note: Note, decide: Decide) -> Outcome:
        """As `Averager.run`; a change that is not finite takes its node out of this averaging."""
        flat = torch.cat([change, rest])
        self._mean(flat)
        note = self._node_note(note, flat)
        outcome, error = None, None
        if self.between is not None:
            try:
                outcome = self.between.run(flat[: change.numel()], flat[change.numel() :], note, decide)
                flat = torch.cat([outcome.change, outcome.rest])
            except DrivetrainError as refusal:  # the node waits for this result: refuse together
                error = refusal
        head = torch.zeros(1 + DECISION + self.levels.nodes * NOTE, device=change.device)
        if outcome is not None:
            head[1 : 1 + DECISION] = outcome.decision.tensor().to(head)
            head[1 + DECISION :] = outcome.notes.flatten().to(head)
        head[0] = float(error is not None)
        dist.broadcast(head, self.source, group=self.levels.inner)
        if error is not None:
            raise error
        if head[0]:
            raise InvalidValue("comm: the averaging between nodes was refused; the node's leader says why")
        dist.broadcast(flat, self.source, group=self.levels.inner)
        head = head.cpu()
        notes = head[1 + DECISION :].view(self.levels.nodes, NOTE)
        sent = outcome.sent if outcome is not None else 0
        decision = Decision(*head[1 : 1 + DECISION].tolist())
        return Outcome(flat[: change.numel()], flat[change.numel() :], notes, decision, sent)

    def _mean(self, flat: Tensor) -> None:
        dist.all_reduce(flat, group=self.levels.inner)
        flat /= self.size

    def _node_note(self, note: Note, flat: Tensor) -> Note:
        """The node's note: means of losses, steps and norm, the slowest rank's Y, the shortest wait's D."""
        every = torch.empty(self.size * NOTE, device=flat.device)
        dist.all_gather_into_tensor(every, note.tensor().to(flat.device), group=self.levels.inner)
        of_ranks = Note.columns(every.cpu().view(self.size, NOTE))
        node = Note(*(float(column.mean()) for column in of_ranks))
        norm = node.norm if bool(torch.isfinite(flat).all()) else math.nan
        return node._replace(y=float(of_ranks.y.max()), d=float(of_ranks.d.min()), norm=norm)
