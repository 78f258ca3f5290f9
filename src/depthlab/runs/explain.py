"""Where in an image a trained network finds its answer: attributions by captum, drawn over the images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from depthlab.config.nearest import nearest
from depthlab.data.image_files import Bytes
from depthlab.data.pictures import AnyImages
from depthlab.errors import InputError
from depthlab.models.freezing import streams

if TYPE_CHECKING:
    from depthlab.runs.open_run import OpenRun

METHODS = ("gradcam", "saliency", "occlusion")
BATCH = 32
WINDOWS = 8  # of an occlusion along the shorter side, each moved on by half its size
OPACITY = 0.65  # of the map where it is largest
TILE = 128  # pixels of an image's longer side on a sheet; small ones are magnified by a whole factor
GAP, CAPTION, HEAD = 6, 30, 20


@dataclass(frozen=True)
class Attributions:
    """What a run's network says of N images, and where it finds that.

    Args:
        run: the run's name.
        names: the images' files, or their numbers.
        images: as the network saw them before normalisation, uint8 (N, H, W, C).
        maps: float32 (N, H, W) from 0 to 1, each divided by its largest value; 0 where nothing speaks for the class.
        classes: the names of the likeliest classes, which are what the maps explain.
        confidence: their probabilities, float32 (N,).
        layer: of Grad-CAM; empty for the other methods.
    """

    run: str
    names: list[str]
    images: Bytes
    maps: NDArray[np.float32]
    classes: list[str]
    confidence: NDArray[np.float32]
    layer: str


def explain(
    run: OpenRun,
    images: AnyImages,
    method: str = "gradcam",
    layer: str | None = None,
    watch: Callable[[int], None] = lambda done: None,
) -> Attributions:
    """Attribute the likeliest class of each image to its pixels, in float32.

    Grad-CAM (Selvaraju et al. 2017) is captum's LayerGradCam without its negative part, interpolated to the image's
    size. Saliency is the largest absolute gradient over the channels. Occlusion is by how much the class's score falls
    when a square is replaced by the mean image.

    Args:
        run: what `open_run` returns.
        images: as `OpenRun.preprocess` takes them.
        method: one of `METHODS`.
        layer: of Grad-CAM; by default the last stage, of a network in two streams that of colour.
        watch: is told how many images are done.

    Raises:
        InputError: captum is not installed, there is no such method or layer, the layer has no maps, the run learned no
            classes, or something is no image.
    """
    if method not in METHODS:
        raise InputError(f"method={method}: no such method. {nearest(method, METHODS)}")
    if layer is not None and method != "gradcam":
        raise InputError(f"layer={layer}: method={method} looks at the whole network. Only gradcam has a layer.")
    if not run.classes:
        raise InputError(
            f"{run.name} has task={run.config.task.registered}: it names no classes that could be explained."
        )
    # A copy, whose hooks and gradients nobody else meets.
    network = _without_checkpointing(copy.deepcopy(run.network())).requires_grad_(True)
    layer = _checked_layer(run, network, layer) if method == "gradcam" else ""
    pictures = run.preprocessing.pictures(images)
    parts, seen, scores = [], [], []
    for start in range(0, len(pictures), BATCH):
        seen.append(pictures.batch(start, min(start + BATCH, len(pictures))))
        inputs = run.preprocess(seen[-1])
        with torch.no_grad():
            scores.append(network(inputs).softmax(dim=1))
        parts.append(_attribute(network, inputs, scores[-1].argmax(dim=1), method, layer))
        watch(start + len(inputs))
    confidence, labels = torch.cat(scores).max(dim=1)
    maps = torch.cat(parts)
    maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    classes = [run.classes[idx] for idx in labels.tolist()]
    return Attributions(
        run.name, pictures.names, np.concatenate(seen), maps.numpy(), classes, confidence.numpy(), layer
    )


def _attribute(network: nn.Module, inputs: Tensor, targets: Tensor, method: str, layer: str) -> Tensor:
    """Maps (n, H, W), not negative."""
    try:
        from captum.attr import LayerAttribution, LayerGradCam, Occlusion, Saliency
    except ImportError:
        raise InputError("captum is not installed. Type: pip install -e '.[explain]'") from None
    size = (inputs.shape[2], inputs.shape[3])
    if method == "gradcam":
        maps = LayerGradCam(network, network.get_submodule(layer)).attribute(inputs, target=targets)
        if maps.dim() != 4:
            raise InputError(f"layer={layer} has no maps (n, C, H, W) for Grad-CAM. Use method=saliency or occlusion.")
        interpolated: Tensor = LayerAttribution.interpolate(maps.detach(), size, "bilinear")
        return interpolated[:, 0].clamp(min=0)
    if method == "saliency":
        found: Tensor = Saliency(network).attribute(inputs.requires_grad_(True), target=targets)
        return found.detach().amax(dim=1)
    side = max(1, 2 * min(size) // WINDOWS)
    stride = max(1, side // 2)
    fallen = Occlusion(network).attribute(
        inputs, (inputs.shape[1], side, side), strides=(inputs.shape[1], stride, stride), target=targets, baselines=0
    )
    return torch.as_tensor(fallen).detach().float().mean(dim=1).clamp(min=0)


def _checked_layer(run: OpenRun, network: nn.Module, layer: str | None) -> str:
    if layer is None:
        prefix, stream = next(iter(streams(network).items()))
        stages = getattr(stream, "stage_names", ())
        if not stages:
            names = ", ".join(name for name, _ in network.named_children())
            raise InputError(f"{run.name}: its network names no stages. Give layer=..., one of {names} or inside them.")
        layer = f"{prefix}{stages[-1]}"
        layer = layer if dict(network.named_modules()).get(layer) else f"{prefix}features.{stages[-1]}"
    run.layer(layer)  # raises InputError where there is none
    return layer


def _without_checkpointing(network: nn.Module) -> nn.Module:
    """Stages that compute their activations twice would call captum's hooks twice."""
    for module in network.modules():
        if hasattr(module, "activation_checkpointing"):
            module.activation_checkpointing = False  # type: ignore[assignment]  # a plain attribute to nn.Module
    return network


def overlay(image: Bytes, values: NDArray[np.float32]) -> Bytes:
    """The image (H, W, C) with a map (H, W) from 0 to 1 over it: bytes (H, W, 3), the image itself where it is 0."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](values)[..., :3]
    weight = OPACITY * values[..., None]
    mixed = (1 - weight) * np.broadcast_to(image, (*image.shape[:2], 3)) + weight * 255 * colours
    drawn: Bytes = mixed.round().astype(np.uint8)
    return drawn


def draw_sheet(found: Sequence[Attributions], labels: Sequence[str] = ()) -> Image.Image:
    """A row an image: the image itself, then each run's map over it, above the run's class and its confidence.

    Args:
        found: of each run, the same images.
        labels: the true class of each image, where it is known.
    """
    first = found[0]
    height, width = first.images.shape[1:3]
    factor = max(1, TILE // max(height, width))
    wide, tall = max(TILE, factor * width), factor * height
    font = ImageFont.load_default(11)
    size = (GAP + (1 + len(found)) * (wide + GAP), HEAD + len(first.names) * (tall + CAPTION))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    titles = ["image", *(_title(each) for each in found)]
    for column, title in enumerate(titles):
        draw.text((GAP + column * (wide + GAP), 4), title, "black", font)
    for row in range(len(first.names)):
        top = HEAD + row * (tall + CAPTION)
        tiles = [overlay(first.images[row], np.zeros((height, width), np.float32))]
        tiles += [overlay(each.images[row], each.maps[row]) for each in found]
        name = Path(first.names[row]).name
        words = [f"{labels[row]}, {name}" if labels else name]
        words += [f"{each.classes[row]} {each.confidence[row]:.2f}" for each in found]
        for column, (tile, word) in enumerate(zip(tiles, words, strict=True)):
            left = GAP + column * (wide + GAP)
            canvas.paste(Image.fromarray(tile.repeat(factor, 0).repeat(factor, 1)), (left, top))
            draw.text((left, top + tall + 2), word[:22], "black", font)
    return canvas


def _title(found: Attributions) -> str:
    """The network's name within a run's, which fits above a tile."""
    return found.run.split("-")[1] if found.run.count("-") > 2 else found.run[:20]


def write_overlays(found: Attributions, folder: Path) -> list[dict[str, Any]]:
    """Write a PNG for each image, of the image's own size; rows of image, class, confidence and file."""
    rows = []
    for idx, name in enumerate(found.names):
        file = folder / f"{idx:04d}_{Path(name).stem}_{found.run}.png"
        Image.fromarray(overlay(found.images[idx], found.maps[idx])).save(file, optimize=True)
        confidence = float(found.confidence[idx])
        rows.append(
            {"run": found.run, "image": name, "class": found.classes[idx], "confidence": confidence, "file": str(file)}
        )
    return rows
