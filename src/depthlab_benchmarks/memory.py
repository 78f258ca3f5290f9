"""Mode memory: the most memory that training steps need, with every activation kept and with stages recomputed."""

from __future__ import annotations

from depthlab_benchmarks.measure import Comparison
from depthlab_benchmarks.recipe import compose, write_config
from depthlab_benchmarks.settings import Settings
from depthlab_benchmarks.sides import Side

KEPT, RECOMPUTED = "kept", "recomputed"


def compare_memory(settings: Settings) -> list[Comparison]:
    """For each network: real steps of a bare loop in two fresh processes, one after the other.

    The system kills a process that needs more memory than the machine has, and the benchmark fails: measure such a
    network with `--override model.activation_checkpointing=true` for both, or a smaller batch.
    """
    comparisons = []
    for model in settings.models:
        comparison = Comparison(f"{model}, {settings.data}", "peak_memory_mib", KEPT)
        for name, value in ((KEPT, "false"), (RECOMPUTED, "true")):
            comparison.notes[name] = f"model.activation_checkpointing={value}"
            _measure(settings, model, name, comparison)
        comparisons.append(comparison)
    return comparisons


def _measure(settings: Settings, model: str, name: str, comparison: Comparison) -> None:
    tree = compose([comparison.notes[name], *settings.recipe(model)])
    path = write_config(tree, settings.folder)
    for _ in range(settings.starts):
        with Side("depthlab_benchmarks.bare", [str(path)]) as side:
            side.first_step()
            comparison.settings[name] = side.settings
            turn = side.turn(settings.steps)
        comparison.add(
            name,
            peak_memory_mib=side.peak_memory_mib,
            gpu_mib=turn.get("gpu_mib"),
            ms_per_step=1000 * turn["seconds"] / turn["steps"],
            loss=turn["loss"],
        )
