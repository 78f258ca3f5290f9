"""A trained run as one object: its record, curves, network and images, and what the network says of other images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.progress import track
from torch import Tensor, nn

from depthlab.config.console import TextConsole
from depthlab.config.nearest import nearest
from depthlab.config.schema import TrainConfig
from depthlab.data.pictures import AnyImages, Pictures, Preprocessing
from depthlab.errors import InputError
from depthlab.records.checkpoints import load_checkpoint_file
from depthlab.records.curve_file import read_curves
from depthlab.records.record import Record, read_record
from depthlab.runs import as_table
from depthlab.runs.build import build_data
from depthlab.runs.evaluate import (
    build_recorded,
    check_finished,
    check_recorded,
    check_same_data,
    find_run,
    load_last,
    record_of,
    say_other_code,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from depthlab.data.datamodule import ImageDataModule
    from depthlab.data.device_images import Normalizer
    from depthlab.data.image_files import Images
    from depthlab.runs.predict import Predictions

AVERAGE = "WeightAverage"  # the key under which callbacks=ema keeps its state


class LabelledImages(NamedTuple):
    """Images of a split, uint8 (N, H, W, C), with targets as `ImageSource` has them, and the classes' names."""

    images: Images
    labels: NDArray[Any]
    classes: tuple[str, ...]


def open_run(path: str | Path, data_dir: str | Path | None = None, device: str = "cpu") -> OpenRun:
    """Open a run that was trained.

    Nothing that is read can make this run code: a configuration chooses among installed networks by name, and
    checkpoints are loaded as tensors and plain data.

    Args:
        path: a run's directory, a folder with one run below it, PUBLISHED_FOLDER/RUN, or a checkpoint file.
        data_dir: where data sets lie, if not where they were.
        device: on which the network computes.

    Raises:
        InputError: there is no such run, or its record is damaged. Weights and data are read when they are needed.
    """
    place = Path(path)
    if place.is_file():
        content = load_checkpoint_file(place)
        return OpenRun(place, record_of(content, place), content, data_dir, device)
    directory = find_run(place)
    return OpenRun(directory, read_record(directory), None, data_dir, device)


class OpenRun:
    """A run that was trained; see `open_run`.

    Args:
        place: the run's directory, or the checkpoint's file.
        record: the run's.
        content: of the checkpoint, where that is what was opened.
        data_dir: where data sets lie, if not where they were.
        device: on which the network computes.
    """

    def __init__(
        self, place: Path, record: Record, content: dict[str, Any] | None, data_dir: str | Path | None, device: str
    ) -> None:
        self.place = place
        self.record = record
        self.device = torch.device(device)
        self._data_dir = data_dir
        self._content = content
        self._networks: dict[str, nn.Module] = {}

    def __repr__(self) -> str:
        return f"<run {self.name}, {self.record.status}, {self.record.steps:,} steps>"

    @property
    def name(self) -> str:
        """The name of the run's directory."""
        return self.record.run or self.place.name

    @cached_property
    def config(self) -> TrainConfig:
        """The run's configuration, checked. Raises InputError where it is not valid here."""
        config = check_recorded(self.record)
        say_other_code(config, self.record)
        if self._data_dir is not None:
            config.paths.data_dir = str(self._data_dir)
        return config

    def curves(self) -> Any:
        """A row for each step at which something was logged: a pandas table where pandas is installed, else dicts."""
        rows: dict[int, dict[str, float]] = {}
        for name, curve in read_curves(self.place).items():
            for step, value in curve:
                rows.setdefault(step, {"step": step})[name] = value
        return as_table([rows[step] for step in sorted(rows)])

    def network(self, weights: str = "last") -> nn.Module:
        """The network in evaluation mode; each call returns the same one.

        Args:
            weights: "last", or "ema" for the averages of a run with callbacks=ema.

        Raises:
            InputError: the run did not finish, or has no such weights.
        """
        if weights not in self._networks:
            network = build_recorded(self.config, self.record, self._state(weights), str(self.place))
            self._networks[weights] = network.eval().to(self.device)
        return self._networks[weights]

    def layer(self, name: str, weights: str = "last") -> nn.Module:
        """A module of the network by its name. Raises InputError where there is none."""
        layers: dict[str, nn.Module] = dict(self.network(weights).named_modules())
        if not name or name not in layers:
            hint = nearest(name, [each for each in layers if each])
            if hint.startswith("Valid"):  # hundreds of names: those of the first level are enough
                hint = nearest("", [each for each in layers if each and "." not in each])
            raise InputError(f"layer={name}: {self.name} has no such layer. {hint}")
        return layers[name]

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """From the checkpoint; of a run from before checkpoints held it, from its training images."""
        state = self._checkpoint().get("preprocessing")
        if state is not None:
            return Preprocessing.from_state(state, str(self.place))
        return self._data.preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their labels."""
        return self.preprocessing.classes

    def preprocess(self, images: AnyImages) -> Tensor:
        """Images as the network expects them, float32 (n, C, H, W).

        Args:
            images: uint8 arrays (H, W, C) or (N, H, W, C), files, folders, PIL pictures, or a list of these. Those of
                another size or mode are converted as the run's own images were.

        Raises:
            InputError: something is no image.
        """
        pictures = self.preprocessing.pictures(images)
        return self._normalized(pictures, 0, len(pictures))

    def outputs(self, images: AnyImages, weights: str = "last", flip: bool = False) -> Tensor:
        """What the network computes of images, float32 (n, num_outputs) on the CPU.

        Batches and precision are those of the run's own evaluation, so that equal images give equal numbers.

        Args:
            images: as in `preprocess`, or its `Pictures`.
            weights: as in `network`.
            flip: mirrors the images.
        """
        network = self.network(weights)
        found = []
        with torch.inference_mode(), self._precision():
            for batch in self._batches(images):
                found.append(network(batch.flip(3) if flip else batch).float().cpu())
        return torch.cat(found)

    def activations(self, images: AnyImages, layer: str, weights: str = "last") -> Tensor:
        """The output of a layer for each image, on the CPU.

        Args:
            images: as in `preprocess`.
            layer: the module's name, such as "layer2".
            weights: as in `network`.
        """
        seen: list[Tensor] = []
        hook = self.layer(layer, weights).register_forward_hook(
            lambda module, inputs, output: seen.append(output.float().cpu())
        )
        try:
            self.outputs(images, weights)
        finally:
            hook.remove()
        return torch.cat(seen)

    def predict(self, images: AnyImages, top: int = 5, weights: str = "last") -> Predictions:
        """The classes of images, with probabilities.

        Args:
            images: as in `preprocess`.
            top: how many classes to name for each image.
            weights: as in `network`.

        Raises:
            InputError: something is no image, or the run learned no classes.
        """
        from depthlab.runs.predict import predict

        return predict(self, images, top, weights)

    def data(self, split: str = "test") -> LabelledImages:
        """The images of a split: train, val or test.

        Raises:
            InputError: the data are absent, or other ones than the run saw.
        """
        if split not in self._data.arrays:
            raise InputError(f"split={split}: there is no such split. {nearest(split, list(self._data.arrays))}")
        return LabelledImages(*self._data.arrays[split], self._data.classes)

    @cached_property
    def _data(self) -> ImageDataModule:
        data = build_data(self.config, may_download=self._data_dir is not None)
        check_same_data(data, self.record)
        return data

    def _checkpoint(self) -> dict[str, Any]:
        if self._content is None:
            check_finished(self.record, self.place)
            self._content = load_last(self.place, self.record)
        return self._content

    def _state(self, weights: str) -> dict[str, Tensor]:
        content = self._checkpoint()
        if weights == "last":
            return dict(content["network"])
        if weights != "ema":
            raise InputError(
                f"weights={weights}: a run keeps those of its last steps (last), and with callbacks=ema their averages "
                "(ema). A best checkpoint is not kept: choosing one would read the validation set a second time."
            )
        average = content.get("callbacks", {}).get(AVERAGE, {}).get("average")
        if average is None:
            raise InputError(f"weights=ema: {self.name} averaged no weights. It would with callbacks=ema.")
        return {name.removeprefix("module."): value for name, value in average.items() if name.startswith("module.")}

    def _batches(self, images: AnyImages) -> Iterator[Tensor]:
        pictures = images if isinstance(images, Pictures) else self.preprocessing.pictures(images)
        size = self.config.data.eval_batch_size
        starts = range(0, len(pictures), size)
        console = TextConsole(stderr=True)
        is_hidden = len(starts) < 2 or not console.is_terminal
        for start in track(starts, self.name, console=console, transient=True, disable=is_hidden):
            yield self._normalized(pictures, start, min(start + size, len(pictures)))

    def _normalized(self, pictures: Pictures, start: int, stop: int) -> Tensor:
        return self._normalizer.eval(torch.from_numpy(pictures.batch(start, stop)).to(self.device))

    @cached_property
    def _normalizer(self) -> Normalizer:
        return self.preprocessing.normalizer(self.device)

    def _precision(self) -> AbstractContextManager[Any]:
        """Lightning's mixed precision is torch's autocast."""
        types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        dtype = types.get(self.record.precision or self.config.trainer.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)
