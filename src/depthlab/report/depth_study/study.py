"""The depth study's sections of a report: the claims, published results, and the figure of error against depth."""

from __future__ import annotations

from collections.abc import Sequence

from depthlab.report.core.document import Finding, Section
from depthlab.report.core.groups import Group, Setting
from depthlab.report.core.side_by_side import Sweep
from depthlab.report.depth_study.claims import NOT_SHOWN, REVERSED, SHOWN
from depthlab.report.depth_study.published import (
    differences_from_paper,
    judge_published,
    not_comparable,
    published_table,
)
from depthlab.report.depth_study.quads import find_recipes, judge_setting

QUESTION = "Do deeper plain networks train worse than shallower ones, and do shortcuts cure it?"
TONES = {SHOWN: "good", REVERSED: "bad", NOT_SHOWN: "open"}
RULE = (
    "The claims are the same for every sweep over depth. They are judged in this sequence, each by the 95 % interval "
    "that is printed, between the shallowest and the deepest depth of one recipe. The sequence ends with the first "
    "claim that is not shown. Intervals are Welch's; where a test set has fewer than 10,000 images, that of the test "
    "error covers the choice of images too."
)


def is_depth_setting(setting: Setting) -> bool:
    """Whether a setting varies the depth of networks whose error is a percentage."""
    kinds = setting.kinds().values()
    counted = all(group.metric(f"train/{group.task.primary}").counts_images for group in setting.groups)
    return counted and any(len({group.depth for group in groups if group.depth}) > 1 for groups in kinds)


def is_depth_study(settings: Sequence[Setting]) -> bool:
    """Whether a setting has a recipe with two depths of plain and of residual networks."""
    return any(recipe.ends for setting in settings for recipe in find_recipes(setting) if is_depth_setting(setting))


def claims_sections(sweeps: Sequence[Sweep]) -> list[Section]:
    """The claims of every setting and recipe that allows them, each in a section of its own."""
    settings = [setting for sweep in sweeps for setting in sweep.settings if is_depth_setting(setting)]
    recipes = [recipe for setting in settings for recipe in find_recipes(setting) if recipe.ends]
    judged = [
        (setting.label, judgement)
        for setting in settings
        for judgement in judge_setting(setting, by_name=len(recipes) > 1)
    ]
    sections = []
    for setting_label, judgement in judged:
        label = ", ".join(part for part in (setting_label, judgement.label) if part) if len(judged) > 1 else ""
        suffix = f" ({label})" if label else ""
        findings = tuple(
            Finding(f"{claim.title}{suffix}", claim.outcome, claim.text, TONES.get(claim.outcome, "open"))
            for claim in judgement.claims
        )
        sections.append(Section(f"Findings{suffix}", findings, judgement.notes, note=RULE, in_terminal=True))
    return sections


def published_sections(groups: Sequence[Group]) -> list[Section]:
    """The comparison with published results and with the paper's recipe; nothing where none is published."""
    compared = [group for group in groups if group.metric("test/err").counts_images]
    verdicts = judge_published(compared)
    if not verdicts:
        return []
    heading = "Comparison with published results"
    line = not_comparable(verdicts)
    if line:
        return [Section(heading, lines=(line,))]
    unlike = tuple(differences_from_paper(compared)) or ("nothing of its recipe",)
    return [
        Section(heading, tables=(published_table(verdicts),)),
        Section("Differences from the paper", lines=unlike),
    ]
