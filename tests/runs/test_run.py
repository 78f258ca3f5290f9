"""One run from configuration to record: what it leaves, what a repetition does, what a continuation equals."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

import depthlab
from depthlab.config import hydra_options
from depthlab.config.images import ImageSpec
from depthlab.config.registry import groups, register
from depthlab.config.schema import TrainConfig, as_dict
from depthlab.data.datamodule import ImageDataModule
from depthlab.data.source import ImageSource
from depthlab.data.spec import DataSpec
from depthlab.errors import InputError
from depthlab.records.checkpoints import list_checkpoints
from depthlab.records.curve_file import read_curves
from depthlab.records.record import find_records, read_record
from depthlab.runs import execute
from depthlab.runs.build import build_data, build_network
from depthlab.runs.evaluate import evaluate_run, load_run
from depthlab.runs.images import UNKNOWN
from depthlab.runs.process import perform
from depthlab.runs.run import run
from depthlab.sweeps.preflight import check_images
from depthlab.training.endings import Interrupted
from depthlab.training.module import SupervisedModule

from ..conftest import Compose, Uninterrupted, slowly
from ..data.official import write_folder
from ..records.test_checkpoints import files_up_to
from ..typing_in import signals_restored
from ..whole_runs import SMALL, allow_bf16, forget_the_end, results, same_weights, set_status, stop_after, weights


def test_a_run_leaves_a_whole_record(compose_config: Compose) -> None:
    outcome = run(compose_config(*SMALL), "python train.py typed this")
    record = read_record(outcome.directory)
    assert outcome.status == record["status"] == "finished"
    assert record["command"] == "python train.py typed this"
    assert record["steps"] == 12
    assert record["model"]["name"] == "resnet8"
    assert record["model"]["num_params"] > 70_000
    assert record["model"]["num_macs"] > 100_000
    data = record["data"]
    assert (data["num_train"], data["num_val"], data["num_test"]) == (1300, 137, 360)
    assert record["wall_seconds"] > 0
    assert record["images_per_second"] > 0
    assert 100 < record["peak_memory_mib"] < 50_000
    assert record["device"].startswith("cpu: ")
    assert record["precision"] in ("bf16-mixed", "32-true")
    assert record["config"]["trainer"]["precision"] == record["precision"]
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert set(record["git"]) == {"commit", "dirty"}
    names = {f"{split}/{what}" for split in ("train", "val", "test") for what in ("loss", "err")}
    assert names | {"train/loss_running", "train/err_running"} == set(record["metrics"])
    assert f"test error {record['metrics']['test/err']:.2f} %" in outcome.line
    assert (outcome.directory / "config.yaml").exists()


def test_the_same_configuration_is_not_trained_twice(compose_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(compose_config(*SMALL), "")
    monkeypatch.setattr(Trainer, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    again = run(compose_config(*SMALL), "")
    assert "already finished" in again.line
    assert again.directory == first.directory


def test_another_seed_is_another_run_and_another_result(compose_config: Compose) -> None:
    runs = [run(compose_config(*SMALL, f"seed={seed}"), "").directory for seed in (0, 1)]
    assert not same_weights(*runs)
    assert read_record(runs[0])["seed"] == 0
    assert read_record(runs[0])["recipe"] == read_record(runs[1])["recipe"]


def test_rerun_moves_the_old_run_aside_and_repeats_it(compose_config: Compose) -> None:
    first = run(compose_config(*SMALL), "first").directory
    again = run(compose_config(*SMALL, "rerun=true"), "second").directory
    assert again == first
    assert read_record(first)["command"] == "second"
    (aside,) = (first.parent / ".aside").iterdir()
    assert read_record(aside)["command"] == "first"
    assert same_weights(first, aside)


@pytest.mark.parametrize("precision", ["bf16-mixed", *slowly("32-true")])
def test_one_seed_gives_one_result_bit_for_bit(
    compose_config: Compose, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_bf16(monkeypatch)
    runs = [
        run(compose_config(*SMALL, f"trainer.precision={precision}", f"name={name}"), "").directory
        for name in ("once", "twice")
    ]
    assert same_weights(*runs)
    assert results(runs[0]) == results(runs[1])


@pytest.mark.parametrize("precision", ["bf16-mixed", *slowly("32-true")])
@pytest.mark.parametrize("stop_at", [7, *slowly(2, 6)])
def test_a_continued_run_ends_as_if_it_had_never_stopped(
    compose_config: Compose,
    uninterrupted: Uninterrupted,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    stop_at: int,
) -> None:
    allow_bf16(monkeypatch)
    overrides = (*SMALL, f"trainer.precision={precision}", "checkpoint.every_steps=2")
    whole = uninterrupted(*overrides)
    with monkeypatch.context() as patch:
        stop_after(patch, stop_at)
        cut = run(compose_config(*overrides, "name=cut"), "")
    assert cut.status == "interrupted"
    assert read_record(cut.directory)["status"] == "running"
    assert read_record(cut.directory)["steps"] == stop_at
    finished = run(compose_config(*overrides, "name=cut"), "")
    assert finished.status == "finished"
    assert same_weights(whole, finished.directory)
    assert results(whole) == results(finished.directory)
    stretches = read_record(finished.directory)["stretches"]
    assert [(part["from_step"], part["to_step"]) for part in stretches] == [(0, stop_at), (stop_at, 12)]


@pytest.mark.slow
def test_a_continued_run_with_every_augmentation_ends_as_if_it_had_never_stopped(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = ("mixup=0.2", "cutmix=1", "color_jitter=0.4", "random_erasing=0.3", "label_smoothing=0.1")
    overrides = (*SMALL, *(f"augment.{key}" for key in augment), "checkpoint.every_steps=2")
    whole = run(compose_config(*overrides, "name=whole"), "").directory
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        run(compose_config(*overrides, "name=cut"), "")
    finished = run(compose_config(*overrides, "name=cut"), "")
    assert same_weights(whole, finished.directory)
    assert results(whole) == results(finished.directory)
    assert not same_weights(whole, run(compose_config(*SMALL, "name=off"), "").directory)


def test_other_images_under_the_name_of_a_run_are_refused(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_folder(tmp_path / "one" / "flowers", {"rose": 9, "tulip": 9})
    write_folder(tmp_path / "two" / "flowers", {"rose": 9, "tulip": 9}, seed=1)
    overrides = (*SMALL, "data=image_folder", "data.batch_size=4", "data.image_size=8", "data.crop_padding=0")
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        run(compose_config(*overrides, f"data.folder={tmp_path / 'one' / 'flowers'}"), "")
    with pytest.raises(InputError, match=r"flowers: these are not the images"):
        run(compose_config(*overrides, f"data.folder={tmp_path / 'two' / 'flowers'}"), "")
    (tmp_path / "one").rename(tmp_path / "moved")
    finished = run(compose_config(*overrides, f"data.folder={tmp_path / 'moved' / 'flowers'}"), "")
    assert finished.status == "finished"
    assert read_record(finished.directory)["data"]["folder"] == "flowers"


@pytest.fixture
def own_reader() -> Iterator[None]:
    """data=mine: the arrays of mine.npz in the data directory."""

    @register("data", "mine")
    @dataclass(frozen=True)
    class Mine(DataSpec):
        """A data set with a reader of its own."""

        def read(self, data_dir: Path) -> ImageSource:
            with np.load(data_dir / "mine.npz") as file:
                pair = (file["images"], np.arange(len(file["images"])) % 2)
            return ImageSource.from_arrays(pair, pair)

    hydra_options.options.cache_clear()
    yield
    del groups()["data"].components["mine"]
    hydra_options.options.cache_clear()


def test_a_finished_run_is_no_answer_for_other_images(
    compose_config: Compose, own_reader: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, images = tmp_path / "mine.npz", np.random.RandomState(0).randint(0, 255, (12, 8, 8, 1)).astype(np.uint8)
    np.savez(file, images=images)
    words = (*SMALL, "data=mine", "data.batch_size=4", f"paths.data_dir={tmp_path}")
    directory = run(compose_config(*words), "").directory
    before = (directory / "record.json").read_bytes()
    job = SimpleNamespace(label="resnet8 seed 1", config=compose_config(*words), directory=directory)
    assert "already finished" in run(compose_config(*words), "").line
    assert check_images([job]) == []

    file.rename(tmp_path / "away")
    assert "already finished" in run(compose_config(*words), "").line
    assert "the images cannot be read now" in capsys.readouterr().out
    assert check_images([job]) == [f"resnet8 seed 1: {UNKNOWN}"]

    with pytest.raises(InputError, match=r"mine\.npz cannot be read \(No such file.*paths\.data_dir"):
        run(compose_config(*words, "rerun=true"), "")
    assert (directory / "record.json").read_bytes() == before  # which was not moved aside

    images[3, 2, 1] ^= 1
    np.savez(file, images=images)
    with pytest.raises(InputError, match=r"finished with other images than there are now\.\n.*the images of data=mine"):
        run(compose_config(*words), "")
    with pytest.raises(InputError, match=r"1 of 1 runs have seen other images; nothing was started"):
        check_images([job])
    assert (directory / "record.json").read_bytes() == before
    again = run(compose_config(*words, "rerun=true"), "")
    assert "already finished" not in again.line
    assert read_record(directory).data["fingerprint"] != json.loads(before)["data"]["fingerprint"]
    assert "already finished" in run(compose_config(*words), "").line


def test_a_run_that_lost_steps_after_its_checkpoint_makes_them_again(compose_config: Compose) -> None:
    overrides = (*SMALL, "checkpoint.every_steps=4")
    whole = run(compose_config(*overrides), "").directory
    before = results(whole)
    expected = {key: value.clone() for key, value in weights(whole).items()}
    forget_the_end(whole, step=8)
    again = run(compose_config(*overrides), "").directory
    assert results(again) == before
    assert all(torch.equal(value, expected[key]) for key, value in weights(again).items())


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    compose_config: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (*SMALL, "checkpoint.every_steps=4")
    whole = run(compose_config(*overrides), "").directory
    before = results(whole)
    set_status(whole, "running")
    newest = list_checkpoints(whole)[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    again = run(compose_config(*overrides), "").directory
    printed = capsys.readouterr().out
    assert "damaged" in printed
    assert "continues from step 8" in printed
    assert results(again) == before


def test_a_continuation_says_when_it_runs_on_other_versions(
    compose_config: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(compose_config(*SMALL, "checkpoint.every_steps=4"), "").directory
    forget_the_end(directory, step=8)
    record = json.loads((directory / "record.json").read_text())
    record["stretches"][-1]["versions"]["torch"] = "1.0"
    (directory / "record.json").write_text(json.dumps(record))
    run(compose_config(*SMALL, "checkpoint.every_steps=4"), "")
    assert "versions was" in capsys.readouterr().out


def test_the_test_set_is_measured_once_with_the_last_weights(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    make = ImageDataModule.transfer_batch_to_device
    modules: list[SupervisedModule] = []

    def note(self: ImageDataModule, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if isinstance(batch, tuple):
            seen.append((batch[0], modules[0].step))
        return make(self, batch, device, dataloader_idx)

    build = execute.build_module
    monkeypatch.setattr(execute, "build_module", lambda *args: modules.append(build(*args)) or modules[0])
    monkeypatch.setattr(ImageDataModule, "transfer_batch_to_device", note)
    directory = run(compose_config(*SMALL), "").directory
    assert [step for split, step in seen if split == "test"] == [12]
    assert sorted({step for split, step in seen if split == "val"}) == [6, 12]
    curves = read_curves(directory)
    assert "test/err" not in curves
    assert [step for step, _ in curves["val/err"]] == [6, 12]


def test_a_test_curve_is_drawn_only_where_it_is_asked_for_and_the_record_says_so(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL, "data.test_curve=true", "data.val_size=0"), "").directory
    record, curves = read_record(directory), read_curves(directory)
    assert record["data"]["test_curve"] is True
    assert [step for step, _ in curves["test/err"]] == [6, 12]
    assert curves["test/err"][-1][1] == record["metrics"]["test/err"]
    assert record["data"]["num_val"] == 0
    assert record["metrics"]["val/err"] is None
    assert "val/err" not in curves


def test_the_recorded_errors_are_those_of_a_plain_loop_over_the_images(compose_config: Compose) -> None:
    config = compose_config(*SMALL, "trainer.precision=32-true")
    directory = run(config, "").directory
    network, record = load_run(directory)
    data = build_data(config)
    for split in ("train", "val", "test"):
        images, labels = data.on_device(split, torch.device("cpu")).eval_batch(0, data.num_images(split))
        with torch.no_grad():
            wrong = (network(images).argmax(1) != labels).float().mean().item()
        assert record["metrics"][f"{split}/err"] == pytest.approx(100 * wrong, abs=1e-4)


def test_the_running_error_covers_exactly_the_last_epoch(compose_config: Compose) -> None:
    # 1,300 images in batches of 130: an epoch is 10 steps, and no reading falls on step 12 - 10.
    config = compose_config(*SMALL, "data.batch_size=130", "logger.every_steps=1", "name=each")
    each = read_curves(run(config, "").directory)["train/err"]
    config = compose_config(*SMALL, "data.batch_size=130", "logger.every_steps=5", "name=five")
    running = read_record(run(config, "").directory)["metrics"]["train/err_running"]
    assert running == pytest.approx(sum(value for _, value in each[-10:]) / 10)


def test_an_epoch_that_ends_with_what_is_left_counts_as_one(compose_config: Compose) -> None:
    overrides = ("data.last_batch=short", "data.batch_size=600", "trainer.max_steps=6", "logger.every_steps=3")
    directory = run(compose_config(*SMALL, *overrides), "").directory
    assert [value for _, value in read_curves(directory)["epoch"]] == [1.0, 2.0]  # of 600, 600 and what is left


def test_averaged_batch_norm_statistics_differ_from_moving_ones_and_are_saved(compose_config: Compose) -> None:
    moving = run(compose_config(*SMALL), "").directory
    averaged = run(compose_config(*SMALL, "trainer.bn_statistics=averaged"), "").directory
    first, second = weights(moving), weights(averaged)
    assert torch.equal(first["layer1.0.conv1.weight"], second["layer1.0.conv1.weight"])
    assert not torch.equal(first["bn1.running_mean"], second["bn1.running_mean"])
    assert evaluate_run(averaged)["test/err"] == read_record(averaged)["metrics"]["test/err"]


def test_gradients_are_accumulated_over_batches_of_one_update(compose_config: Compose) -> None:
    # One update over 2 x 50 images takes them from the stream in the same order as one of 100.
    directory = run(
        compose_config(*SMALL, "data.batch_size=50", "trainer.accumulate_grad_batches=2", "checkpoint.every_steps=5"),
        "",
    ).directory
    record = read_record(directory)
    assert record["steps"] == 12
    assert read_curves(directory)["epoch"][-1] == (12, pytest.approx(12 * 100 / 1300))


@pytest.mark.parametrize("value", ["1.0e-9", "null"])
def test_clipping_bounds_the_update(compose_config: Compose, value: str) -> None:
    config = compose_config(
        *SMALL, f"trainer.gradient_clip_val={value}", "optimizer.weight_decay=0", "trainer.precision=32-true"
    )
    moved = weights(run(config, "").directory)["fc.weight"]
    initial = build_network(config, ImageSpec(8, 8, 1), 10).state_dict()["fc.weight"]
    assert torch.allclose(moved, initial, atol=1e-7) == (value != "null")


def test_divergence_is_a_result(compose_config: Compose) -> None:
    outcome = run(compose_config(*SMALL, "optimizer.lr=9.0e+29", "trainer.precision=32-true"), "")
    record = read_record(outcome.directory)
    assert outcome.status == record["status"] == "diverged"
    assert record["divergence"]["step"] == record["steps"] == 2  # the first loss is that of the initial weights
    assert 0 < record["divergence"]["train/loss"] == record["metrics"]["train/loss"] < 10
    assert "diverged" in run(compose_config(*SMALL, "optimizer.lr=9.0e+29", "trainer.precision=32-true"), "").line


def test_weights_that_the_last_update_spoilt_are_no_result(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(module: SupervisedModule) -> None:
        next(module.network.parameters()).data[0] = torch.inf

    monkeypatch.setattr(SupervisedModule, "on_train_end", spoil)
    record = read_record(run(compose_config(*SMALL), "").directory)
    assert (record["status"], record["steps"]) == ("diverged", 12)
    assert record["divergence"]["train/loss"] == record["metrics"]["train/loss"] > 0


def test_one_batch_can_be_overfitted(compose_config: Compose) -> None:
    config = compose_config(
        *SMALL, "debug=overfit", "trainer.max_steps=40", "schedule.scale_to_max_steps=true", "data.batch_size=32"
    )
    curve = read_curves(run(config, "").directory)["train/err"]
    assert curve[-1][1] == 0
    assert curve[0][1] > 0


def test_load_run_returns_the_trained_network_and_the_record(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL), "").directory
    network, record = depthlab.load_run(directory)
    assert record["run"] == directory.name
    assert not network.training
    assert all(torch.equal(value, weights(directory)[key]) for key, value in network.state_dict().items())


def test_evaluate_repeats_the_recorded_numbers(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL), "").directory
    recorded = read_record(directory)["metrics"]
    assert {name: recorded[name] for name in evaluate_run(directory)} == evaluate_run(directory)


def test_weights_of_another_network_are_refused(compose_config: Compose) -> None:
    small = run(compose_config(*SMALL), "").directory
    large = run(compose_config("model=resnet20", "model.depth=14"), "").directory
    for path in (large / "checkpoints").iterdir():
        path.unlink()
    shutil.copytree(small / "checkpoints", large / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(InputError, match="another network"):
        load_run(large)


def test_a_run_without_its_last_checkpoint_says_so(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL), "").directory
    shutil.rmtree(directory / "checkpoints")
    with pytest.raises(InputError, match="rerun=true"):
        load_run(directory)


def test_dry_run_starts_nothing(compose_config: Compose) -> None:
    outcome = run(compose_config(*SMALL, "dry_run=true"), "")
    assert outcome.status == "planned"
    assert "12 steps on digits" in outcome.line
    assert not outcome.directory.exists()


def test_a_failing_run_is_recorded_as_failed_and_goes_on_when_started_again(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*SMALL, "checkpoint.every_steps=4")
    whole = run(compose_config(*overrides, "name=whole"), "").directory
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "test", fail)
        with pytest.raises(RuntimeError, match="the cable was pulled"):
            run(compose_config(*overrides), "")
    (directory,) = (whole.parent.parent / "runs").glob("digits-*")
    assert read_record(directory)["status"] == "failed"
    assert "the cable was pulled" in read_record(directory)["failure"]["reason"]
    assert results(run(compose_config(*overrides), "").directory) == results(whole)


def fail(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("the cable was pulled")


def test_interrupted_is_not_an_error_of_the_user() -> None:
    assert not issubclass(Interrupted, InputError)


def test_a_configuration_is_resolved_in_the_record(compose_config: Compose) -> None:
    config: TrainConfig = compose_config(*SMALL, "trainer.precision=auto")
    record = read_record(run(config, "").directory)
    assert record["config"]["trainer"]["precision"] != "auto"
    assert record["config"]["trainer"]["accelerator"] == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [None, [8, 8], [8, 8, 10**12], [8, 8, "1"], "8x8"])
def test_a_strangers_record_cannot_ask_for_any_network(compose_config: Compose, shape: Any) -> None:
    directory = run(compose_config(*SMALL), "").directory
    record = json.loads((directory / "record.json").read_text())
    record["data"]["image_shape"] = shape
    (directory / "record.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"for which images|data\.image_shape is of the wrong type"):
        load_run(directory)


@pytest.mark.parametrize("override", ["data.batch_size=63", "data.last_batch=short"])
def test_processes_that_cannot_share_a_batch_equally_are_refused(compose_config: Compose, override: str) -> None:
    with pytest.raises(InputError, match=override.split("=", maxsplit=1)[0]):
        compose_config(*SMALL, "trainer=ddp_cpu", override)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_run_that_is_stopped_while_it_is_measured_goes_on_there(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    tree = as_dict(compose_config(*SMALL))
    with monkeypatch.context() as patch, signals_restored():
        patch.setattr(SupervisedModule, "test_step", lambda *_: signal.raise_signal(number))
        with pytest.raises(SystemExit) as stopped:
            perform(tree, "")
    assert stopped.value.code == 75
    assert "the same command goes on from the last checkpoint" in capfd.readouterr().err
    with signals_restored():
        assert perform(tree, "") == 0
    assert "continues from step 12" in capfd.readouterr().out


def test_ctrl_c_twice_stops_a_run_now(compose_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SupervisedModule, "training_step", twice)
    with signals_restored(), pytest.raises(SystemExit) as stopped:
        perform(as_dict(compose_config(*SMALL)), "")
    assert stopped.value.code == 75


def test_a_run_that_is_another_than_when_it_was_frozen_is_refused(
    compose_config: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = as_dict(compose_config(*SMALL))
    with signals_restored():
        assert perform(tree, "", "digits-resnet8-seed1-00000000") == 2
    assert "was digits-resnet8-seed1-00000000 when its sweep was launched" in capsys.readouterr().err
    assert not [*find_records(Path(tree["paths"]["log_dir"]))]


def test_a_full_disk_ends_a_run_with_a_message_and_leaves_the_checkpoint_before(
    compose_config: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (*SMALL, "checkpoint.every_steps=4")
    whole = run(compose_config(*overrides), "").directory
    before, state = results(whole), weights(whole)
    forget_the_end(whole, step=8)
    saved = list_checkpoints(whole)[0].read_bytes()
    with files_up_to(100_000), signals_restored():
        code = perform(as_dict(compose_config(*overrides)), "")
    assert code == 1
    assert "step-00000012.ckpt could not be written (File too large)" in capsys.readouterr().err
    assert [path.read_bytes() for path in list_checkpoints(whole)] == [saved]
    assert read_record(whole)["status"] == "failed"
    again = run(compose_config(*overrides), "").directory
    assert results(again) == before
    assert all(torch.equal(value, state[key]) for key, value in weights(again).items())
