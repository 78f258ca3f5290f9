"""The steps of one run with the objects that they share: build, fit, test once, record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from depthlab.config.hardware import Hardware, device_name, peak_memory_mib, use_threads
from depthlab.config.schema import TrainConfig, as_dict
from depthlab.errors import InputError
from depthlab.records.atomic_files import replacing
from depthlab.records.checkpoints import load_newest, state_sha256
from depthlab.records.journal import Journal
from depthlab.runs import exits
from depthlab.runs.build import build_data, build_module, build_network, start_from
from depthlab.runs.code import in_words, refuse_other_code
from depthlab.runs.describe import describe_network, extensions_in_use, final_metrics
from depthlab.runs.extend import find_shorter
from depthlab.runs.fit import Fit
from depthlab.runs.outcome import Outcome, describe
from depthlab.training.callbacks.stopwatch import Stopwatch
from depthlab.training.chosen_callbacks import build_chosen
from depthlab.training.compiling import compile_training
from depthlab.training.endings import Diverged, Interrupted, finite
from depthlab.training.resume_state import load_errors

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from depthlab.config.identity import Identity
    from depthlab.data.datamodule import ImageDataModule
    from depthlab.records.record import Record
    from depthlab.runs.code import Code
    from depthlab.runs.observer import Observer
    from depthlab.training.module import SupervisedModule


class RunInProgress:
    """One run, from its configuration to its record.

    Args:
        config: checked, its hardware resolved.
        command: what a person types to get this run.
        identity: the run's.
        directory: the run's, held by this process or its first one.
        hardware: what this machine computes on.
        existing: the record of earlier segments; None where there are none.
        code: the source that this process runs.
        observer: is told about the run.
        writes: False in the processes beside the first, which keep quiet.
    """

    def __init__(
        self,
        config: TrainConfig,
        command: str,
        identity: Identity,
        directory: Path,
        hardware: Hardware,
        existing: Record | None,
        code: Code,
        observer: Observer | None,
        writes: bool,
    ) -> None:
        self.config = config
        self.directory = directory
        self.code = code
        self.observer = observer
        self.stopwatch = Stopwatch()
        self.state = load_newest(directory, writes) if existing or not writes else None
        self.first_step: int = self.state["step"] if self.state else 0
        self._check_code(existing)
        self.images_before = existing.data.get("fingerprint") if existing else None
        self.journal = Journal(
            directory,
            identity,
            as_dict(config),
            command,
            device_name(config.trainer.accelerator, hardware),
            use_threads(config.trainer, hardware, existing.num_threads if existing else None),
            self.first_step,
            config.data.batch_size * config.trainer.accumulate_grad_batches,
            existing,
            writes=writes,
        )

    def _check_code(self, existing: Record | None) -> None:
        """A checkpoint knows the code that it is of, also where a later segment came to none."""
        if self.state is None or existing is None:
            return
        differences = self.code.differences(self.state.get("code") or existing.code)
        if differences and self.config.code == "same":
            refuse_other_code(self.directory, existing, differences)
        if differences:
            print(f"{self.directory.name}: goes on with other code than before (code=any): {in_words(differences)}")

    def prepare(self) -> None:
        """Read the data and build the network; nothing is written before.

        Raises:
            InputError: the run cannot start.
        """
        self._parts = self._build()

    def execute(self) -> Outcome:
        """Fit, test, record; `prepare` comes first."""
        data, module, chosen = self._parts
        try:
            self._announce()
            fit = Fit(
                self.config,
                self.directory,
                data,
                module,
                chosen,
                self.journal,
                self.stopwatch,
                self.state,
                self._watchers(),
            )
            fit.train()
            fit.test()
            # A measured loss may be infinite while batch norm's averages are young: that is no divergence.
            if not all(bool(parameter.isfinite().all()) for parameter in module.network.parameters()):
                raise Diverged(module.step, finite(fit.curves.latest))  # the last update spoilt the weights
            results = self._results(fit)
        except Diverged as diverged:
            last = {"step": diverged.step, **diverged.last_finite}
            self._close("diverged", diverged.step, divergence=last, metrics=diverged.last_finite)
            return self._outcome("diverged")
        except Interrupted:
            return self._outcome("interrupted")
        except InputError:
            raise  # The run was refused before it started.
        except Exception as error:
            self.fail(error)
            raise
        self._close("finished", module.step, **results)
        return self._outcome("finished")

    def _results(self, fit: Fit) -> dict[str, Any]:
        """What came out of a run that is tested; every process calls this, since it adds up their sums."""
        return {
            "metrics": final_metrics(fit.module, fit.curves),  # before the averages are measured in the same meters
            "stopped_early": fit.stopped_early(),
            "metrics_ema": fit.ema_metrics(),
            "weights_measured": "last",
            "weights_sha256": state_sha256(fit.module.network.state_dict()),
        }

    def _build(self) -> tuple[ImageDataModule, SupervisedModule, list[Callback]]:
        config = self.config
        for logger in config.loggers.values():
            logger.check_installed()
        data = build_data(config)
        self._mark("data")
        network = build_network(config, data.image_spec, data.num_outputs, data.normalization)
        self._mark("network")
        task = config.task.describe(data.num_outputs, config.metrics)
        chosen = build_chosen(config.callbacks, task["metrics"], data.num_images("val") > 0)
        self.journal.update(data=data.describe(), task=task, extensions=extensions_in_use(config))
        self._check_same_images()
        self.journal.update(model=describe_network(config, network, data.image_spec))
        if self.state:
            with load_errors(self.state):
                network.load_state_dict(self.state["network"])
        else:
            self.journal.update(weights=start_from(config, network))
        module = build_module(config, network, data.num_outputs)
        module.step = self.first_step
        if config.trainer.compile:
            compile_training(module, config.trainer.accelerator, config.trainer.compile_scope)
        return data, module, chosen

    def _mark(self, part: str) -> None:
        if self.observer:
            self.observer.mark(part)

    def _watchers(self) -> list[Callback]:
        return list(self.observer.callbacks()) if self.observer else []

    def _check_same_images(self) -> None:
        """A folder of images counts by its name, and the one of this name may be another now."""
        now = self.journal.record.data
        if self.state and self.images_before not in (None, now["fingerprint"]):
            raise InputError(
                f"{now.get('folder', now['name'])}: these are not the images that this run began with "
                f"(fingerprint {now['fingerprint']}, the record's {self.images_before}). "
                f"Bring those back, or remove {self.directory}."
            )

    def _announce(self) -> None:
        self.journal.record_code(self.code.as_dict())
        self.journal.write()
        if not self.journal.writes:
            return
        with replacing(self.directory / "config.yaml") as temporary:  # a link or a FIFO of this name is not opened
            OmegaConf.save(OmegaConf.create(self.journal.record.config), temporary)
        if len(self.journal.record.segments) > 1:
            print(f"{self.directory.name}: continues from step {self.first_step:,}")
        elif shorter := find_shorter(self.config, self.directory):
            extend = f"depthlab extend run={shorter} trainer.max_steps={self.config.trainer.max_steps}"
            print(f"{shorter.name} is the beginning of this run: {extend} trains the steps after it only")

    def fail(self, error: Exception) -> None:
        """Record an error that is not the user's.

        Raises:
            SystemExit: it is what a library made of a stop signal.
        """
        if exits.is_stop(error):
            raise SystemExit(exits.CONTINUE_ME) from error
        self._close("failed", self.journal.record.steps, failure={"reason": f"{type(error).__name__}: {error}"})

    def _close(self, status: str, step: int, **results: Any) -> None:
        memory = peak_memory_mib(self.config.trainer.accelerator)
        self.journal.close(status, step, self.stopwatch, peak_memory_mib=memory, **results)

    def _outcome(self, status: str) -> Outcome:
        return Outcome(status, describe(self.journal.record, self.directory), self.directory)
