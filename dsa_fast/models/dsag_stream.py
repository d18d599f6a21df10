"""The DSAG-Stream: guides training with densely semantically aligned part images (paper, section 3.2.1, table 1)."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from dsa_fast.densepose.parts import MERGE_13_TO_8, MERGE_24_TO_13, NUM_PARTS
from dsa_fast.models.backbone import fast_layout, make_stage, pool, scaled
from dsa_fast.models.branches import BranchBasicBlock, BranchConv2d, MergeBranches, make_branch_stage
from dsa_fast.models.mf_stream import NUM_LOCAL, Branches, Features, check_branches, split_parts


class DSAGStream(nn.Module):
    """The 24 unwarped part images -> global and part features, in the MF-Stream's shapes.

    It has three levels of separate branches with ResNet-18's basic blocks (channels at width 1, sizes for S = 32):

    ======== ============================== ========= ========
    layer    channels                       size      branches
    ======== ============================== ========= ========
    conv1    5x5, 32 (batch norm, ReLU)     32 x 32   24
    conv2    3x3, 64 (batch norm, ReLU)     32 x 32   24
    conv3_x  2 basic blocks of 64           16 x 16   24
    merge    left + right                             24 -> 13
    conv4_x  2 basic blocks of 128          8 x 8     13
    merge    back + front                             13 -> 8
    conv5_g  2 basic blocks of global_dim   8 x 8     1 (reads all 8 x 128 channels)
    conv5_l  2 basic blocks of local_dim    8 x 8     8
    ======== ============================== ========= ========

    Args:
        width: scales the channel counts of conv1 to conv4_x (to multiples of 8, at least 8).
        global_dim: length of the global feature; the MF-Stream's.
        local_dim: length of each local feature; the MF-Stream's.
        branches: branches of the head to build: global, local or both.

    Raises:
        ValueError: unknown branches, or a width that is not above 0.
    """

    def __init__(
        self, *, width: float = 1.0, global_dim: int = 2048, local_dim: int = 256, branches: Branches = "both"
    ) -> None:
        super().__init__()
        check_branches(branches)
        c1, c2, c3, c4 = (scaled(c, width) for c in (32, 64, 64, 128))
        self.conv1 = BranchConv2d(NUM_PARTS, 3, c1, 5)
        self.bn1 = nn.BatchNorm2d(NUM_PARTS * c1)
        self.conv2 = BranchConv2d(NUM_PARTS, c1, c2, 3)
        self.bn2 = nn.BatchNorm2d(NUM_PARTS * c2)
        self.relu = nn.ReLU(inplace=True)
        self.conv3 = make_branch_stage(BranchBasicBlock, NUM_PARTS, c2, c3, 2, stride=2)
        self.merge_left_right = MergeBranches([[part - 1 for part in group] for group in MERGE_24_TO_13])
        self.conv4 = make_branch_stage(BranchBasicBlock, self.merge_left_right.out_branches, c3, c4, 2, stride=2)
        self.merge_back_front = MergeBranches(MERGE_13_TO_8)
        self.conv5_g: nn.Sequential | None = None
        self.conv5_l: nn.Sequential | None = None
        if branches != "local":
            self.conv5_g = make_stage(BasicBlock, NUM_LOCAL * c4, global_dim, 2, stride=1)
        if branches != "global":
            self.conv5_l = make_branch_stage(BranchBasicBlock, NUM_LOCAL, c4, local_dim, 2)

    def forward(self, dsap: Tensor) -> Features:
        """Part images [B, 24, 3, S, S], normalized float (0 is the mean color) -> features, float32.

        S is 32 in the paper. S must be at least 4.
        """
        x = fast_layout(dsap.flatten(1, 2))
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.merge_left_right(self.conv3(x))
        x = self.merge_back_front(self.conv4(x))
        whole = None if self.conv5_g is None else pool(self.conv5_g(fast_layout(x, wide=True)))
        local = None if self.conv5_l is None else split_parts(pool(self.conv5_l(x)))
        return Features(whole, local)
