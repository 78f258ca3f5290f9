"""The networks for torch.hub: torch.hub.load("OWNER/depthlab", "resnet56", num_classes=100).

Each entry takes the arguments of its network, `in_channels` and `num_classes` among them; initial weights are random.
`weights="FILE"` is not an argument: load a state dict with load_state_dict, or a run with depthlab.load_run.
"""

import sys
from pathlib import Path

dependencies = ["torch"]

# torch.hub puts the repository's root on the path; the package lies in src, and need not be installed.
sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from depthlab.models import (  # noqa: E402, F401 - after the path is set, and for torch.hub to find
    dense,
    densenet121,
    densenet_bc100_12,
    plain18,
    plain20,
    plain32,
    plain34,
    plain44,
    plain56,
    plain110,
    plain1202,
    plain_restorer20,
    preact_resnet18,
    preact_resnet50,
    preact_resnet110,
    preact_resnet164,
    preact_resnet1001,
    residual_restorer20,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
    resnet1202,
    resnext50_32x4d,
    two_stream_dense,
    two_stream_resnet18,
    wide_resnet16_4,
    wide_resnet28_10,
    wide_resnet40_4,
    wide_resnet50_2,
)
