"""What a configuration may say: everything else is refused by name, and nothing in it can name code."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

import pytest

from depthlab.config.check import _typed, check
from depthlab.config.hydra_options import steps_if_deep
from depthlab.config.identity import find_key, flatten
from depthlab.config.nearest import nearest
from depthlab.config.registry import components
from depthlab.config.schema import as_dict, known_keys
from depthlab.config.spec import key
from depthlab.errors import InputError

from ..conftest import compose_tree

TREE: Any = compose_tree("trainer=cpu")
del TREE["search"]  # which is for the sweeper of this name, and no part of a run
for group in ("augment", "logger"):  # of which each component is listed also where it is off; here, ours
    extensions = [name for name, each in components(group).items() if each.extension]
    TREE[group] = {name: value for name, value in TREE[group].items() if name not in extensions}
FLAT = flatten(TREE)
OVERFIT = {"trainer__overfit_one_batch": True}


def tree_with(**changes: Any) -> dict[str, Any]:
    """The default configuration with changes; "__" stands for the dot of a nested key."""
    tree = copy.deepcopy(TREE)
    for name, value in changes.items():
        *groups, key = name.split("__")
        node: Any = tree
        for group in groups:
            node = node[group]
        node[key] = value
    return tree


def refused(message: str, **changes: Any) -> None:
    with pytest.raises(InputError) as caught:
        check(tree_with(**changes))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def as_checked(tree: dict[str, Any]) -> dict[str, Any]:
    """What `check` makes of the default configuration: a network without a name is called by what it is."""
    return {**tree, "model": {**tree["model"], "name": "resnet20"}}


def test_what_is_checked_comes_back_unchanged() -> None:
    assert as_dict(check(TREE)) == as_checked(TREE)
    assert check(as_dict(check(TREE))) == check(TREE)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optimizer__lrr", r"optimizer\.lrr=1: no such key\. Did you mean lr\?"),
        ("trainer__max_step", r"trainer\.max_step=1: .*Did you mean max_steps\?"),
        ("trainer__zzzzzzzz", r"trainer\.zzzzzzzz=1: no such key\. Valid: accelerator, "),
        ("sede", r"sede=1: .*Did you mean seed\?"),
        ("optimizer__beta1", r"optimizer\.beta1=1"),  # AdamW's, and the optimiser is SGD
        ("schedule__milestone", r"Did you mean milestones\?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(key: str, message: str) -> None:
    refused(message, **{key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer__max_steps", "abc"),
        ("trainer__max_steps", 1.5),
        ("trainer__max_steps", None),
        ("seed", True),
        ("seed", [1]),
        ("seed", {"a": 1}),
        ("optimizer__lr", "fast"),
        ("optimizer__lr", True),
        ("data__flip", "perhaps"),
        ("schedule__milestones", "abc"),
        ("schedule__milestones", [1, "a"]),
        ("trainer", 5),
        ("model", None),
        ("data", []),
        ("trainer__max_steps", object()),
    ],
)
def test_a_wrong_type_is_refused_by_key(key: str, value: Any) -> None:
    refused(key.split("__")[-1], **{key: value})


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("data__name", "cifar1", "cifar10"),
        ("data__normalization", "per_pixels", "per_pixel"),
        ("data__last_batch", "wrapp", "wrap"),
        ("model__shortcut", "D", "A, B, C"),
        ("model__family", "cifr", "cifar"),
        ("optimizer__name", "sdg", "sgd"),
        ("schedule__name", "cosin", "cosine"),
        ("schedule__warmup_shape", "linar", "linear"),
        ("trainer__accelerator", "gpus", "gpu"),
        ("trainer__strategy", "dpp", "ddp"),
        ("trainer__precision", "bf16", "bf16-mixed"),
        ("trainer__gradient_clip_algorithm", "norms", "norm"),
        ("trainer__bn_statistics", "average", "averaged"),
        ("trainer__profiler", "simpel", "simple"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_nearest_one(key: str, value: str, near: str) -> None:
    refused(f"{key.replace('__', '.')}={value}: no such .*{near}", **{key: value})


POSITIVE = [
    "data__batch_size",
    "data__eval_batch_size",
    "optimizer__lr",
    "schedule__factor",
    "schedule__total_steps",
    "trainer__max_steps",
    "trainer__val_every_steps",
    "trainer__accumulate_grad_batches",
    "trainer__gradient_clip_val",
    "trainer__num_threads",
    "logger__every_steps",
    "checkpoint__every_steps",
    "checkpoint__every_minutes",
]
NOT_NEGATIVE = [
    "seed",
    "data__val_size",
    "data__split_seed",
    "data__crop_padding",
    "optimizer__momentum",
    "optimizer__weight_decay",
    "schedule__warmup_steps",
    "schedule__warmup_factor",
]


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in POSITIVE for value in (0, -1)])
def test_what_must_be_positive_is(key: str, value: int) -> None:
    refused(rf"{key.replace('__', '.')}={value}(\.0)?: must be greater than 0", **{key: value})


@pytest.mark.parametrize("key", NOT_NEGATIVE)
def test_zero_is_allowed_where_it_has_a_meaning_and_less_is_not(key: str) -> None:
    check(tree_with(**{key: 0}))
    refused(rf"{key.replace('__', '.')}=-1(\.0)?: must not be negative", **{key: -1})


NONSENSE = [
    *(("optimizer__momentum", value) for value in (1, 5)),
    *(("optimizer__lr", value) for value in (1e39, 1e308)),
    ("optimizer__weight_decay", 1e39),
    *(("schedule__milestones", value) for value in ([48000, 32000], [-5, 10])),
    ("schedule__factor", 1e18),
    *(("data__flip", value) for value in (-1, 2)),
    ("model__freeze", "???"),
    *((key, 10**18) for key in ("trainer__max_steps", "data__batch_size", "data__eval_batch_size", "data__val_size")),
    ("model__depth", 600002),
]


@pytest.mark.parametrize(("key", "value"), NONSENSE)
def test_what_no_run_can_mean_is_refused_by_its_key(key: str, value: Any) -> None:
    refused(re.escape(key.replace("__", ".")), **{key: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "key", ["optimizer__lr", "optimizer__momentum", "schedule__factor", "checkpoint__every_minutes"]
)
def test_numbers_are_finite(key: str, value: float) -> None:
    refused(r"must be a finite number", **{key: value})


@pytest.mark.parametrize(
    "key",
    ["checkpoint__every_steps", "checkpoint__every_minutes", "trainer__gradient_clip_val", "trainer__num_threads"],
)
def test_null_switches_off_what_can_be_switched_off(key: str) -> None:
    check(tree_with(**{key: None}))


# Keys of later versions: records made before them lack them, and have these values.
LATER = {
    "data.fold": None,
    "data.num_folds": None,
    "data.classes": None,
    "data.images_per_class": None,
    "augment.mixup": 0,
    "augment.cutmix": 0,
    "augment.color_jitter": 0,
    "augment.random_erasing": 0,
    "augment.label_smoothing": 0,
    "model.weights": None,
    "model.drop_classifier": False,
    "model.freeze": "none",
    "model.dropout": 0.0,
    "model.two_stream": False,
    "model.block": "basic",
    "model.preactivation": False,
    "model.stochastic_depth": 0.0,
    "optimizer.backbone_lr_factor": 1.0,
    "loss": None,
}
# Likewise, and they do not make another run; loggers are off where nothing is said of them.
SWITCHES = {"logger.tensorboard", "logger.wandb"}
MAY_BE_ABSENT = {
    "code",
    "trainer.compile",
    "trainer.compile_scope",
    "trainer.steps_per_replay",
    "model.activation_checkpointing",
    *SWITCHES,
}


def without(key: str) -> dict[str, Any]:
    """The default configuration without a key."""
    tree = copy.deepcopy(TREE)
    *groups, last = key.split(".")
    node: Any = tree
    for group in groups:
        node = node[group]
    del node[last]
    return tree


@pytest.mark.parametrize("key", sorted(set(FLAT) & set(known_keys()) - set(LATER) - MAY_BE_ABSENT))
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(InputError, match=rf"{re.escape(key)}( is missing|=None)"):
        check(without(key))


@pytest.mark.parametrize("key", sorted(LATER))
def test_a_key_that_an_older_record_lacks_has_its_neutral_value(key: str) -> None:
    assert flatten(as_dict(check(without(key))))[key] == LATER[key] == FLAT[key]


def test_no_other_key_of_these_components_may_be_absent() -> None:
    infos = {key: find_key(key, FLAT) for key in FLAT}
    found = {key for key, info in infos.items() if info is not None and info.may_be_absent}
    assert found | {"loss"} | SWITCHES == set(LATER) | MAY_BE_ABSENT


@pytest.mark.parametrize("key", sorted(MAY_BE_ABSENT))
def test_a_key_that_does_not_identify_may_be_absent(key: str) -> None:
    assert flatten(as_dict(check(without(key))))[key] == (False if key in SWITCHES else FLAT[key])


@pytest.mark.parametrize(
    "group", ["model", "data", "optimizer", "schedule", "trainer", "logger", "paths", "checkpoint"]
)
def test_a_missing_group_is_named(group: str) -> None:
    with pytest.raises(InputError, match=rf"^{group}\b.* is missing"):
        check({key: value for key, value in TREE.items() if key != group})


@pytest.mark.parametrize("group", ["augment", "task", "loss", "callbacks", "metrics"])
def test_a_group_that_may_be_absent_has_its_defaults(group: str) -> None:
    assert as_dict(check({key: value for key, value in TREE.items() if key != group})) == as_checked(TREE)


@pytest.mark.parametrize("depth", [2, 7, 18, 21, 57])
def test_a_depth_that_is_not_6n_plus_2_is_refused_with_the_nearest(depth: int) -> None:
    below = max(8, 6 * ((depth - 2) // 6) + 2)
    refused(rf"model\.depth={depth}: .*6n\+2.*nearest are {below} and {below + 6}\.", model__depth=depth)


def test_a_network_cannot_carry_another_networks_name() -> None:
    message = r"model\.name=resnet20: this network is resnet56; type model=resnet56"
    refused(message, model__depth=56, model__name="resnet20")
    refused(r"this network is resnet20", model__name="plain20")
    assert check(tree_with(model__depth=56, model__name="mine")).model.name == "mine"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../x", "a b", "a\nb", "a:b"])
@pytest.mark.parametrize("key", ["name", "model__name"])
def test_names_are_plain_because_they_become_paths(key: str, name: str) -> None:
    if (key, name) == ("model__name", ""):
        assert check(tree_with(model__name="", model__depth=56)).model.name == "resnet56"  # called by what it is
    else:
        refused(r"use letters, digits", **{key: name})


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("is plain and has no shortcuts", {"model__residual": False, "model__name": "plain20", "model__shortcut": "B"}),
        ("needs optimizer.momentum", {"optimizer__nesterov": True, "optimizer__momentum": 0}),
        (r"trainer\.devices=0", {"trainer__devices": 0}),
        (r"trainer\.devices=-2", {"trainer__devices": -2}),
        ("several processes need trainer=ddp", {"trainer__devices": 2}),
        (r"data\.fold=5: no such fold; .*from 0 to 4", {"data__fold": 5, "data__num_folds": 5}),
        (r"data\.fold=-1: no such fold", {"data__fold": -1, "data__num_folds": 5}),
        (r"data\.fold=1: a fold of how many", {"data__fold": 1}),
        (r"data\.num_folds=5: which of them", {"data__num_folds": 5}),
        (r"data\.num_folds=1: at least 2", {"data__fold": 0, "data__num_folds": 1}),
        (r"data\.classes=\['cat'\]: give two", {"data__classes": ["cat"]}),
        (r"data\.classes=.*each once", {"data__classes": ["cat", "dog", "cat"]}),
        (r"data\.images_per_class=0", {"data__images_per_class": 0}),
        (r"augment\.mixup=-0\.1: must not be negative", {"augment__mixup": -0.1}),
        (r"augment\.color_jitter=1\.5: must be 1 or less", {"augment__color_jitter": 1.5}),
        (r"augment\.random_erasing=2(\.0)?: must be 1 or less", {"augment__random_erasing": 2}),
        (r"augment\.mixup: Value 'much'", {"augment__mixup": "much"}),
        (r"augment\.label_smoothing=1(\.0)?: must be less than 1", {"augment__label_smoothing": 1}),
        (r"model\.dropout=1(\.0)?: must be less than 1", {"model__dropout": 1}),
        (r"model\.stochastic_depth=1(\.0)?: must be less than 1", {"model__stochastic_depth": 1}),
        (r"data\.batch_size=1: mixup and cutmix", {"data__batch_size": 1, "augment__cutmix": 1}),
        (r"augment\.mixup=0\.2 trainer\.overfit_one_batch=true: the objective", OVERFIT | {"augment__mixup": 0.2}),
        (r"augment\.label_smoothing=0\.1 trainer\.overfit", OVERFIT | {"augment__label_smoothing": 0.1}),
    ],
)
def test_keys_that_contradict_each_other_are_refused(message: str, changes: dict[str, Any]) -> None:
    refused(message, **changes)


@pytest.mark.parametrize("code", ["torchvision.datasets.utils.os.system", "os.system", "depthlab.runs.run.run"])
@pytest.mark.parametrize(
    "key", ["model___target_", "_target_", "data___target_", "optimizer___target_", "model___args_"]
)
def test_no_key_can_name_code(key: str, code: str) -> None:
    refused(r"_(target|args)_=.*: no such key", **{key: code})


@pytest.mark.parametrize("code", ["torchvision.datasets.utils.os.system", "os.system", "cifar_net", "__import__"])
@pytest.mark.parametrize("key", ["model__family", "optimizer__name", "schedule__name", "data__name"])
def test_no_value_can_name_code(key: str, code: str) -> None:
    refused(rf"{key.replace('__', '.')}={re.escape(code)}: no such", **{key: code})


def test_a_resolved_configuration_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    refused("data_dir", paths__data_dir="${oc.env:SECRET}")


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 2**64), ("data__split_seed", 2**32), ("optimizer__lr", 10**400)],
    ids=["seed", "split", "lr"],
)
def test_numbers_that_nothing_can_hold_are_refused(key: str, value: int) -> None:
    refused(key.split("__")[-1], **{key: value})


def test_nearest_points_at_one_name_or_lists_all() -> None:
    assert nearest("resnt", ["resnet", "plain"]) == "Did you mean resnet?"
    assert nearest("xyz", ["b", "a"]) == "Valid: a, b."


@dataclass(frozen=True)
class Listed:
    """Keys with defaults."""

    steps: list[int] = key((1, 2), help="a list")
    count: int = key(3, help="a number")


def test_values_of_one_check_are_not_the_defaults_of_the_next() -> None:
    given = _typed(Listed, {"steps": [5], "count": 7}, "listed")
    given.steps.append(6)
    _typed(Listed, {}, "listed", defaults=True).steps.append(8)
    assert _typed(Listed, {}, "listed", defaults=True) == Listed()


@pytest.mark.parametrize(("depth", "steps"), [(20, 0), (56, 0), (109, 0), (110, 400), (1202, 400)])
def test_the_warm_up_begins_at_its_depth(depth: int, steps: int) -> None:
    assert steps_if_deep(depth, 110, 400) == steps


@pytest.mark.parametrize("key", ["beta1", "beta2"])
def test_betas_are_less_than_one(key: str) -> None:
    tree = compose_tree("optimizer=adamw", f"optimizer.{key}=1")
    with pytest.raises(InputError, match=rf"optimizer\.{key}=1\.0: must be less than 1"):
        check(tree)


def test_mixing_needs_a_task_that_takes_two_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    from depthlab.tasks.components.classification import Classification

    tree = compose_tree("data=digits", "augment.mixup=0.2")
    check(tree)
    monkeypatch.setattr(Classification, "mixes", False)
    with pytest.raises(InputError, match=r"augment\.mixup: task=classification does not take images with two labels"):
        check(tree)
