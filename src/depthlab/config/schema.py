"""The typed configuration of a run: fixed sections with their keys, and the specs of the components it is made of.

Nothing in a configuration names Python code: a network, a reader or an optimiser is looked up by its registered name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from depthlab.config.registry import groups
from depthlab.config.spec import OptionalSpec, Spec, key, keys_of

if TYPE_CHECKING:
    # Only the checker needs them: a configuration holds whatever is registered.
    from depthlab.data.spec import AugmentationSpec, ImagesSpec
    from depthlab.models.spec import ModelSpec
    from depthlab.optim.spec import OptimizerSpec, ScheduleSpec
    from depthlab.tasks.spec import LossSpec, MetricSpec, TaskSpec
    from depthlab.training.spec import CallbackSpec, LoggerSpec


@dataclass
class PathsConfig:
    """Where data are read and logs are written."""

    data_dir: str = key(
        composed="${oc.env:DEPTHLAB_DATA_DIR,data}", identity=False, help="folder of the data sets; DEPTHLAB_DATA_DIR"
    )
    log_dir: str = key(composed="logs", identity=False, help="folder of the runs")


@dataclass
class CheckpointConfig:
    """How much work a kill may cost; null switches one of the two off."""

    every_steps: int | None = key(1000, positive=True, identity=False, help="steps between two checkpoints")
    every_minutes: float | None = key(10.0, positive=True, identity=False, help="wall time between two checkpoints")


@dataclass
class LoggerConfig:
    """The interval of the curves, and the registered loggers that receive them in addition to metrics.csv."""

    every_steps: int = key(100, positive=True, identity=False, help="steps between two points of the training curves")
    wandb_project: str | None = key(None, identity=False, help="project of logger=wandb")


@dataclass
class AugmentConfig:
    """Augmentations of training batches in addition to crops and flips, and label smoothing."""

    label_smoothing: float = key(
        0.0,
        identity_default=0,
        minimum=0,
        below=1,
        help="part of a label spread over all classes; 0.1 is usual",
    )


@dataclass
class TrainerConfig:
    """Device, processes, precision and length of a run."""

    accelerator: str = key(
        "auto",
        identity=False,
        choices=("auto", "cpu", "gpu", "mps"),
        help="auto: a CUDA GPU, else Apple's, else the CPU",
    )
    devices: int = key(1, identity=False, help="processes, each on its device; -1: every GPU")
    strategy: str = key("auto", identity=False, choices=("auto", "ddp"), help="ddp: data-parallel processes")
    precision: str = key(
        "auto",
        column=True,
        choices=("auto", "32-true", "bf16-mixed", "16-mixed"),
        help="auto: bf16-mixed where the device computes it natively, else 32-true",
    )
    max_steps: int = key(64000, positive=True, maximum=10**9, column=True, help="optimiser updates")
    val_every_steps: int = key(1000, positive=True, help="updates between two validations")
    accumulate_grad_batches: int = key(1, positive=True, maximum=10**6, help="batches to one update")
    gradient_clip_val: float | None = key(None, positive=True, help="gradients are clipped to this; null: not")
    gradient_clip_algorithm: str = key("norm", choices=("norm", "value"), help="what gradient_clip_val bounds")
    bn_statistics: str = key(
        "moving",
        choices=("moving", "averaged"),
        help="averaged: after training, batch norm's statistics become plain averages over one epoch",
    )
    num_threads: int | None = key(
        None,
        positive=True,
        maximum=4096,
        identity=False,
        help="CPU threads; null: OMP_NUM_THREADS, else one a core",
    )
    deterministic: bool = key(False, help="deterministic GPU kernels; the CPU is deterministic anyway")
    detect_anomaly: bool = key(False, help="stop at the operation whose gradient is NaN")
    overfit_one_batch: bool = key(False, help="train on the first batch only, without augmentation")
    profiler: str | None = key(None, identity=False, choices=("simple", "pytorch"), help="writes a profile of the run")
    compile: bool = key(
        False,
        identity=False,
        optional=True,
        help="compile forward and backward; the first step then takes a minute or so",
    )
    compile_scope: str = key(
        "auto",
        identity=False,
        optional=True,
        choices=("auto", "network", "blocks"),
        help="what is compiled at once; auto: blocks on a GPU, else the network",
    )
    steps_per_replay: int = key(
        1,
        positive=True,
        identity=False,
        optional=True,
        help="on a CUDA GPU: steps captured as a CUDA graph, so many to a batch",
    )


@dataclass
class SearchConfig:
    """How `hydra/sweeper=search` looks for the best values. It is no part of a run: records do not hold it."""

    trials: int = key(50, positive=True, maximum=10_000, help="configurations that are tried")
    seeds: int = key(3, positive=True, maximum=1000, help="runs of each, from the configuration's seed on")
    objective: str | None = key(None, help="val/NAME of a metric, its mean over the seeds; null: the task's main one")
    pruner: str = key(
        "median",
        choices=("median", "halving", "none"),
        help="stops a trial at a validation: behind the median of the others, or not in the best quarter",
    )
    seed: int = key(0, minimum=0, below=2**32, help="of the search's own random choices")


@dataclass
class RunKeys:
    """The keys of a configuration outside its sections."""

    name: str = key(composed="runs", identity=False, help="folder under paths.log_dir that the runs go into")
    seed: int = key(
        composed=1,
        minimum=0,
        maximum=2**63 - 1,
        column=True,
        help="of the initial weights, the order of images and every random draw",
    )
    rerun: bool = key(composed=False, identity=False, help="move a finished run's directory aside and repeat it")
    dry_run: bool = key(composed=False, identity=False, help="say what would run, and where; start nothing")
    code: str = key(
        "same",
        identity=False,
        optional=True,
        choices=("same", "any"),
        help="any: accept finished runs, and continue others, that were made by other code",
    )


@dataclass
class TrainConfig:
    """One run.

    `data`, `model`, `optimizer`, `schedule` and `task` are the specs that were chosen; `loss` likewise, None for the
    task's own. `augmentations`, `callbacks`, `metrics` and `loggers` are the specs that are on, by name.
    """

    name: str
    seed: int
    rerun: bool
    dry_run: bool
    code: str
    paths: PathsConfig
    checkpoint: CheckpointConfig
    logger: LoggerConfig
    trainer: TrainerConfig
    augment: AugmentConfig
    data: ImagesSpec
    model: ModelSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    task: TaskSpec
    loss: LossSpec | None = None
    augmentations: dict[str, AugmentationSpec] = field(default_factory=dict)
    callbacks: dict[str, CallbackSpec] = field(default_factory=dict)
    metrics: dict[str, MetricSpec] = field(default_factory=dict)
    loggers: dict[str, LoggerSpec] = field(default_factory=dict)


# The groups whose keys are always the same.
SECTIONS: dict[str, Any] = {
    "paths": PathsConfig,
    "checkpoint": CheckpointConfig,
    "logger": LoggerConfig,
    "trainer": TrainerConfig,
    "augment": AugmentConfig,
}
SEARCH = "search"  # the section of the sweeper of this name, which `check_search` reads
# The section of the configuration in which the components of a group lie, and the attribute that holds those on.
PLACES = {
    "augment": "augmentations",
    "callbacks": "callbacks",
    "metrics": "metrics",
    "logger": "loggers",
}


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain dicts and lists, for files: what `check` reads."""
    tree: dict[str, Any] = {name: getattr(config, name) for name in keys_of(RunKeys)}
    for section, cls in SECTIONS.items():
        tree[section] = {name: getattr(getattr(config, section), name) for name in keys_of(cls)}
    for group in groups().values():
        if group.selector is None:
            section = tree.setdefault(group.name, {})
            section.update(_components_as_dict(group.name, getattr(config, PLACES[group.name])))
        else:
            spec = getattr(config, group.name)
            tree[group.name] = None if spec is None else {group.selector: spec.registered, **spec.values()}
    return tree


def _components_as_dict(group: str, on: dict[str, Spec]) -> dict[str, Any]:
    """Every component of ours or in use, in the form in which a configuration holds it."""
    found: dict[str, Any] = {}
    for name, component in groups()[group].components.items():
        spec = component.spec
        assert issubclass(spec, OptionalSpec)
        if name in on:
            found[name] = spec.to_value(on[name])
        elif component.extension is None and spec.off_value() is not None:
            found[name] = spec.off_value()
    return found


def known_keys() -> list[str]:
    """Every dotted key that some configuration has."""
    sections = {**SECTIONS, SEARCH: SearchConfig}
    keys = {*keys_of(RunKeys)} | {f"{section}.{name}" for section, cls in sections.items() for name in keys_of(cls)}
    for group in groups().values():
        for name, component in group.components.items():
            own = keys_of(component.spec)
            if group.selector is not None:
                keys |= {f"{group.name}.{each}" for each in (group.selector, *own)}
            else:
                keys |= {f"{group.name}.{name}", *(f"{group.name}.{name}.{each}" for each in own)}
    return sorted(keys)


assert {f.name for f in fields(TrainConfig)} >= {*keys_of(RunKeys), *SECTIONS}
