"""The benchmark: both sides follow one recipe, a side stands still between turns, the file says what a claim needs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from depthlab.config.images import ImageSpec
from depthlab.config.schema import TrainerConfig, as_dict
from depthlab.config.spec import composed_values
from depthlab.runs.build import build_data, build_module, build_network
from depthlab.runs.run import run
from depthlab_benchmarks import contact_timing
from depthlab_benchmarks.baseline import PilImages, build_loader, build_plain_network, build_transform
from depthlab_benchmarks.captured import VARIANTS
from depthlab_benchmarks.clock import Spans
from depthlab_benchmarks.contact_checks import largest_difference
from depthlab_benchmarks.contact_parts import as_overrides, sweeps
from depthlab_benchmarks.contact_timing import Contact
from depthlab_benchmarks.measure import Comparison, summarize
from depthlab_benchmarks.recipe import write_config
from depthlab_benchmarks.side_settings import describe_side
from depthlab_benchmarks.sides import Side, SideFailed

from .conftest import ROOT, Command, Compose, load_script
from .whole_runs import results

CPU = torch.device("cpu")
RECIPE = ("model.depth=8", "data.normalization=per_channel", "data.val_size=0")
SHORT = ("--data", "digits", "--workers", "1", "--override", "model.depth=8", "--override", "trainer.num_threads=1")


def measure(command: Command, tmp_path: Path, mode: str, *options: str) -> dict[str, Any]:
    """What a short benchmark on the digits wrote."""
    out = tmp_path / "out" / f"{mode}.json"
    done = command("scripts/benchmark.py", mode, *SHORT, *options, "--out", str(out), timeout_seconds=580, fresh=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    tree: dict[str, Any] = json.loads(out.read_text())
    for comparison in tree["comparisons"]:
        assert comparison["title"] in done.stdout
        for side in comparison["sides"]:
            assert side in done.stdout
    return tree


def comes_to_a_stop(side: Side) -> bool:
    """Whether the process is found stopped by a signal, within seconds."""
    for _ in range(200):
        if Path(f"/proc/{side.pid}/stat").read_text().split()[2] == "T":
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def linux() -> None:
    """What follows reads /proc."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc here")


def test_both_sides_normalise_alike(compose_config: Compose) -> None:
    config = compose_config(*RECIPE)
    data = build_data(config)
    theirs = torch.stack([PilImages(data, build_transform(config, data))[idx][0] for idx in range(20)])
    ours, labels = data.on_device("train", CPU).eval_batch(0, 20)
    assert torch.allclose(theirs, ours, atol=1e-5)
    assert [PilImages(data, lambda image: image)[idx][1] for idx in range(20)] == labels.tolist()


def test_the_baseline_crops_flips_and_batches_as_the_configuration_says(compose_config: Compose) -> None:
    config = compose_config(*RECIPE, "data.crop_padding=2", "data.flip=true", "data.batch_size=32")
    data = build_data(config)
    crop, flip, *_ = build_transform(config, data).transforms
    assert (crop.size, crop.padding, flip.p) == ((8, 8), 2, 0.5)
    loader = build_loader(config, data, 0, pin_memory=False)
    assert [len(labels) for _, labels in loader] == [32] * (data.num_images("train") // 32)


def test_the_baseline_refuses_a_normalisation_that_it_cannot_do(compose_config: Compose) -> None:
    config = compose_config("data.normalization=per_pixel")
    with pytest.raises(ValueError, match="per_pixel"):
        build_transform(config, build_data(config))


def test_both_sides_start_from_the_same_weights(compose_config: Compose) -> None:
    config = compose_config(*RECIPE)
    theirs, ours = (
        build_plain_network(config, build_data(config)).state_dict(),
        build_network(config, ImageSpec(8, 8, 1), 10).state_dict(),
    )
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert theirs["layer1.0.conv1.weight"].is_contiguous()


def test_the_baseline_leaves_the_choice_of_the_update_to_torch_and_says_what_it_is(compose_config: Compose) -> None:
    config = compose_config(*RECIPE)
    network = build_plain_network(config, build_data(config))
    optimizer = build_module(config, network, 10).build_optimizer(network)
    assert (optimizer.defaults["fused"], optimizer.defaults["foreach"]) == (None, None)
    assert describe_side(network, optimizer, "32-true", CPU) == "32-true, no TF32, contiguous, SGD one tensor at a time"
    ours = build_network(config, ImageSpec(8, 8, 1), 10)
    groups = [{"params": list(ours.parameters())}]
    fused = config.optimizer.build(groups, fused=True)
    gpu = torch.device("cuda")
    assert describe_side(ours, fused, "bf16-mixed", gpu).endswith("channels last, SGD fused")
    assert describe_side(network, optimizer, "32-true", gpu).endswith("contiguous, SGD foreach")


@pytest.mark.parametrize(("allowed", "said"), [(True, "TF32 convolutions"), (False, "no TF32")])
def test_the_tf32_of_a_side_is_said(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, allowed: bool, said: str
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    config = compose_config(*RECIPE)
    network = build_plain_network(config, build_data(config))
    optimizer = build_module(config, network, 10).build_optimizer(network)
    assert describe_side(network, optimizer, "32-true", torch.device("cuda")).split(", ")[1] == said


def test_an_observer_is_told_the_parts_and_adds_its_callbacks_and_changes_nothing(compose_config: Compose) -> None:
    class Counter(Callback):
        num_batches = 0

        def on_train_batch_end(self, *_: Any) -> None:
            self.num_batches += 1

    class Watching:
        def __init__(self) -> None:
            self.parts: list[str] = []
            self.counter = Counter()

        def mark(self, part: str) -> None:
            self.parts.append(part)

        def callbacks(self) -> list[Callback]:
            return [self.counter]

    watching = Watching()
    watched = run(compose_config(*RECIPE, "trainer.max_steps=6"), "", observer=watching)
    assert watching.parts == ["data", "network"]
    assert watching.counter.num_batches == 6
    alone = run(compose_config(*RECIPE, "trainer.max_steps=6", "name=alone"), "")
    assert watched.directory.name == alone.directory.name
    assert results(watched.directory) == results(alone.directory)


def test_ratios_are_of_neighbours_in_time() -> None:
    comparison = Comparison("net", "speed", "theirs")
    for theirs, ours in ((10.0, 20.0), (5.0, 15.0), (1.0, 4.0), (2.0, None)):
        comparison.add("theirs", speed=theirs)
        comparison.add("ours", speed=ours)
    assert comparison.ratios("ours") == [2, 3, 4]
    assert comparison.summary("ours")["ratio"] == {"n": 3, "median": 3, "quartiles": [2.5, 3.5]}
    assert "ratio" not in comparison.summary("theirs")
    assert summarize([None]) == {"n": 0, "median": None, "quartiles": None}


def test_spans_add_up_by_name() -> None:
    spans = Spans(on_gpu=False)
    for _ in range(2):
        with spans.span("a"):
            assert spans.timed("b", max)(1, 2) == 2
    sums = spans.take()
    assert sums["a"] > sums["b"] > 0
    assert spans.take() == {}


@pytest.mark.slow
def test_a_side_stands_still_between_its_turns(linux: None, compose_config: Compose, tmp_path: Path) -> None:
    path = write_config(as_dict(compose_config(*RECIPE)), tmp_path)
    with Side("depthlab_benchmarks.loaders", [str(path), "ours"]) as side:
        assert side.first_step()["first step"] > 0
        for _ in range(2):
            assert comes_to_a_stop(side)
            assert side.turn(5)["steps"] == 5
    assert side.peak_memory_mib is not None and side.peak_memory_mib > 50


@pytest.mark.slow
def test_a_side_that_fails_says_why() -> None:
    with (
        Side("depthlab_benchmarks.loaders", ["no-such-file.json", "ours"]) as side,
        pytest.raises(SideFailed) as failed,
    ):
        side.first_step()
    assert "no-such-file.json" in str(failed.value)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_mode_gpu_says_that_there_is_no_gpu(command: Command) -> None:
    done = command("scripts/benchmark.py", "gpu", fresh=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no CUDA GPU" in done.stderr


@pytest.mark.slow
def test_absent_images_are_named_with_the_remedy(command: Command, tmp_path: Path) -> None:
    done = command(
        "scripts/benchmark.py", "cpu", "--out", str(tmp_path / "x.json"), DEPTHLAB_DATA_DIR=str(tmp_path), fresh=True
    )
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr and "DEPTHLAB_DATA_DIR" in done.stderr
    assert not (tmp_path / "x.json").exists()


@pytest.mark.slow
def test_the_file_holds_machine_versions_n_command_and_every_measurement(command: Command, tmp_path: Path) -> None:
    tree = measure(command, tmp_path, "input", "--steps", "3", "--repeats", "3")
    assert tree["mode"] == "input"
    assert tree["command"].startswith("python scripts/benchmark.py input --data digits")
    assert {"cpu", "cpu_cores", "gpus"} <= tree["machine"].keys()
    assert {"python", "torch", "torchvision", "lightning"} <= tree["versions"].keys()
    assert tree["options"]["steps"] == 3
    (comparison,) = tree["comparisons"]
    assert list(comparison["sides"]) == ["torchvision, 0 workers", "torchvision, 1 workers", "ours"]
    ours = comparison["sides"]["ours"]
    assert ours["n"] == len(ours["measurements"]["images_per_second"]) == len(ours["ratios"]) == 3
    assert ours["summary"]["images_per_second"]["median"] in ours["measurements"]["images_per_second"]


@pytest.mark.slow
def test_end_to_end_every_quantity_is_measured_on_every_side(command: Command, tmp_path: Path) -> None:
    options = ("--models", "plain20", "--steps", "2", "--repeats", "2", "--starts", "2")
    variant = ("--variant", "in fp32", "trainer.precision=32-true")
    tree = measure(command, tmp_path, "cpu", *options, *variant)
    assert [comparison["title"] for comparison in tree["comparisons"]] == ["plain20, digits"]
    for comparison in tree["comparisons"]:
        assert list(comparison["sides"]) == ["plain loop", "ours", "ours, in fp32"]
        settings = [side["settings"] for side in comparison["sides"].values()]
        assert settings[0] == "32-true, no TF32, contiguous, SGD one tensor at a time"
        assert settings[2] == "32-true, no TF32, channels last, SGD one tensor at a time"
        for side in comparison["sides"].values():
            measured = side["measurements"]
            for name in ("images_per_second", "ms_per_step", "percent_outside_network", "loss"):
                assert len(measured[name]) == 4 and all(value > 0 for value in measured[name]), name
            assert len(measured["peak_memory_mib"]) == len(measured["first_step_seconds"]) == 2


@pytest.mark.slow
def test_each_factor_changes_one_thing_of_the_plain_loop(command: Command, tmp_path: Path) -> None:
    tree = measure(command, tmp_path, "cpu", "--models", "resnet20", "--steps", "2", "--repeats", "1", "--factors")
    sides = tree["comparisons"][0]["sides"]
    factors = [f"plain loop, {name}" for name in ("bf16", "channels last", "our batches", "compiled")]
    assert list(sides) == ["plain loop", *factors, "ours"]
    plain = "32-true, no TF32, contiguous, SGD one tensor at a time"
    assert [sides[name]["settings"] for name in factors] == [
        plain.replace("32-true", "bf16-mixed"),
        plain.replace("contiguous", "channels last"),
        plain,
        plain,
    ]
    assert all(side["measurements"]["images_per_second"][0] > 0 for side in sides.values())


@pytest.mark.slow
def test_a_run_and_the_bare_loop_compute_the_same_losses_bit_for_bit(command: Command, tmp_path: Path) -> None:
    tree = measure(command, tmp_path, "overhead", "--steps", "4", "--repeats", "3")
    sides = tree["comparisons"][0]["sides"]
    losses = [sides[name]["measurements"]["loss"] for name in ("bare loop", "ours")]
    assert losses[0] == losses[1]
    assert len(sides["ours"]["measurements"]["overhead_percent"]) == 3


@pytest.mark.slow
def test_start_up_is_shown_by_its_parts(command: Command, tmp_path: Path) -> None:
    starts, commands = measure(command, tmp_path, "startup", "--repeats", "1")["comparisons"]
    parts = {name: values[0] for name, values in starts["sides"]["resnet20"]["measurements"].items()}
    total = parts.pop("total")
    assert list(parts)[:3] == ["command line", "torch", "Lightning"]
    assert list(parts)[-3:] == ["data", "network", "first step"]
    assert sum(parts.values()) == pytest.approx(total)
    assert {"--help", "--cfg job", "tab completion"} <= commands["sides"].keys()


@pytest.mark.slow
def test_a_sweep_is_timed_with_one_and_with_two_jobs_at_a_time(command: Command, tmp_path: Path) -> None:
    tree = measure(command, tmp_path, "sweep", "--steps", "4", "--repeats", "1")
    sides = tree["comparisons"][0]["sides"]
    assert list(sides) == ["1 at a time", "2 at a time"]
    assert all(side["measurements"]["runs_per_hour"][0] > 0 for side in sides.values())


@pytest.mark.slow
def test_no_side_outlives_a_benchmark_that_is_terminated(linux: None, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/benchmark.py", "input", *SHORT, "--out", str(tmp_path / "x.json")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    sides: list[str] = []
    while process.poll() is None and not sides:
        found = children.read_text().split()
        sides = [pid for pid in found if b"benchmarks.loaders" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        time.sleep(0.1)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert sides and not any(Path(f"/proc/{pid}").exists() for pid in sides)


@pytest.mark.slow
def test_memory_is_measured_with_and_without_recomputation(command: Command, tmp_path: Path) -> None:
    tree = measure(command, tmp_path, "memory", "--models", "resnet20")
    (comparison,) = tree["comparisons"]
    sides = {name: side["measurements"] for name, side in comparison["sides"].items()}
    assert sides["kept"]["loss"] == sides["recomputed"]["loss"]
    assert min(side["peak_memory_mib"][0] for side in sides.values()) > 50


FIRST_CONTACT = "scripts/first_contact.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_small_form_of_first_contact_is_green_and_says_what_needs_a_gpu(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "contact"
    done = command(FIRST_CONTACT, "--small", "--out", str(out), timeout_seconds=580)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json") if path.stem != "cpu"}
    assert {name: tree["status"] for name, tree in parts.items()} == {
        **dict.fromkeys(("environment", "correctness", "timing", "concurrency", "baseline", "settings"), "ok"),
        "waiting": "needs a GPU",
    }
    assert sum(tree["seconds"] for tree in parts.values()) < 180
    assert f"{len(VARIANTS)} of {len(VARIANTS)} variants equal bit for bit" in done.stdout
    assert (out / "trainer" / "measured.yaml").read_text().startswith("# @package _global_")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]  # what a part wrote for itself
    again = command(FIRST_CONTACT, "--small", "--out", str(out))
    assert again.stdout.count("done before") == 7


def part_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> Any:
    """The script with parts that run some code instead of theirs."""
    script = load_script(FIRST_CONTACT)
    run_part = script.subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        name, out = command[3:5]
        text = f"import json, pathlib, sys, time; out = pathlib.Path({out!r}); name = {name!r}\n{code}"
        return run_part([sys.executable, "-c", text], **options)

    monkeypatch.setattr(script.subprocess, "Popen", start)
    hanging, good, waiting = script.PARTS[:3]
    monkeypatch.setattr(script, "PARTS", [replace(hanging, small_seconds=2), good, waiting])
    return script


CODE = """
found = out / f".{name}.result.json"
if name == "environment":
    found.write_text(json.dumps({"lines": ["so far"]}))
    time.sleep(60)
if name == "correctness" and not (out / "mended").exists():
    sys.exit("it broke")
found.write_text(json.dumps({"lines": ["fine"]}))
"""


@pytest.mark.slow
def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = part_script(monkeypatch, tmp_path, CODE)
    monkeypatch.setattr(sys, "argv", [FIRST_CONTACT, "--small", "--out", str(tmp_path)])
    assert script.main() == 1
    trees = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("environment", "correctness")}
    assert trees["environment"]["status"] == "out of time"
    assert trees["environment"]["result"]["lines"] == ["so far"]
    assert trees["correctness"]["status"] == "failed"
    assert "it broke" in trees["correctness"]["output"]
    (tmp_path / "mended").touch()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [FIRST_CONTACT, "correctness", "waiting", "--small", "--out", str(tmp_path)])
    assert script.main() == 0
    said = capsys.readouterr().out
    assert "waiting: done before (needs a GPU)" in said
    assert "correctness: ok" in said


def test_no_part_is_started_that_may_not_end_in_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = part_script(monkeypatch, tmp_path, CODE)
    (tmp_path / "mended").touch()
    monkeypatch.setattr(script, "PARTS", [script.PARTS[1], replace(script.PARTS[0], small_seconds=1000)])
    monkeypatch.setattr(sys, "argv", [FIRST_CONTACT, "--small", "--out", str(tmp_path), "--minutes", "4"])
    assert script.main() == 1
    said = capsys.readouterr().out
    assert "correctness: ok" in said
    assert "may take 1000 s" in said
    assert "The same line goes on with: environment" in said
    assert not (tmp_path / "environment.json").exists()


def test_what_a_part_had_measured_when_it_was_killed_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"resnet20, captured": {"ms": 1.0}, "resnet20, ordinary": {"error": "none"}}
    (tmp_path / ".correctness.result.json").write_text(json.dumps({"lines": [], "rows": rows}))
    code = "before = json.loads((out / 'correctness.json').read_text())\n"
    code += "(out / f'.{name}.result.json').write_text(json.dumps({'lines': [before['status']], **before['result']}))"
    script = part_script(monkeypatch, tmp_path, code)
    monkeypatch.setattr(sys, "argv", [FIRST_CONTACT, "correctness", "--small", "--out", str(tmp_path)])
    assert script.main() == 0
    tree = json.loads((tmp_path / "correctness.json").read_text())
    assert (tree["status"], tree["result"]["rows"]) == ("ok", rows)
    assert Contact("correctness", tmp_path, True).rows("ms") == {"resnet20, captured": {"ms": 1.0}}
    assert Contact("correctness", tmp_path, False).rows("ms") == {}


def test_what_cannot_be_profiled_keeps_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graph = (None, lambda: 1 // 0)
    monkeypatch.setattr(
        contact_timing, "_time", lambda *args: ({"ms": 1.0, "mib": 2.0, "nodes": 3, "first_seconds": 4.0}, graph)
    )
    monkeypatch.setattr(contact_timing, "longest_kernels", lambda replay: replay())
    contact = Contact("timing", tmp_path, True)
    contact_timing.timing(contact)
    row = contact.found["rows"]["resnet8, captured"]
    assert row["ms"] == 1.0
    assert row["kernels_error"].startswith("ZeroDivisionError")


def test_the_sweeps_that_say_most_come_first() -> None:
    assert sweeps(False, False) == [(1, "off"), (4, "off"), (8, "off"), (2, "off"), (6, "off")]
    assert sweeps(False, True)[:4] == [(1, "off"), (4, "on"), (4, "off"), (8, "on")]
    assert sweeps(True, False) == [(2, "off")]


def test_losses_that_are_no_numbers_are_not_equal() -> None:
    assert largest_difference([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert largest_difference([float("nan"), 2.0], [1.0, 2.0]) == float("inf")


def test_the_best_settings_are_those_with_the_least_time_over_all_depths() -> None:
    rows = {
        "resnet20, captured": {"ms": 1.0},
        "resnet56, captured": {"ms": 3.0},
        "resnet20, captured, compiled (blocks)": {"ms": 0.8},
        "resnet56, captured, compiled (blocks)": {"ms": 2.4},
        "resnet20, captured, compiled (network)": {"ms": 0.5},  # failed for the deeper one
    }
    tree = as_overrides(rows, {"jobs": 4, "mps": "on"}, "gpu")
    chosen = {"accelerator": "gpu", "compile": True, "steps_per_replay": 50, "compile_scope": "blocks"}
    assert tree["trainer"] == {**composed_values(TrainerConfig), **chosen}
    assert tree["hydra"] == {"launcher": {"jobs_per_device": 4, "mps": "auto"}}
    assert as_overrides({}, None, "cpu") == {"trainer": {**composed_values(TrainerConfig), "accelerator": "cpu"}}
