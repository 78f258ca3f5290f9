"""Modes cpu and gpu: end to end, against the plain loop. Mode overhead: against a bare loop with our mathematics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from depthlab_benchmarks.measure import Comparison, alternate
from depthlab_benchmarks.settings import FACTORS, Settings
from depthlab_benchmarks.sides import Side, Turn

LOOP = "plain loop"
BARE = "bare loop"


def compare_with_baseline(settings: Settings) -> list[Comparison]:
    """For each network: the plain loop, it with each factor alone, ours, and ours with each variant's overrides."""
    comparisons = []
    for model in settings.models:
        path, tree = settings.composed(model)
        baseline = partial(Side, "depthlab_benchmarks.baseline", [str(path), str(settings.num_workers)])
        starters: dict[str, Callable[[], Side]] = {LOOP: baseline}
        for factor in settings.factors:
            arguments = [str(path), str(settings.num_workers), factor]
            starters[f"{LOOP}, {FACTORS[factor]}"] = partial(Side, "depthlab_benchmarks.baseline", arguments)
        starters["ours"] = partial(settings.ours, model)
        for name, overrides in settings.variants.items():
            starters[f"ours, {name}"] = partial(settings.ours, model, *overrides)
        comparison = Comparison(f"{model}, {settings.data}", "images_per_second", LOOP)
        comparison.notes[LOOP] = f"torchvision, DataLoader with {settings.num_workers} workers"
        comparison.notes.update({f"ours, {name}": " ".join(typed) for name, typed in settings.variants.items()})
        comparisons.append(_measure(settings, comparison, starters, tree["data"]["batch_size"]))
    return comparisons


def compare_with_bare_loop(settings: Settings) -> list[Comparison]:
    """For each network: a bare loop and a whole run. Their difference is Lightning, meters, loggers and callbacks."""
    comparisons = []
    for model in settings.models:
        path, tree = settings.composed(model)
        starters: dict[str, Callable[[], Side]] = {
            BARE: partial(Side, "depthlab_benchmarks.bare", [str(path)]),
            "ours": partial(settings.ours, model),
        }
        comparison = Comparison(f"{model}, {settings.data}", "ms_per_step", BARE)
        comparison.notes[BARE] = "the same batches, autocast and optimiser"
        _measure(settings, comparison, starters, tree["data"]["batch_size"])
        _add_overhead(comparison)
        comparisons.append(comparison)
    return comparisons


def _measure(
    settings: Settings, comparison: Comparison, starters: dict[str, Callable[[], Side]], batch_size: int
) -> Comparison:
    quantities = partial(_quantities, batch_size=batch_size)
    for _ in range(settings.starts):
        alternate(starters, comparison, settings.turns, lambda side: settings.steps, settings.warmup_steps, quantities)
    return comparison


def _quantities(turn: Turn, batch_size: int) -> dict[str, float | None]:
    """Of one turn. Replayed steps cannot be looked into: what is outside of the network is then not known."""
    seconds, steps, network = turn["seconds"], turn["steps"], turn["spans"].get("network")
    return {
        "images_per_second": steps * batch_size / seconds,
        "ms_per_step": 1000 * seconds / steps,
        "ms_outside_network": None if network is None else 1000 * (seconds - network) / steps,
        "percent_outside_network": None if network is None else 100 * (1 - network / seconds),
        "loss": turn["loss"],
        **({"gpu_mib": turn["gpu_mib"]} if "gpu_mib" in turn else {}),
    }


def _add_overhead(comparison: Comparison) -> None:
    """Time outside the network beyond the bare loop's, which is its input: in ms, and in percent of the bare step.

    Far less noisy than the difference of two steps, most of which is the network.
    """
    ours, bare = comparison.sides["ours"], comparison.sides[BARE]
    for mine, theirs, step in zip(
        ours["ms_outside_network"], bare["ms_outside_network"], bare["ms_per_step"], strict=True
    ):
        known = None not in (mine, theirs, step)
        extra = mine - theirs if known else None  # type: ignore[operator]
        comparison.add("ours", overhead_ms=extra, overhead_percent=100 * extra / step if known else None)  # type: ignore[operator]
