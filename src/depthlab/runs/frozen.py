"""A composed configuration on disk: what a run is started from, whatever happens to configs/ meanwhile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depthlab.records.atomic_files import replacing

FOLDER = "sweep"
SEARCH, SUMMARY = "search-", "search.json"  # a search has a folder of its own in that, and its results there


def freeze(tree: Mapping[str, Any], command: str) -> Path:
    """Write a resolved configuration and its command into the sweep folder of its name; the file's path."""
    text = json.dumps({"command": command, "config": tree}, indent=2)
    folder = Path(tree["paths"]["log_dir"]) / str(tree["name"]) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
