"""Every option of every group composes, is checked and runs: the files in configs/, and what is registered."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from depthlab.config.check import check
from depthlab.config.registry import components, groups, presets
from depthlab.config.schema import PLACES
from depthlab.errors import InputError
from depthlab.runs.run import run

from ..conftest import ROOT, Compose, compose_tree
from ..data.official import accept, write_cifar10, write_cifar100, write_folder, write_mnist

CONFIGS = ROOT / "configs"
FOLDERS = ("trainer", "experiment", "debug")  # the groups with files; each file differs from the defaults
FILES = [(group, path.stem) for group in FOLDERS for path in sorted((CONFIGS / group).glob("*.yaml"))]
OURS = [(group, name) for group in groups() for name, each in components(group).items() if each.extension is None]
PRESETS = [(group, name) for group in groups() for name, (of, _) in presets(group).items() if (group, of) in OURS]
REGISTERED = [*OURS, *PRESETS, ("trainer", "auto"), ("logger", "csv")]
REGISTERED = [option for option in REGISTERED if option[0] != "augment"]
REGISTERED = [option for option in REGISTERED if option not in FILES]
OPTIONS = [*FILES, *REGISTERED]
# Options that need more than the defaults: another task, other images, or a key without a default.
RESTORING = ("task=regression", "data=noisy_digits", "model=plain_restorer20", "model.depth=4")
NEEDED = {
    "regression": RESTORING,
    "noisy_digits": RESTORING,
    "huber": RESTORING,
    "plain_restorer20": RESTORING[:2],
    "residual_restorer20": RESTORING[:2],
    "restorer": (*RESTORING[:2], "model.depth=4"),
    "cifar": ("model.depth=8",),
    "imagenet": ("model.depth=18",),
    "wide": ("model.depth=10", "model.width_factor=1"),
    "image_folder": ("data.folder=flowers",),
}

# What a run of the option needs here: real files, GPUs, or an extra that is not installed.
NEEDS = {
    ("trainer", "gpu"): "a GPU",
    ("trainer", "ddp"): "a GPU",
    ("trainer", "ddp_cpu"): "a process of its own; tests/test_commandline.py runs it",
    ("logger", "wandb"): "the extra wandb",
}
# Small enough for a test, without touching what the option itself decides.
SHORT = ("trainer.max_steps=2", "trainer.val_every_steps=2", "trainer.num_threads=1")


def test_no_file_lies_outside_the_groups() -> None:
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert folders == {*FOLDERS, "hydra"}
    assert [path.name for path in CONFIGS.glob("*.yaml")] == ["train.yaml"]


@pytest.mark.parametrize(
    ("group", "option"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] if pair[0] == "model" and not pair[1].endswith("20") else [])
        for pair in OPTIONS
    ],
)
def test_every_option_composes_and_passes_the_check(group: str, option: str) -> None:
    config = check(compose_tree(*NEEDED.get(option, ()), f"{group}={option}"))
    if (group, option) in PRESETS and group == "model":
        assert config.model.name == option
    elif group in PLACES and option != "csv":
        assert option in getattr(config, PLACES[group])
    elif group in groups() and group not in PLACES:
        assert getattr(config, group).registered == option


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task=regression",), "task=regression: it learns numbers or images, and data=cifar10 has classes."),
        (("data=noisy_digits",), "task=classification: it learns classes, and data=noisy_digits has images."),
        (("loss=huber",), "loss=huber: it is for numbers or images, not classes."),
        (
            ("callbacks=early_stopping", "callbacks.early_stopping.monitor=test/err"),
            "no choice reads the test set. Use val/err.",
        ),
    ],
    ids=" ".join,
)
def test_options_that_do_not_fit_each_other_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check(compose_tree(*overrides))
    assert message in str(caught.value)


# Digits of 8x8 pixels fit every network but those that halve an image five times or more and cannot round up, and
# every experiment but those that choose among the classes of CIFAR-10.
DIGITS = ("data.classes=['0','1','2']",)
FITTING = {
    "densenet121": ("model.stem=small",),
    "densenet": ("model.stem=small",),
    "pretrain_vehicles": DIGITS,
    "scratch_vs_transfer": DIGITS,
    "restore_digits": RESTORING[1:2],
}
FITTING["cifar10_depth_16k"] = ("model=dense",)  # it compiles the network, and this one has few kernels
FITTING["mnist_depth"] = ("data.images_per_class=20", "data.val_size=20")  # there are fewer digits
# Deep networks take seconds for two steps, and so do those of ten million values; 1,202 layers half a minute. Of like
# networks one is enough each time.
SMALL = ("plain20", "resnet20", "dense", "cifar", "wide", "restorer")


# For them a few small images are enough.
FEW = ("data.images_per_class=20", "data.val_size=20", "data.batch_size=8")


def is_slow(group: str, option: str) -> bool:
    return group not in ("model", "data", "task", "optimizer") or (group == "model" and not option.endswith(SMALL))


RUNNABLE = [
    pytest.param(*pair, marks=[pytest.mark.slow] if is_slow(*pair) else []) for pair in OPTIONS if pair not in NEEDS
]


@pytest.fixture
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    """For each data set that comes as files, small ones in its official format, and what to say so that they fit."""
    for write in (write_cifar10, write_cifar100, write_mnist):
        write(tmp_path)
    accept(monkeypatch, tmp_path)
    write_folder(tmp_path / "flowers", {"rose": 9, "tulip": 9})
    few = (f"paths.data_dir={tmp_path}", "data.batch_size=2")
    held_out = {"cifar10": 2, "cifar100": 4, "mnist": 1}
    return {name: (*few, f"data.val_size={size}") for name, size in held_out.items()} | {
        "image_folder": (*few, "data.folder=flowers")
    }


@pytest.mark.parametrize(("group", "option"), RUNNABLE)
def test_every_option_runs(
    compose_config: Compose, small_data: dict[str, tuple[str, ...]], group: str, option: str
) -> None:
    model = () if group in ("model", "experiment") else ("model=resnet20", "model.depth=8")
    data = () if group == "experiment" else small_data.get(option, ("data=digits",))
    needed = (*NEEDED.get(option, ()), *FITTING.get(option, ()))
    few = FEW if group == "model" and is_slow(group, option) and option not in NEEDED else ()
    config = compose_config(*model, *data, *needed, *few, f"{group}={option}", *SHORT)
    # At its full rate the plain network of 1,202 layers may leave the finite numbers, and divergence is a result.
    expected = ("finished", "diverged") if option == "plain1202" else ("finished",)
    outcome = run(config, "")
    assert outcome.status in expected
    shutil.rmtree(outcome.directory)  # the checkpoints of the large ones would fill a disk


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("option", ["cifar10", "mnist"])
def test_the_data_sets_that_need_files_run(compose_config: Compose, data_dir: Path, option: str) -> None:
    small = ("model=resnet20", "model.depth=8", f"paths.data_dir={data_dir}")
    assert run(compose_config(f"data={option}", *small, *SHORT), "").status == "finished"


def test_the_warm_up_of_deep_networks_shows_in_the_resolved_configuration() -> None:
    steps = {model: compose_tree(f"model={model}")["schedule"] for model in ("resnet56", "resnet110", "plain1202")}
    assert [schedule["warmup_steps"] for schedule in steps.values()] == [0, 400, 400]  # type: ignore[index]
    assert check(compose_tree("model=resnet110")).optimizer.lr == 0.1


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_says_what_to_type_how_long_it_takes_and_what_to_expect(path: Path) -> None:
    head = path.read_text().split("defaults:")[0]
    for word in ("Reproduces:", "Type:", "Takes:", "Expect:"):
        assert f"# {word}" in head
    assert f"experiment={path.stem}" in head


@pytest.mark.parametrize("path", sorted((CONFIGS / "hydra" / "launcher").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_launcher_composes_also_where_its_extra_is_not_installed(path: Path) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"hydra/launcher={path.stem}"], return_hydra_config=True)
    assert str(config.hydra.launcher._target_).startswith("hydra_plugins.")
