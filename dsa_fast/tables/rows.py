"""The rows of the paper's tables 3, 4 and 5, with the configuration, test and published numbers of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        title: the row's title in the paper.
        config: name of its configuration (`--config rows/NAME`). Several rows can share one training run.
        stream: source of the test vectors: `mf`, the MF-Stream, or `fused`, both streams.
        branch: branch of the test vectors.
        tables: numbers of the paper's tables that contain the row.
        paper: mAP, Rank-1, Rank-5 and Rank-10 in the paper, in percent, on Market-1501 with a full-width ResNet-50
            that starts from ImageNet weights; None for a row that is not in the paper.
    """

    title: str
    config: str
    stream: Literal["mf", "fused"] = "mf"
    branch: Literal["both", "global", "local"] = "both"
    tables: tuple[int, ...] = ()
    paper: tuple[float, float, float, float] | None = None

    @property
    def test(self) -> str:
        """Key of the row's scores in `TrainingScores.scores`."""
        return f"{self.stream}/{self.branch}"


#: Zhang et al., CVPR 2019 (https://arxiv.org/abs/1812.08967), tables 3, 4 and 5. Table 5 calls DSA-reID "Elem-add".
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
    """Returns the rows of a configuration. A configuration that is not in the paper has one row, for the MF-Stream."""
    return [row for row in PAPER_ROWS if row.config == config] or [TableRow(config, config)]
