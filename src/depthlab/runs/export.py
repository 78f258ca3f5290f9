"""A run's network for use elsewhere: exported with its preprocessing, loaded again, compared and timed."""

from __future__ import annotations

import copy
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depthlab.data.pictures import Preprocessing
from depthlab.errors import InputError
from depthlab.records.checkpoints import load_checkpoint_file, save_safetensors
from depthlab.records.record import as_written
from depthlab.runs.open_run import OpenRun, open_run

if TYPE_CHECKING:
    from depthlab.data.image_files import Bytes

FILES = {"onnx": "model.onnx", "torch_export": "model.pt2", "safetensors": "model.safetensors"}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch_export": (), "safetensors": ("safetensors",)}
INT8 = ("static", "dynamic")
TOLERANCE = 1e-4  # of scores, absolute; beside 1e-5 of their size, which float32 does not keep over many layers
INT8_POINTS = 1.0  # by which the error of an INT8 network may differ
BATCHES = (1, 3, 128)
TIMED = {1: 30, 128: 6}  # how often a batch of each size is timed
CALIBRATED_ON = 512  # training images
INPUT, OUTPUT = "images", "scores"

Answer = Callable[["Bytes"], NDArray[np.float32]]


class Deployed(nn.Module):
    """A network with its preprocessing: bytes (n, H, W, C) in, scores float32 (n, num_outputs) out.

    Args:
        network: in evaluation mode; it is copied.
        preprocessing: the run's.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to("cpu", torch.float32)
        self.network.to(memory_format=torch.contiguous_format)
        self.register_buffer("scale", preprocessing.normalization.scale)
        self.register_buffer("offset", preprocessing.normalization.offset)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """x * scale - offset, channels first, then the network."""
        normalized = images.float() * self.scale - self.offset
        scores: Tensor = self.network(normalized.permute(0, 3, 1, 2).contiguous())
        return scores.float()


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Args:
        what: the network and how it runs.
        megabytes: of its file.
        err: top-1 error of the test set in percent; None without classes.
        difference: the largest difference of a score from eager PyTorch in float32.
        latency_ms: median milliseconds of a batch, by its size.
    """

    what: str
    megabytes: float | None
    err: float | None
    difference: float | None
    latency_ms: dict[int, float]


def check_format(name: str, int8: str | None) -> None:
    """Refuse formats that there are not, and those whose libraries are not installed."""
    if name not in FILES:
        raise InputError(f"format={name}: the choices are {', '.join(FILES)}.")
    if int8 is not None and (int8 not in INT8 or name != "onnx"):
        raise InputError(f"int8={int8}: the choices are {', '.join(INT8)}, with format=onnx.")
    missing = [module for module in NEEDED[name] if find_spec(module) is None]
    if missing:
        raise InputError(f"format={name} needs {', '.join(missing)}: pip install 'depthlab[export]'")


def export(run: OpenRun, folder: Path, name: str, int8: str | None = None, weights: str = "last") -> list[Row]:
    """Write the network of a run into `folder`, load it again and compare it on the whole test set.

    Args:
        run: finished; its data are there.
        folder: is there, and empty. What it holds after an error is not to be used.
        name: of the format: "onnx", "torch_export" or "safetensors".
        int8: None, "static" (calibrated on training images) or "dynamic"; of format "onnx".
        weights: as in `OpenRun.network`.

    Returns:
        The comparison: eager PyTorch first, the file in `folder` last.

    Raises:
        InputError: the network cannot be exported, or what was exported answers otherwise; it says by how much.
    """
    check_format(name, int8)
    eager = Deployed(run.network(weights), run.preprocessing)
    path = folder / FILES[name]
    _write(run, eager, path, name, weights)
    candidates = {f"{name}, float32": path}
    if int8 is not None:
        candidates[f"{name}, INT8 {int8}"] = _quantize(path, run, int8)
    rows = _compare(run, _eager_answer(eager), {what: (file, _load(file)) for what, file in candidates.items()})
    if int8 is not None:
        path.unlink()
    return rows


def _write(run: OpenRun, eager: Deployed, path: Path, name: str, weights: str) -> None:
    if name == "safetensors":
        preprocessing, record = run.preprocessing.state(), as_written(run.record)
        state = run.network(weights).state_dict()
        save_safetensors(
            path, {"step": run.record.steps, "network": state, "preprocessing": preprocessing, "record": record}
        )
        return
    example = torch.zeros(2, *run.preprocessing.image_shape, dtype=torch.uint8)
    shapes = {INPUT: {0: torch.export.Dim("batch")}}
    try:
        with _quiet():
            if name == "torch_export":
                torch.export.save(torch.export.export(eager, (example,), dynamic_shapes=shapes), path)
                return
            torch.onnx.export(
                eager,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever an exporter makes of a network that it cannot trace
        reason = " ".join(str(error).split()[:30]) or type(error).__name__
        raise InputError(f"format={name}: the network of {run.name} cannot be exported ({reason} ...).") from None


def _quantize(path: Path, run: OpenRun, kind: str) -> Path:
    """An INT8 copy beside `path`."""
    from onnxruntime.quantization import quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, target = path.with_name("prepared.onnx"), path.with_name("model.int8.onnx")
    with _quiet():
        quant_pre_process(path, prepared)
        if kind == "dynamic":
            quantize_dynamic(prepared, target)
        else:
            layers = ["Conv", "Gemm", "MatMul"]
            quantize_static(prepared, target, _calibration(run), op_types_to_quantize=layers, per_channel=True)
    prepared.unlink()
    return target


def _calibration(run: OpenRun) -> Any:
    """Training images, drawn by a fixed seed, as onnxruntime's calibration asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    images = run.data("train").images
    chosen = np.sort(np.random.RandomState(0).permutation(len(images))[:CALIBRATED_ON])
    batches = iter([{INPUT: images[part]} for part in np.array_split(chosen, max(1, len(chosen) // 64))])

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # a library without types
        def get_next(self) -> dict[str, Any] | None:
            return next(batches, None)

    return Reader()


def _eager_answer(eager: nn.Module) -> Answer:
    def answer(images: Bytes) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(eager(torch.from_numpy(images)))

    return answer


def _load(path: Path) -> Answer:
    """What a user of the file would call, from the file alone."""
    if path.suffix == ".pt2":
        return _eager_answer(torch.export.load(path).module())
    if path.suffix == ".safetensors":
        assert load_checkpoint_file(path)
        reopened = open_run(path)
        return _eager_answer(Deployed(reopened.network(), reopened.preprocessing))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run([OUTPUT], {INPUT: images})[0])


def _compare(run: OpenRun, eager: Answer, files: dict[str, tuple[Path, Answer]]) -> list[Row]:
    images, labels, classes = run.data("test")
    batch = BATCHES[-1]
    expected = np.concatenate([eager(images[start : start + batch]) for start in range(0, len(images), batch)])
    expected_err = _error(expected, labels) if classes else None
    times = _latency({"eager": eager, **{what: answer for what, (_, answer) in files.items()}}, images)
    rows = [Row("eager PyTorch, float32", None, expected_err, None, times["eager"])]
    for what, (path, answer) in files.items():
        scores = np.concatenate([answer(images[start : start + batch]) for start in range(0, len(images), batch)])
        small = [answer(images[:size]) - eager(images[:size]) for size in BATCHES]
        differences = [scores - expected, *small]
        err = _error(scores, labels) if classes else None
        largest = max(float(np.abs(difference).max()) for difference in differences)
        rows.append(Row(what, path.stat().st_size / 1e6, err, largest, times[what]))
        _check(rows[-1], expected_err, TOLERANCE + 1e-5 * float(np.abs(expected).max()))
    return rows


def _check(row: Row, expected: float | None, tolerance: float) -> None:
    """Raise InputError where an export answers otherwise than the network it was made of."""
    is_int8 = "INT8" in row.what
    if expected is not None and row.err is not None and abs(row.err - expected) > (INT8_POINTS if is_int8 else 0):
        raise InputError(
            f"{row.what}: its error on the test set is {row.err:.2f} %, that of the network {expected:.2f} %"
            f"{f'; {INT8_POINTS:g} point is allowed' if is_int8 else ''}. Nothing was kept."
        )
    if not is_int8 and not (row.difference is not None and row.difference <= tolerance):
        raise InputError(
            f"{row.what}: its scores differ by up to {row.difference:.2g} from those of the network, where "
            f"{tolerance:.2g} is allowed. Nothing was kept."
        )


def _error(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    return 100 * int((scores.argmax(axis=1) != labels).sum()) / len(labels)


def _latency(answers: dict[str, Answer], images: Any) -> dict[str, dict[int, float]]:
    """Median milliseconds by batch size, the networks in turns: what else the machine does slows all of them."""
    found: dict[str, dict[int, float]] = {what: {} for what in answers}
    for size, repeats in TIMED.items():
        batch = np.resize(images[:size], (size, *images.shape[1:]))
        seconds: dict[str, list[float]] = {what: [] for what in answers}
        for turn in range(repeats + 1):
            for what, answer in answers.items():
                started = time.perf_counter()
                answer(batch)
                if turn:  # the first one chooses kernels and fills caches
                    seconds[what].append(time.perf_counter() - started)
        for what, each in seconds.items():
            found[what][size] = 1000 * statistics.median(each)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """While it is held, exporters do not advertise or repeat themselves."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
