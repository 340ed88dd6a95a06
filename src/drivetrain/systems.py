"""The register of the twenty-five systems: what each is, where it lives, and, told truthfully, whether it works.

A system works when its room is there and its card is complete; the register derives nothing from wishes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """One system of MLSys 2019.

    Attributes:
        number: its number in the cards' file names.
        title: what it is called here.
        room: the package it lives in, `drivetrain.<room>`.
        command: what to type first; empty for a library-only system.
        slug: its card is docs/systems/NN-slug.md.
        works: it is built, tested, measured and documented.
    """

    number: int
    title: str
    room: str
    command: str
    slug: str
    works: bool = False

    @property
    def card(self) -> str:
        """Path of the card in the repository."""
        return f"docs/systems/{self.number:02d}-{self.slug}.md"

    @property
    def state(self) -> str:
        """Either `works` or `not built yet`."""
        return "works" if self.works else "not built yet"


SYSTEMS: tuple[System, ...] = (
    System(1, "3LC gradient compression", "comm", "comm bench", "threelc", works=True),
    System(2, "attack transfer across compression", "audit", "audit transfer", "compress-audit"),
    System(3, "BlueConnect all-reduce", "comm", "comm plan", "blueconnect"),
    System(4, "CaTDet video cascade", "video", "video run", "catdet"),
    System(5, "PyTorch-BigGraph embeddings", "embed", "embed train", "biggraph"),
    System(6, "AggregaThor robust aggregation", "comm", "comm audit", "aggregathor", works=True),
    System(7, "P3 communication scheduling", "comm", "comm simulate", "p3"),
    System(8, "statistical CI", "ci", "ci check", "ci", works=True),
    System(9, "RLgraph", "rl", "rl train", "rlgraph"),
    System(10, "AdaComm adaptive local SGD", "comm", "comm tau", "adacomm", works=True),
    System(11, "ternary hybrid neural trees", "compress", "compress tree", "hybrid-tree"),
    System(12, "MetaFlow graph substitutions", "graph", "graph optimize", "metaflow", works=True),
    System(13, "discrete text attacks", "audit", "audit text", "text-attack"),
    System(14, "FilterForward video filters", "video", "video filter", "filterforward"),
    System(15, "DropBack pruned-budget training", "optim", "optim dropback", "dropback"),
    System(16, "federated learning at scale", "federated", "federated serve", "federated"),
    System(17, "data validation", "data", "data validate", "data-validation", works=True),
    System(18, "TicTac communication order", "comm", "comm simulate", "tictac"),
    System(19, "batch-norm restructuring", "graph", "graph bn", "batchnorm", works=True),
    System(20, "RNN serving on a spatial accelerator", "spatial", "spatial serve", "spatial-rnn"),
    System(21, "machine learning in the browser", "web", "web export", "web"),
    System(22, "YellowFin momentum tuning", "optim", "optim suggest", "yellowfin", works=True),
    System(23, "AdaScale video scaling", "video", "video scale", "adascale"),
    System(24, "staging", "graph", "graph trace", "stage", works=True),
    System(25, "FlexFlow parallelisation search", "plan", "plan search", "flexflow"),
)
