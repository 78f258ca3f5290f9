"""Run directories as training leaves them, made up in milliseconds for tests of the report."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from depthlab.config.identity import flatten, identify
from depthlab.records.record import write_record

CONFIG: dict[str, Any] = {
    "name": "made_up",
    "seed": 1,
    "model": {"family": "cifar", "name": "plain20", "depth": 20, "residual": False, "shortcut": "A"},
    "data": {
        "name": "cifar10",
        "val_size": 5000,
        "split_seed": 0,
        "batch_size": 128,
        "eval_batch_size": 1000,
        "crop_padding": 4,
        "flip": True,
        "normalization": "per_pixel",
        "last_batch": "wrap",
        "test_curve": False,
    },
    "optimizer": {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 0.0001,
        "decay_norm_and_bias": True,
    },
    "schedule": {
        "name": "he2015",
        "milestones": [32000, 48000],
        "factor": 0.1,
        "total_steps": 64000,
        "warmup_steps": 0,
    },
    "trainer": {
        "accelerator": "cpu",
        "precision": "32-true",
        "max_steps": 64000,
        "accumulate_grad_batches": 1,
        "gradient_clip_val": None,
        "overfit_one_batch": False,
    },
    "paths": {"data_dir": "data", "log_dir": "logs"},
}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_run(
    root: Path,
    network: str,
    seed: int,
    train: float,
    test: float,
    overrides: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
    points: int = 50,
) -> Path:
    """One finished run below `root` with the given final errors.

    Args:
        root: the sweep's folder.
        network: plain20, resnet56, ...
        seed: the run's seed.
        train: train/err in percent; the running error is a tenth above.
        test: test/err in percent.
        overrides: configuration with dotted keys, as typed on a command line.
        record: keys of the record to replace.
        points: rows of metrics.csv; 0 writes none.
    """
    config = _config(network, seed, overrides or {})
    identity = identify(flatten(config), num_processes=1)
    directory = root / identity.directory
    directory.mkdir(parents=True, exist_ok=True)
    whole = _record(config, identity.directory, identity.recipe, train, test) | (record or {})
    write_record(directory, whole)
    if points:
        _write_curves(directory, whole, points)
    return directory


def write_sweep(root: Path, seeds: int = 3, **options: Any) -> list[Path]:
    """Plain and residual networks of 20 and 56 layers that degrade as in the paper, with curves."""
    errors = {"plain20": (1.0, 9.7), "plain56": (5.5, 13.2), "resnet20": (0.6, 8.7), "resnet56": (0.1, 6.9)}
    random = np.random.RandomState(0)
    return [
        write_run(root, network, seed, train + abs(random.normal(0, 0.05)), test + random.normal(0, 0.15), **options)
        for network, (train, test) in errors.items()
        for seed in range(1, seeds + 1)
    ]


def write_diagnostics(directory: Path, depth: int, residual: bool, seed: int) -> None:
    """The optional arrays of a run: responses, gradients, predictions, mistakes."""
    folder = directory / "diagnostics"
    folder.mkdir(exist_ok=True)
    random = np.random.RandomState(seed + 100 * depth + residual)
    layers = np.array(
        ["stem", *(f"stage{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range((depth - 2) // 6) for c in (1, 2))]
    )
    scale = 0.4 if residual else 0.8
    std = scale * np.exp(random.normal(0, 0.2, len(layers))) * np.linspace(1.2, 0.6, len(layers))
    np.savez(folder / "responses.npz", layer=layers, std=std.astype(np.float32))
    steps = np.arange(0, 64001, 1600)
    decay = np.linspace(0, 0 if residual else -4, len(layers))[::-1]
    norm = 10 ** (decay[None] + random.normal(-1, 0.15, (len(steps), len(layers))) - 0.5 * (steps[:, None] > 32000))
    np.savez(folder / "gradients.npz", layer=layers, step=steps.astype(np.int64), norm=norm.astype(np.float32))
    _write_predictions(folder, 0.07 if residual else 0.14, random)


def _write_predictions(folder: Path, error: float, random: np.random.RandomState) -> None:
    label = np.repeat(np.arange(10), 200)
    wrong = random.rand(2000) < error * np.repeat(np.linspace(0.5, 1.5, 10), 200)
    predicted = np.where(wrong, (label + random.randint(1, 10, 2000)) % 10, label)
    confidence = random.uniform(0.3, 1, 2000).astype(np.float32)
    np.savez(folder / "predictions.npz", index=np.arange(2000), label=label, predicted=predicted, confidence=confidence)
    worst = np.flatnonzero(label != predicted)[:16]
    image = random.randint(0, 255, (len(worst), 32, 32, 3)).astype(np.uint8)
    chosen = {"index": worst, "label": label[worst], "predicted": predicted[worst], "confidence": confidence[worst]}
    np.savez(folder / "mistakes.npz", image=image, **chosen)


def _config(network: str, seed: int, overrides: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    residual = network.startswith("resnet")
    depth = int(network.removeprefix("resnet").removeprefix("plain"))
    config["model"] |= {"name": network, "depth": depth, "residual": residual}
    config["seed"] = seed
    for key, value in overrides.items():
        *groups, last = key.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return config


def _record(config: dict[str, Any], name: str, recipe: str, train: float, test: float) -> dict[str, Any]:
    num_val = config["data"]["val_size"]
    model = config["model"]
    return {
        "status": "finished",
        "name": config["name"],
        "seed": config["seed"],
        "run": name,
        "recipe": recipe,
        "command": "python train.py -m model=plain20,plain56,resnet20,resnet56 seed=1,2,3",
        "config": config,
        "model": {
            "name": model["name"],
            "depth": model["depth"],
            "residual": model["residual"],
            "num_params": 97078 * ((model["depth"] - 2) // 6) - 21512,
            "num_macs": 1,
        },
        "data": {
            "name": config["data"]["name"],
            "num_train": 50000 - num_val,
            "num_val": num_val,
            "num_test": 10000,
            "num_classes": 10,
            "classes": CLASSES,
            "image_shape": [32, 32, 3],
            "fingerprint": "0f1e2d3c",
            "test_curve": config["data"]["test_curve"],
        },
        "metrics": {
            "train/err": train,
            "train/loss": train / 30,
            "train/err_running": min(100.0, train + 0.1),
            "train/loss_running": train / 29,
            "val/err": test + 0.3 if num_val else None,
            "val/loss": 0.3 if num_val else None,
            "test/err": test,
            "test/loss": 0.3,
        },
        "steps": config["trainer"]["max_steps"],
        "wall_seconds": 4000.0 + 40 * model["depth"],
        "images_per_second": 2000.0,
        "device": "cpu: Example CPU",
        "precision": config["trainer"]["precision"],
        "num_processes": 1,
        "num_threads": 2,
        "versions": {"python": "3.11.2", "depthlab": "0.1.0", "torch": "2.11.0"},
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T01:20:00+00:00",
        "stretches": [],
        "failure": None,
        "divergence": None,
    }


def _write_curves(directory: Path, record: dict[str, Any], points: int) -> None:
    """Curves that fall to the final errors with a drop at each milestone, as metrics.csv holds them."""
    last, final = record["steps"], record["metrics"]
    random = np.random.RandomState(record["seed"] + record["model"]["depth"])
    step = np.linspace(last / points, last, points).astype(int)
    height = np.select([step < last / 2, step < 3 * last / 4], [1.0, 0.35], 0.05) + 2 * np.exp(-8 * step / last)
    train = np.clip(final.get("train/err_running", 50) + 20 * height * (1 + random.normal(0, 0.05, points)), 0, 90)
    held_out = np.clip(final.get("test/err", 50) + 15 * height * (1 + random.normal(0, 0.15, points)), 0, 90)
    column = 8 if record["data"]["test_curve"] else 6
    lines = ["step,epoch,lr,train/loss,train/err,val/loss,val/err,test/loss,test/err"]
    for i in range(points):
        cells = [str(step[i]), f"{step[i] / 391:.2f}", "0.1", f"{train[i] / 30:.4f}", f"{train[i]:.4f}", "", "", "", ""]
        if i % max(1, points // 50) == 0 or i == points - 1:
            cells[column] = f"{held_out[i]:.4f}"
        lines.append(",".join(cells))
    (directory / "metrics.csv").write_text("\n".join(lines) + "\n")
