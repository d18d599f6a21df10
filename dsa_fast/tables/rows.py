"""Which rows the paper's tables 3, 4 and 5 have, the configuration and the test that each one is, and its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        title: as the paper has it.
        config: name of its configuration (`configs/rows/NAME.yaml`): one training may serve several rows.
        stream: what the test vectors are: `mf`, the MF-Stream's, or `fused`, both streams'.
        branch: which branch's.
        tables: of the paper, that have the row.
        paper: mAP, Rank-1, Rank-5 and Rank-10 in the paper, per cent, on Market-1501 with a ResNet-50 of full width
            that starts from ImageNet weights; None for a row that is not the paper's.
    """

    title: str
    config: str
    stream: Literal["mf", "fused"] = "mf"
    branch: Literal["both", "global", "local"] = "both"
    tables: tuple[int, ...] = ()
    paper: tuple[float, float, float, float] | None = None

    @property
    def test(self) -> str:
        """The key of its scores among a training's."""
        return f"{self.stream}/{self.branch}"


#: Zhang et al., CVPR 2019 (https://arxiv.org/abs/1812.08967), tables 3, 4 and 5. DSA-reID's own row is "Elem-add" in 5.
PAPER_ROWS: tuple[TableRow, ...] = (
    TableRow("Baseline", "baseline", tables=(3,), paper=(76.4, 91.2, 96.5, 97.9)),
    TableRow("Baseline (RE)", "baseline_re", tables=(3,), paper=(78.6, 92.3, 97.6, 98.3)),
    TableRow("Baseline (RE+LS)", "baseline_re_ls", tables=(3, 4), paper=(81.2, 93.4, 97.8, 98.5)),
    TableRow("Baseline (Two branches)", "two_branches", tables=(3,), paper=(83.4, 94.0, 98.0, 98.7)),
    TableRow("DSA-Global (Single)", "dsa_global_single", tables=(3,), paper=(84.7, 94.8, 98.2, 98.9)),
    TableRow("DSA-Local (Single)", "dsa_local_single", tables=(3,), paper=(83.2, 94.0, 97.9, 98.6)),
    TableRow("DSA-Global (Joint)", "dsa", branch="global", tables=(3,), paper=(87.4, 95.6, 98.6, 99.1)),
    TableRow("DSA-Local (Joint)", "dsa", branch="local", tables=(3,), paper=(86.5, 95.2, 98.4, 99.0)),
    TableRow("DSA (Two streams fused)", "dsa", stream="fused", tables=(3,), paper=(87.5, 95.8, 98.4, 99.1)),
    TableRow("DSA-reID (Only MF-Stream)", "dsa", tables=(3, 4, 5), paper=(87.6, 95.7, 98.4, 99.1)),
    TableRow("CSA (Only MF-Stream)", "csa", tables=(4,), paper=(84.1, 94.1, 98.1, 98.8)),
    TableRow("Fusion: concatenation + FC", "concat", tables=(5,), paper=(81.6, 93.0, 97.6, 98.6)),
)


def rows_of(config: str) -> list[TableRow]:
    """The rows that a configuration's training serves; one that the paper does not have is tested MF-Stream only."""
    return [row for row in PAPER_ROWS if row.config == config] or [TableRow(config, config)]
