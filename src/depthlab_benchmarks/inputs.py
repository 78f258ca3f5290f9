"""Mode input: batches made and thrown away, ours against torchvision's loader."""

from __future__ import annotations

from functools import partial

from depthlab_benchmarks.measure import Comparison, alternate
from depthlab_benchmarks.settings import Settings
from depthlab_benchmarks.sides import Side, Turn

WARMUP_STEPS = 20
LOADER = "torchvision, {} workers"
STEPS_PER_THEIRS = 10  # ours takes a tenth of the time and would be measured over moments otherwise


def compare_inputs(settings: Settings) -> list[Comparison]:
    """torchvision's loader without and with workers, and ours."""
    path, tree = settings.composed(settings.models[0])
    counts = sorted({0, settings.num_workers})
    sides = {LOADER.format(count): str(count) for count in counts} | {"ours": "ours"}
    starters = {name: partial(Side, "depthlab_benchmarks.loaders", [str(path), who]) for name, who in sides.items()}
    batch_size = tree["data"]["batch_size"]
    comparison = Comparison(f"input, {settings.data}", "images_per_second", LOADER.format(counts[-1]))

    def quantities(turn: Turn) -> dict[str, float | None]:
        seconds = turn["seconds"] / turn["steps"]
        return {"images_per_second": batch_size / seconds, "us_per_batch": 1e6 * seconds}

    def num_steps(side: str) -> int:
        return settings.steps * (STEPS_PER_THEIRS if side == "ours" else 1)

    for _ in range(settings.starts):
        alternate(starters, comparison, settings.turns, num_steps, WARMUP_STEPS, quantities)
    return [comparison]
