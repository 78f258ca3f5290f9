"""The project's side: the real command line, Hydra, Lightning, loggers, callbacks and all, under a clock.

python -m depthlab_benchmarks.ours DESCRIPTOR TRAIN.PY OVERRIDE...
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from depthlab.runs import process as job
from depthlab_benchmarks.clock import Clock


def main() -> None:
    """Run the command; the clock ends the process."""
    clock = Clock(int(sys.argv[1]))
    script = Path(sys.argv[2]).resolve()
    job.perform = watched(job.perform, clock)
    sys.argv = [str(script), *sys.argv[3:]]
    runpy.run_path(str(script), run_name="__main__")


def watched(perform: Callable[..., int], clock: Clock) -> Callable[..., int]:
    """`perform` with marks between the parts of the start-up, and a clock on the trainer it makes."""

    def call(tree: dict[str, Any], command: str) -> int:
        clock.mark("interpreter and Hydra")
        import torch  # noqa: F401

        clock.mark("torch")
        import lightning.pytorch  # noqa: F401

        clock.mark("Lightning")
        from depthlab.runs import run as story

        clock.mark("other imports")
        watches = {
            "build_data": partial(_marked, clock=clock, part="data"),
            "build_network": partial(_marked, clock=clock, part="network"),
            "build_trainer": partial(_clocked, clock=clock),
        }
        for name, watch in watches.items():
            setattr(story, name, watch(getattr(story, name)))
        return perform(tree, command)

    return call


def _marked(build: Callable[..., Any], clock: Clock, part: str) -> Callable[..., Any]:
    @wraps(build)
    def call(*args: Any) -> Any:
        built = build(*args)
        clock.mark(part)
        return built

    return call


def _clocked(build_trainer: Callable[..., Any], clock: Clock) -> Callable[..., Any]:
    """`build_trainer`, the last of the run's own callbacks carrying the clock.

    A callback more would be one that the run does not have, and might keep it from replaying captured steps.
    """

    @wraps(build_trainer)
    def call(config: Any, directory: Path, loggers: list[Any], callbacks: list[Any], **options: Any) -> Any:
        trainer = build_trainer(config, directory, loggers, callbacks, **options)
        last, seen = callbacks[-1], 0
        start, batch_end = last.on_train_start, last.on_train_batch_end

        def on_train_start(trainer: Any, module: Any) -> None:
            start(trainer, module)
            clock.set_device(module.device.type == "cuda")
            watch_parts(trainer, module, clock)

        def on_train_batch_end(trainer: Any, module: Any, *rest: Any) -> None:
            nonlocal seen
            batch_end(trainer, module, *rest)
            if module.step > seen:
                done, seen = module.step - seen, module.step
                clock.steps_done(done)

        last.on_train_start, last.on_train_batch_end = on_train_start, on_train_batch_end
        return trainer

    return call


def watch_parts(trainer: Any, module: Any, clock: Clock) -> None:
    """Time what is the network (forward, backward, update) and what is the input; the rest is ours and Lightning's.

    Of steps that are taken in blocks only the input can be told apart: Lightning sees nothing of their updates.
    """
    spans = clock.spans
    trainer.datamodule.train_batch = spans.timed("input", trainer.datamodule.train_batch)
    if not module.automatic_optimization:
        return
    module.train_forward = spans.timed("network", module.train_forward)
    backward = spans.timed("network", module.backward)
    before_update = module.on_before_optimizer_step

    def noted_backward(loss: Any, *args: Any, **kwargs: Any) -> None:
        clock.note_loss(loss)
        backward(loss, *args, **kwargs)

    def on_before_optimizer_step(optimizer: Any) -> None:
        before_update(optimizer)
        spans.begin("network")

    module.backward, module.on_before_optimizer_step = noted_backward, on_before_optimizer_step
    trainer.optimizers[0].register_step_post_hook(lambda *_: spans.end("network"))


if __name__ == "__main__":
    main()
