"""What makes two runs the same: which keys count, and hashes that old runs keep for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from depthlab.config.check import check
from depthlab.config.identity import flatten, identify
from depthlab.config.registry import groups, register
from depthlab.config.schema import as_dict
from depthlab.config.spec import key
from depthlab.models.spec import ModelSpec
from depthlab.records.record import find_records, read_record

from ..conftest import ROOT, compose_tree

FIXED = ("trainer=cpu", "trainer.precision=32-true")
# Where, by whom and for whom, as issue and README say: these never make another run.
NOT_PART = {
    "name",
    "rerun",
    "dry_run",
    "code",
    "paths.data_dir",
    "paths.log_dir",
    "logger.every_steps",
    "logger.tensorboard",
    "logger.wandb",
    "logger.wandb_project",
    "checkpoint.every_steps",
    "checkpoint.every_minutes",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.num_threads",
    "trainer.compile",
    "trainer.steps_per_replay",
    "trainer.compile_scope",
    "trainer.profiler",
    "model.activation_checkpointing",
}


def composed(*overrides: str) -> dict[str, Any]:
    """A checked configuration as flat keys."""
    return flatten(as_dict(check(compose_tree(*FIXED, *overrides))))


CONFIG = composed()


def another(value: Any) -> Any:
    """Some other value, whatever its type."""
    return {bool: not value, str: f"{value}x", list: [7]}.get(type(value), 7 if value is None else value)


@pytest.mark.parametrize(
    ("overrides", "directory", "recipe"),
    [
        ((), "cifar10-resnet20-seed1-773b7c3e", "ad2f60dd"),
        (("model=plain110", "seed=0", "trainer.precision=bf16-mixed"), "cifar10-plain110-seed0-d862c525", "87e6756f"),
        (("data=digits", "optimizer=adamw", "schedule=cosine", "seed=2"), "digits-resnet20-seed2-1f375d36", "d6b56e45"),
    ],
)
def test_old_runs_keep_their_names(overrides: tuple[str, ...], directory: str, recipe: str) -> None:
    # A new key that changes these needs an identity default.
    found = identify(composed(*overrides), num_processes=1)
    assert (found.directory, found.recipe) == (directory, recipe)
    assert found.directory.endswith(found.run)


@pytest.mark.parametrize("key", sorted(CONFIG))
def test_every_key_counts_unless_it_says_where_or_who_watches(key: str) -> None:
    value = CONFIG[key]
    changed = {**CONFIG, key: value + 1 if type(value) in (int, float) else another(value)}
    assert changed != CONFIG
    before, after = identify(CONFIG, 1), identify(changed, 1)
    assert (before.run == after.run) == (key in NOT_PART)
    assert (before.recipe == after.recipe) == (key in NOT_PART or key in ("seed", "data.fold"))


def test_every_key_that_does_not_count_exists() -> None:
    assert CONFIG.keys() >= NOT_PART


def test_the_number_of_processes_counts() -> None:
    assert identify(CONFIG, 1).run != identify(CONFIG, 2).run
    assert identify(CONFIG, 1).recipe != identify(CONFIG, 2).recipe


def test_the_order_of_keys_does_not_count() -> None:
    assert identify(dict(reversed(CONFIG.items())), 1) == identify(CONFIG, 1)


@dataclass(frozen=True)
class Widening(ModelSpec):
    """A network whose keys came one after the other."""

    width: int = key(1, identity_default=1, help="came later")
    height: int = key(0, identity_default=0, help="came later")
    watched: int = key(0, identity=False, help="does not count")


@pytest.fixture
def _widening() -> Iterator[None]:
    register("model", "widening")(Widening)
    yield
    del groups()["model"].components["widening"]


@pytest.mark.usefixtures("_widening")
def test_a_later_key_at_its_neutral_value_does_not_count() -> None:
    before = {**CONFIG, "model.family": "widening"}
    assert identify({**before, "model.width": 1}, 1) == identify(before, 1)
    assert identify({**before, "model.width": 2}, 1).run != identify(before, 1).run
    # The neutral value of another key, or of another component's key, is not that of this one.
    assert identify({**before, "model.width": 0}, 1).run != identify(before, 1).run
    assert identify({**CONFIG, "model.width": 1}, 1).run != identify(CONFIG, 1).run
    assert identify({**before, "model.watched": 7}, 1) == identify(before, 1)


def test_a_precision_that_is_not_resolved_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.precision=auto"):
        identify({**CONFIG, "trainer.precision": "auto"}, 1)


def test_folds_are_repetitions_of_one_recipe_and_their_number_is_part_of_it() -> None:
    ids = [identify({**CONFIG, "data.fold": fold, "data.num_folds": 5}, 1) for fold in range(5)]
    assert len({found.run for found in ids}) == 5
    (recipe,) = {found.recipe for found in ids}
    others = [CONFIG, {**CONFIG, "data.fold": 0, "data.num_folds": 4}]
    assert recipe not in {identify(other, 1).recipe for other in others}


def test_a_folder_counts_by_its_name_and_not_by_where_it_lies() -> None:
    folder = composed("data=image_folder", "data.folder=/one/place/flowers")
    moved = {**folder, "data.folder": "other/flowers", "data.memory_limit_gib": 0.1, "data.num_workers": 1}
    assert identify(folder, 1) == identify(moved, 1)
    assert identify(folder, 1).run != identify({**folder, "data.folder": "/one/place/birds"}, 1).run


def test_seed_0_is_a_seed() -> None:
    assert identify({**CONFIG, "seed": 0}, 1).directory.startswith("cifar10-resnet20-seed0-")


RECORDS = sorted(find_records(ROOT / "results"))


@pytest.mark.parametrize("directory", RECORDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_published_run_keeps_its_name(directory: Path) -> None:
    record = read_record(directory)
    config = flatten(record.config)
    weights = record.get("weights")
    if config.get("model.weights") is not None:
        assert weights is not None
        config["model.weights"] = weights["content"]
    config["trainer.precision"] = record["precision"]
    found = identify(config, record["num_processes"])
    assert (found.directory, found.directory, found.recipe) == (directory.name, record["run"], record["recipe"])


@pytest.mark.parametrize("directory", RECORDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_published_run_keeps_its_name_when_it_is_typed_again(directory: Path) -> None:
    """The keys that came since are in its configuration now, and those of components that are off."""
    record = read_record(directory)
    again = flatten(as_dict(check(record.config)))
    again["trainer.precision"] = record["precision"]
    if again["model.weights"] is not None:
        again["model.weights"] = (record.get("weights") or {})["content"]
    assert identify(again, record["num_processes"]).directory == directory.name


def test_every_published_run_is_among_them() -> None:
    assert len(RECORDS) > 250
    assert any(read_record(directory).get("weights") for directory in RECORDS)


@pytest.mark.parametrize(
    "overrides",
    [
        ("task=classification",),
        ("callbacks=lr_monitor",),
        ("callbacks=[lr_monitor,model_summary]",),
        ("callbacks=lr_monitor", "callbacks.lr_monitor.log_momentum=true"),
        ("logger=csv",),
        ("augment.mixup=0",),
    ],
    ids=" ".join,
)
def test_what_only_watches_and_defaults_of_later_groups_do_not_count(overrides: tuple[str, ...]) -> None:
    assert identify(composed(*overrides), 1) == identify(CONFIG, 1)


def test_what_a_run_learns_counts_and_each_value_of_it() -> None:
    changes: list[tuple[str, ...]] = [
        ("loss=focal",),
        ("loss=focal", "loss.gamma=1"),
        ("metrics=err_top5",),
        ("callbacks=ema",),
        ("callbacks=ema", "callbacks.ema.decay=0.9"),
        ("callbacks=early_stopping",),
        ("callbacks=[ema,early_stopping]",),
        ("augment.mixup=0.2",),
        ("augment.label_smoothing=0.1",),
    ]
    runs = {identify(composed(*overrides), 1).run for overrides in [(), *changes]}
    assert len(runs) == 1 + len(changes)
    recipes = {identify(composed(*overrides), 1).recipe for overrides in [(), *changes]}
    assert len(recipes) == 1 + len(changes)


def test_a_task_that_is_not_the_default_counts() -> None:
    regression = {**CONFIG, "task.name": "regression"}
    assert identify(regression, 1).run != identify(CONFIG, 1).run
    assert identify({key: value for key, value in CONFIG.items() if key != "task.name"}, 1) == identify(CONFIG, 1)


def test_a_component_that_is_not_installed_counts_with_all_its_keys() -> None:
    unknown = {**CONFIG, "callbacks.far_away.strength": 1}
    assert identify(unknown, 1).run != identify(CONFIG, 1).run
    assert identify({**unknown, "callbacks.far_away.strength": 2}, 1).run != identify(unknown, 1).run


def test_a_callback_without_keys_counts_where_it_is_on() -> None:
    switch = {**CONFIG, "callbacks.far_away": True}
    assert identify(switch, 1).run != identify(CONFIG, 1).run
