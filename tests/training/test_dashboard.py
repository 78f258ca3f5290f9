"""What TensorBoard shows of a run, read back with its own reader."""

from __future__ import annotations

import io
import json
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from depthlab.records.arrays import load_arrays
from depthlab.records.checkpoints import list_checkpoints
from depthlab.records.curve_file import read_curves
from depthlab.records.record import read_record
from depthlab.runs.run import run
from depthlab.training import tensorboard_images as tensorboard_images
from depthlab.training.callbacks import gradient_norms as gradients
from depthlab.training.callbacks.dashboard import Dashboard
from depthlab.training.loggers import EventFileLogger

from ..conftest import Compose, slowly
from .small import classifier, trainer

SMALL = ("model=resnet20", "model.depth=8", "logger=tensorboard", "logger.every_steps=3", "checkpoint.every_steps=2")


def read(directory: Path) -> EventAccumulator:
    sizes = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
    return EventAccumulator(str(directory), size_guidance=sizes).Reload()


def picture(events: EventAccumulator, tag: str) -> np.ndarray[Any, Any]:
    (image,) = events.Images(tag)
    return np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))


def hparams(events: EventAccumulator) -> dict[str, Any]:
    """The parts of the HPARAMS tab that the run wrote."""
    return {
        tag: plugin_data_pb2.HParamsPluginData.FromString(content)
        for tag, content in events.PluginTagToContent(metadata.PLUGIN_NAME).items()
    }


def assert_each_once(directory: Path) -> None:
    """Curves as in metrics.csv, everything else once a step."""
    events, curves = read(directory), read_curves(directory)
    tags = events.Tags()
    assert set(tags["scalars"]) == {*curves, "final/train_err", "final/val_err", "final/test_err"}
    for name, points in curves.items():
        assert [point.step for point in events.Scalars(name)] == [step for step, _ in points]
    assert tags["images"] == ["inputs/train", "confusion/test"]
    assert [image.step for tag in tags["images"] for image in events.Images(tag)] == [0, 12]
    measured = load_arrays(directory, "gradients")["step"].tolist()
    for tag in tags["histograms"]:
        assert [point.step for point in events.Histograms(tag)] == measured
    assert [point.step for point in events.Scalars("final/test_err")] == [12]
    assert len(events.Tensors("custom_scalars__config__")) == 1


def test_a_run_fills_every_dashboard_without_a_warning(compose_config: Compose) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        directory = run(compose_config(*SMALL), "").directory
    assert [str(item.message) for item in caught if "depthlab" in item.filename] == []
    assert_each_once(directory)
    assert "hp_metric" not in read(directory).Tags()["scalars"]


def test_the_layout_shows_training_and_validation_or_test_error(compose_config: Compose) -> None:
    (tensor,) = read(run(compose_config(*SMALL), "").directory).Tensors("custom_scalars__config__")
    (depth,) = layout_pb2.Layout.FromString(tensor.tensor_proto.string_val[0]).category
    assert depth.title == "depth"
    assert [list(chart.multiline.tag) for chart in depth.chart] == [
        ["^train/err$"],
        ["^(val|test)/err$"],
        ["^train/err$", "^(val|test)/err$"],
    ]


def test_hparams_names_what_was_run_and_the_final_test_error(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL, "seed=3", "optimizer.lr=0.05"), "").directory
    events = read(directory)
    parts = hparams(events)
    metrics = [info.name.tag for info in parts[metadata.EXPERIMENT_TAG].experiment.metric_infos]
    assert metrics[0] == "final/test_err"
    recorded = read_record(directory)["metrics"]
    for name in metrics:
        (point,) = events.Scalars(name)
        assert point.value == pytest.approx(recorded[name.removeprefix("final/").replace("_", "/")])
    start = parts[metadata.SESSION_START_INFO_TAG].session_start_info.hparams
    shown = {key: value.string_value or value.number_value for key, value in start.items()}
    assert shown["model.name"] == "resnet8"
    assert shown["model.residual"] == "true"
    assert (shown["model.depth"], shown["seed"], shown["optimizer.lr"], shown["data.batch_size"]) == (8, 3, 0.05, 64)


def test_histograms_hold_each_layer_of_a_stage(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL), "").directory
    events, recorded = read(directory), load_arrays(directory, "gradients")
    assert events.Tags()["histograms"] == [f"gradient_norm/{name}" for name in ("conv1", "layer1", "layer2", "layer3")]
    for idx, point in enumerate(events.Histograms("gradient_norm/layer2")):
        norms = recorded["norm"][idx][[name.startswith("layer2") for name in recorded["layer"]]]
        assert point.histogram_value.num == len(norms) == 2
        assert point.histogram_value.max == pytest.approx(norms.max())


@pytest.mark.slow
@pytest.mark.parametrize("step", [10, *slowly(8, 12)])
def test_a_continuation_writes_nothing_twice(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(gradients, "STEPS_PER_PROBE", 1)
    overrides = (*SMALL, f"checkpoint.every_steps={step}")
    directory = run(compose_config(*overrides), "").directory
    forget_beyond(directory, step)
    run(compose_config(*overrides), "")
    assert_each_once(directory)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_writes_nothing_twice(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL), "").directory
    forget_beyond(directory, -1)
    run(compose_config(*SMALL), "")
    assert_each_once(directory)


def test_a_run_that_failed_in_its_test_is_completed(compose_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the cable was pulled")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "test", fail)
        with pytest.raises(RuntimeError, match="cable"):
            run(compose_config(*SMALL), "")
    assert_each_once(run(compose_config(*SMALL), "").directory)


def forget_beyond(directory: Path, step: int) -> None:
    """Leave what a kill after the checkpoint of `step` would."""
    for path in list_checkpoints(directory):
        if int(path.stem.split("-")[1]) > step:
            path.unlink()
    # Event files are read in the order of their names, which count seconds and then the files of a process.
    time.sleep(1.05 - time.time() % 1)
    record = json.loads((directory / "record.json").read_text())
    (directory / "record.json").write_text(json.dumps({**record, "status": "running"}))


def test_gradients_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    logger = EventFileLogger(tmp_path, name="run", version="")
    measured = gradients.GradientNorms.__new__(gradients.GradientNorms)
    measured.layers = ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    measured.series = {5: np.array([np.nan, np.inf, 2.0], dtype=np.float32)}
    module = classifier()
    module.step = 5
    Dashboard(None, measured, None, {}).on_train_epoch_end(trainer(loggers=[logger]), module)  # type: ignore[arg-type]
    logger.finalize("success")
    events = read(tmp_path / "run")
    assert events.Tags()["histograms"] == ["gradient_norm/layer1"]
    assert events.Histograms("gradient_norm/layer1")[0].histogram_value.num == 1


def test_the_first_inputs_are_shown_as_the_network_gets_them(compose_config: Compose) -> None:
    shown = picture(read(run(compose_config(*SMALL), "").directory), "inputs/train")
    assert shown.shape == (4 * 34, 8 * 34, 3)
    assert (shown.min(), shown.max()) == (0, 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_is_filled_row_by_row(channels: int) -> None:
    images = torch.arange(5.0)[:, None, None, None].expand(5, channels, 8, 8)
    shown = tensorboard_images.grid(images, 4)
    assert shown.shape == (2 * 34, 4 * 34, 3)
    centres = shown[17::34, 17::34, 0]
    assert centres.tolist() == [[0, 64, 128, 191], [255, 255, 255, 255]]


def test_colours_and_directions_stay_as_they_are() -> None:
    images = torch.zeros(1, 3, 32, 32)
    images[0, 0, 0, :] = 1.0  # the first row is red
    shown = tensorboard_images.grid(images, 1)[1:-1, 1:-1]
    assert (shown[0] == [255, 0, 0]).all()
    assert (shown[1:] == 0).all()


def cells(shown: tensorboard_images.Picture, num_classes: int) -> Iterable[tuple[int, int, list[int]]]:
    """Row, column and colour of each cell, at a corner that no number covers."""
    for row in range(num_classes):
        for column in range(num_classes):
            y, x = (tensorboard_images.MARGIN + idx * tensorboard_images.CELL + 1 for idx in (row, column))
            yield row, column, shown[y, x].tolist()


def test_a_confusion_matrix_is_coloured_by_share() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 0])
    shown = tensorboard_images.confusion(labels, predicted, ["cat", "dog", "a very long name of a class"])
    assert shown.shape == (tensorboard_images.MARGIN + 3 * tensorboard_images.CELL,) * 2 + (3,)
    colours = {(row, column): colour for row, column, colour in cells(shown, 3)}
    white = [255, 255, 255]
    assert colours[1, 1] == [33, 102, 172]
    assert colours[2, 0] == [178, 24, 43]
    assert colours[1, 0] == colours[0, 2] == colours[1, 2] == colours[2, 1] == colours[2, 2] == white
    assert colours[0, 0] not in (white, colours[1, 1])
    assert colours[0, 1] not in (white, colours[2, 0])


def test_many_classes_are_painted_without_names() -> None:
    labels = np.arange(100)
    assert tensorboard_images.confusion(labels, labels, [str(label) for label in labels]).shape == (400, 400, 3)
