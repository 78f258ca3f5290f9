"""A composed configuration is kept as it was when a sweep was launched."""

from __future__ import annotations

import json
from pathlib import Path

from depthlab.runs.frozen import freeze


def test_what_is_frozen_is_the_configuration_and_its_command(tmp_path: Path) -> None:
    tree = {"name": "sweep-1", "seed": 3, "paths": {"log_dir": str(tmp_path)}}
    path = freeze(tree, "python train.py seed=3")
    assert path.is_relative_to(tmp_path / "sweep-1")
    assert json.loads(path.read_text()) == {"command": "python train.py seed=3", "config": tree}
    assert freeze(tree, "python train.py seed=3") == path
    assert freeze({**tree, "seed": 4}, "python train.py seed=3") != path
