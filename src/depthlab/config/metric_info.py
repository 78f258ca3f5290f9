"""How a metric is read, for the tasks that declare it and for the records that describe it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """One metric.

    Args:
        title: as in tables: "error".
        unit: "%", written behind the number, or "" for none.
        better: "lower" or "higher".
        max: the largest possible value, None without one.
        chance: the value of guessing, None where it is not known.
        name: as in "test/err", without the split; a task gives it as the key under which the metric is declared.
    """

    title: str
    unit: str = ""
    better: str = "lower"
    max: float | None = None
    chance: float | None = None
    name: str = ""

    def key(self, split: str) -> str:
        """The metric's name in the record, such as "test/err"."""
        return f"{split}/{self.name}"

    def show(self, value: float | None) -> str:
        """A value with its unit, "-" where nothing was measured."""
        if value is None:
            return "-"
        return f"{self.number(value)} {self.unit}".rstrip()

    def number(self, value: float) -> str:
        """A value without its unit: two decimals in percent, four significant digits otherwise."""
        return f"{value:.2f}" if self.unit == "%" else f"{value:.4g}"

    def header(self, split: str) -> str:
        """The title of a column with values of one split, such as "test error %"."""
        return f"{split} {self.title} {self.unit}".rstrip()
