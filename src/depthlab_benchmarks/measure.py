"""Sides that take turns, and their measurements: medians, quartiles, ratios of neighbours in time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from depthlab_benchmarks.sides import Side, Turn

Values = list[float | None]


@dataclass
class Comparison:
    """Every single measurement of some sides, by side and quantity.

    Args:
        title: what is compared, such as a network's name.
        headline: the quantity whose ratio to the reference side counts; None where sides are not compared.
        reference: the side that the others are compared with.
        sides: for each side its measurements, by quantity; equal positions were measured one after the other.
        notes: for each side, what it is.
        settings: for each side, its precision, TF32, memory format and optimiser.
    """

    title: str
    headline: str | None
    reference: str | None
    sides: dict[str, dict[str, Values]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    def add(self, side: str, **values: float | None) -> None:
        """One measurement of each of these quantities."""
        quantities = self.sides.setdefault(side, {})
        for name, value in values.items():
            quantities.setdefault(name, []).append(value)

    def ratios(self, side: str, quantity: str | None = None) -> list[float]:
        """`side` over the reference, pair by pair: what disturbs both of a pair cancels."""
        quantity = quantity or self.headline
        if quantity is None or self.reference is None or self.reference not in self.sides:
            return []
        pairs = zip(self.sides[side].get(quantity, []), self.sides[self.reference].get(quantity, []), strict=False)
        return [mine / theirs for mine, theirs in pairs if mine is not None and theirs]

    def summary(self, side: str) -> dict[str, Any]:
        """n, median and quartiles of each quantity, and of the ratio to the reference."""
        found = {name: summarize(values) for name, values in self.sides[side].items()}
        if side != self.reference and self.ratios(side):
            found["ratio"] = summarize(self.ratios(side))
        return found


def summarize(values: Sequence[float | None]) -> dict[str, Any]:
    """n, median and the two quartiles of the values."""
    known = [value for value in values if value is not None]
    if not known:
        return {"n": 0, "median": None, "quartiles": None}
    low, _, high = statistics.quantiles(known, n=4, method="inclusive") if len(known) > 1 else known * 3
    return {"n": len(known), "median": statistics.median(known), "quartiles": [low, high]}


def alternate(
    starters: Mapping[str, Callable[[], Side]],
    comparison: Comparison,
    num_turns: int,
    num_steps: Callable[[str], int],
    warmup_steps: int,
    quantities: Callable[[Turn], dict[str, float | None]],
) -> None:
    """Start each side in a fresh process, then give turns A B A B; everything measured goes into `comparison`.

    Args:
        starters: what starts each side.
        comparison: is added to.
        num_turns: turns of each side.
        num_steps: steps in a turn of a side.
        warmup_steps: of a first turn that does not count.
        quantities: what is kept of a turn.
    """
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, start in starters.items():
            sides[name] = stack.enter_context(start())
            comparison.add(name, first_step_seconds=sides[name].first_step()["first step"])
            comparison.settings[name] = sides[name].settings
        for side in sides.values():
            side.turn(warmup_steps)
        for _ in range(num_turns):
            for name, side in sides.items():
                comparison.add(name, **quantities(side.turn(num_steps(name))))
        for name, side in sides.items():
            side.close()
            comparison.add(name, peak_memory_mib=side.peak_memory_mib)
