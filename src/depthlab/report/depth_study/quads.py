"""From the groups of a setting to the four networks that the claims compare, one recipe at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from depthlab.report.core.comparisons import number
from depthlab.report.core.groups import Group, Setting, describe, differing_keys
from depthlab.report.core.statistics import Difference, combine
from depthlab.report.depth_study.claims import TEST_CLAIM, Cell, Claim, Quad, decide_in_sequence
from depthlab.report.depth_study.image_variance import is_small_test_set, two_way

TRAIN, TEST = "train/err", "test/err"
RESIDUAL = "residual"
RUNS_ALONE = (
    f"The interval of “{TEST_CLAIM}” covers the runs alone and not the choice of test images: a run diverged, or its "
    "predictions are missing or are not those of the recorded error."
)


@dataclass(frozen=True)
class Recipe:
    """The plain and the residual networks of one recipe by depth; `label` says what sets it apart, if anything."""

    label: str
    plain: tuple[Group, ...]
    residual: tuple[Group, ...]

    @property
    def ends(self) -> tuple[int, int] | None:
        """The shallowest and the deepest depth that has both kinds; None where there are not two."""
        depths = sorted({group.depth for group in self.plain} & {group.depth for group in self.residual})
        return (depths[0], depths[-1]) if len(depths) > 1 else None


@dataclass(frozen=True)
class Judgement:
    """The claims of one recipe, with the trend over all its depths, and notes."""

    label: str
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]


def judge_setting(setting: Setting, by_name: bool = False) -> list[Judgement]:
    """The claims for each recipe of a setting that has two depths of both kinds; none where there is no such recipe.

    Args:
        setting: the groups.
        by_name: call the networks by their names alone, because the recipe is named beside the claims.
    """
    recipes = find_recipes(setting)
    judged = [_named(recipe) if by_name else recipe for recipe in recipes if recipe.ends]
    others = [recipe for recipe in recipes if not recipe.ends]
    return [_judge(recipe, others if recipe is judged[0] else []) for recipe in judged]


def find_recipes(setting: Setting) -> list[Recipe]:
    """The setting's recipes: groups whose configuration differs in the network alone."""
    kinds = setting.kinds()
    name = RESIDUAL if RESIDUAL in kinds else next((kind for kind in kinds if kind.startswith(RESIDUAL)), RESIDUAL)
    groups = [g for kind in ("plain", name) for g in kinds.get(kind, []) if g.depth and g.task.primary == "err"]
    parts: dict[object, list[Group]] = {}
    for group in groups:
        parts.setdefault(group.recipe_apart_from_depth, []).append(group)
    keys = differing_keys([members[0].config for members in parts.values()], ("model.name", "model.depth", "recipe"))
    keys = [key for key in keys if key != "model.residual"]
    return [
        Recipe(
            describe(members[0].config, keys),
            tuple(group for group in members if not group.residual),
            tuple(group for group in members if group.residual),
        )
        for members in parts.values()
    ]


def _named(recipe: Recipe) -> Recipe:
    plain, residual = (
        tuple(replace(group, label=group.network) for group in groups) for groups in (recipe.plain, recipe.residual)
    )
    return Recipe(recipe.label, plain, residual)


def _judge(recipe: Recipe, others: Sequence[Recipe]) -> Judgement:
    assert recipe.ends is not None
    shallow, deep = recipe.ends
    plain = {group.depth: group for group in recipe.plain}
    residual = {group.depth: group for group in recipe.residual}
    quad = Quad(
        cell(plain[shallow], TRAIN),
        cell(plain[deep], TRAIN),
        cell(residual[shallow], TRAIN),
        cell(residual[deep], TRAIN),
        cell(plain[deep], TEST),
        cell(residual[deep], TEST),
        lambda: two_way(plain[deep], residual[deep], TEST),
    )
    claims = tuple(decide_in_sequence(quad))
    notes = [trend_sentence([group for group in recipe.plain if group.values(TRAIN)])]
    if is_small_test_set([plain[deep], residual[deep]], TEST) and any(_covers_runs_alone(claim) for claim in claims):
        notes.append(RUNS_ALONE)
    notes += [_other_recipe(other) for other in others]
    return Judgement(recipe.label, claims, tuple(note for note in notes if note))


def _covers_runs_alone(claim: Claim) -> bool:
    """Whether it is the claim on the test error, with an interval that does not cover the choice of images."""
    found = claim.difference
    return claim.title == TEST_CLAIM and found is not None and found.interval is not None and found.images is None


def declared_pairs(setting: Setting) -> set[tuple[str, str, str]]:
    """What the claims compare, as the labels of two groups and a metric."""
    pairs = set()
    for recipe in find_recipes(setting):
        if recipe.ends is None:
            continue
        shallow, deep = recipe.ends
        plain = {group.depth: group.label for group in recipe.plain}
        residual = {group.depth: group.label for group in recipe.residual}
        pairs |= {(plain[deep], plain[shallow], TRAIN), (residual[deep], residual[shallow], TRAIN)}
        pairs |= {(plain[deep], residual[deep], key) for key in (TRAIN, TEST)}
    return pairs


def cell(group: Group, key: str) -> Cell:
    """A group's runs in one error."""
    return Cell(group.label, group.sample(key), len(group.diverged), group.num_settled(key))


def trend(groups: Sequence[Group]) -> Difference:
    """The slope of the mean training error over the logarithm of the depth, in points a doubling, with its interval."""
    positions = [math.log2(group.depth) for group in groups]
    middle = math.fsum(positions) / len(positions)
    scale = math.fsum((position - middle) ** 2 for position in positions)
    return combine([group.sample(TRAIN) for group in groups], [(position - middle) / scale for position in positions])


def trend_sentence(groups: Sequence[Group]) -> str:
    """The trend over three or more depths in words; empty where there are fewer."""
    if len(groups) < 3:
        return ""
    title = f"Trend over {len(groups)} depths ({groups[0].label} to {groups[-1].label})"
    unsettled = [group.label for group in groups if group.num_settled(TRAIN) is not None]
    if unsettled:
        return f"{title}: not computed, not all runs of {', '.join(unsettled)} settled."
    slope = trend(groups)
    text = f"{title}: {slope.mean:+.1f} points of training error a doubling of depth"
    if slope.interval is None:
        return f"{text}, one run a depth, no interval."
    return f"{text} (95 % CI {number(slope.interval[0])} to {number(slope.interval[1])})."


def _other_recipe(recipe: Recipe) -> str:
    labels = ", ".join(group.label for group in (*recipe.plain, *recipe.residual))
    return f"Not part of the claims, because the recipe differs ({recipe.label}): {labels}."
