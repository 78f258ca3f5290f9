"""A run that is extended equals the run of that length from its start, or is refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from depthlab.commands import extend as extend_command
from depthlab.config.schema import as_dict
from depthlab.errors import InputError
from depthlab.records.checkpoints import checkpoint_path
from depthlab.records.record import find_records, read_record
from depthlab.runs.extend import prepare_extension
from depthlab.runs.process import perform
from depthlab.runs.run import run

from ..conftest import Command, Compose
from ..typing_in import signals_restored
from ..whole_runs import SMALL, results, same_weights, set_status

EPOCH = 21  # steps, of the 1,300 training images in batches of 64
SHORT, LONG = 24, 48
LENGTH = (*SMALL, "trainer.precision=32-true", f"trainer.max_steps={SHORT}", "trainer.val_every_steps=12")


def others(directory: Path) -> list[Path]:
    """The runs beside this one."""
    return [path for path in find_records(directory.parent) if path != directory]


def extend(parent: Path, max_steps: int = LONG) -> Path:
    """Extend a run as the command does; the directory of the longer one."""
    config = prepare_extension(parent, max_steps, "typed this")
    with signals_restored():
        assert perform(as_dict(config), "typed this") == 0
    (longer,) = others(parent)
    return longer


def edit(directory: Path, **values: object) -> None:
    """Set fields of a record, or keys of its configuration given as section__key."""
    record = json.loads((directory / "record.json").read_text())
    for name, value in values.items():
        section, _, key = name.partition("__")
        if key:
            record["config"][section][key] = value
        else:
            record[name] = value
    (directory / "record.json").write_text(json.dumps(record))


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("callbacks=ema", "optimizer=adamw", "augment.mixup=0.2", "model.dropout=0.1"),
        ("schedule.milestones=[30,40]", "schedule.warmup_steps=5"),
    ],
    ids=["plain", "with random draws and averages", "milestones after the parent"],
)
def test_a_run_that_is_extended_equals_the_longer_run_bit_for_bit(
    compose_config: Compose, more: tuple[str, ...]
) -> None:
    whole = run(compose_config(*LENGTH, *more, f"trainer.max_steps={LONG}", "name=whole"), "").directory
    parent = run(compose_config(*LENGTH, *more, "name=parts"), "").directory
    before = (parent / "record.json").read_bytes()
    longer = extend(parent)
    assert longer.name == whole.name
    assert same_weights(whole, longer)
    assert results(whole) == results(longer)
    mine, theirs = read_record(longer), read_record(whole)
    assert mine.weights_sha256 == theirs.weights_sha256
    assert (mine.metrics_ema, mine.steps, mine.status) == (theirs.metrics_ema, LONG, "finished")
    assert [(part.from_step, part.to_step) for part in mine.segments] == [(0, SHORT), (SHORT, LONG)]
    sha256 = read_record(parent).weights_sha256
    assert mine.extended_from == {"run": parent.name, "steps": SHORT, "weights_sha256": sha256}
    assert mine.command == "typed this"
    assert theirs.extended_from is None and "extended_from" not in theirs.to_dict()
    assert (parent / "record.json").read_bytes() == before


@pytest.mark.slow
def test_an_extension_that_was_cut_short_goes_on_and_keeps_its_parent(compose_config: Compose) -> None:
    parent = run(compose_config(*LENGTH), "").directory
    config = prepare_extension(parent, LONG, "first")
    prepared = read_record(*others(parent))
    assert (prepared.status, prepared.steps, prepared.metrics) == ("running", SHORT, {})
    again = run(config, "second")
    assert (again.status, read_record(again.directory).extended_from["run"]) == ("finished", parent.name)
    assert "already finished" in run(prepare_extension(parent, LONG, "third"), "third").line


@pytest.mark.slow
def test_a_longer_run_names_the_command_that_would_extend_a_shorter_one(
    compose_config: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = run(compose_config(*LENGTH), "").directory
    run(compose_config(*LENGTH, f"trainer.max_steps={LONG}", "optimizer.lr=0.02"), "")
    assert "depthlab extend" not in capsys.readouterr().out  # another recipe
    run(compose_config(*LENGTH, f"trainer.max_steps={LONG}"), "")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "depthlab extend" in line]
    assert f"depthlab extend run={parent} trainer.max_steps={LONG}" in line


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 steps that tests copy and change."""
    from ..conftest import compose_tree

    logs = tmp_path_factory.mktemp("logs")
    tree = compose_tree("data=digits", "trainer=cpu", "trainer.num_threads=1", "logger=csv", *LENGTH)
    tree["paths"] = {"log_dir": str(logs), "data_dir": "data"}
    with signals_restored():
        assert perform(tree, "") == 0
    (directory,) = (path.parent for path in logs.glob("*/*/record.json"))
    return directory


@pytest.mark.parametrize(
    ("values", "max_steps", "reason"),
    [
        ({"status": "running"}, LONG, "is running. The same command as before continues it"),
        ({"status": "diverged"}, LONG, "is diverged"),
        ({"stopped_early": {"step": SHORT, "reason": "patience"}}, LONG, "stopped early, at step 24: patience"),
        ({}, SHORT, "trainer.max_steps=24: the run has 24 steps already"),
        ({}, SHORT + EPOCH - 1, f"Give {SHORT + EPOCH} or more"),
        ({"schedule__scale_to_max_steps": True}, LONG, "at 48 steps the rate of step 12 would have been 0.1"),
        ({"schedule": "cosine"}, LONG, "schedule=cosine: at 48 steps the rate of step 1 would have been"),
        ({"schedule__warmup_steps": 9}, LONG, None),
        ({"trainer__bn_statistics": "averaged"}, LONG, "its moving averages were replaced"),
        ({"callbacks__early_stopping": True, "trainer__val_every_steps": 10}, LONG, "callbacks=early_stopping"),
    ],
)
def test_what_would_not_equal_the_longer_run_is_refused_with_its_reason(
    finished: Path, tmp_path: Path, values: dict[str, object], max_steps: int, reason: str | None
) -> None:
    parent = tmp_path / "logs" / "runs" / finished.name
    shutil.copytree(finished, parent)
    if values == {"schedule": "cosine"}:
        values = {}
        record = json.loads((parent / "record.json").read_text())
        record["config"]["schedule"] = {
            "name": "cosine", "warmup_steps": 0, "warmup_factor": 0.1, "warmup_shape": "linear",
        }  # fmt: skip
        (parent / "record.json").write_text(json.dumps(record))
    edit(parent, **values)
    if reason is None:
        assert prepare_extension(parent, max_steps, "", code="any").trainer.max_steps == max_steps
        return
    with pytest.raises(InputError, match=reason.replace(".", r"\.").replace("*", r"\*")):
        prepare_extension(parent, max_steps, "", code="any")  # other components are other code
    assert not others(parent)


def test_a_run_without_its_last_checkpoint_or_with_weights_alone_is_refused(finished: Path, tmp_path: Path) -> None:
    from depthlab.records.checkpoints import load_checkpoint, save_checkpoint

    parent = tmp_path / "logs" / "runs" / finished.name
    shutil.copytree(finished, parent)
    state = load_checkpoint(checkpoint_path(parent, SHORT))
    save_checkpoint(parent, SHORT, {"step": SHORT, "network": state["network"]})
    with pytest.raises(InputError, match="holds no 'optimizer'"):
        prepare_extension(parent, LONG, "")
    checkpoint_path(parent, SHORT).unlink()
    with pytest.raises(InputError, match=r"step-00000024.ckpt\) was not kept"):
        prepare_extension(parent, LONG, "")
    assert not others(parent)
    assert [path.name for path in parent.parent.iterdir()] == [parent.name]


def test_a_run_of_other_code_is_extended_only_where_that_is_asked_for(finished: Path, tmp_path: Path) -> None:
    parent = tmp_path / "logs" / "runs" / finished.name
    shutil.copytree(finished, parent)
    edit(parent, code={"fingerprint": "0123456789abcdef"})
    with pytest.raises(InputError, match=r"made by other code .*code=any goes on"):
        prepare_extension(parent, LONG, "")
    assert not others(parent)
    assert prepare_extension(parent, LONG, "", code="any").code == "any"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which run? Give run=DIRECTORY"),
        (("run=logs/x",), "how long? Give trainer.max_steps=STEPS"),
        (("run=logs/x", "trainer.max_steps=more"), "trainer.max_steps=more: give a whole number"),
        (("run=logs/x", "trainer.max_step=40"), "trainer.max_step=40: the options are run=..."),
        (("run=logs/x", "trainer.max_steps=40", "code=ani"), "code=ani: no such choice. Did you mean any?"),
        (("run=no/such/run", "trainer.max_steps=40"), "is not a run directory"),
    ],
)
def test_a_wrong_word_is_refused_in_a_line(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extend_command.extend(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_extends_a_run(finished: Path, tmp_path: Path, command: Command) -> None:
    parent = tmp_path / "logs" / "runs" / finished.name
    shutil.copytree(finished, parent)
    done = command("-m", "depthlab", "extend", f"run={parent}", f"trainer.max_steps={LONG}")
    assert done.returncode == 0, done.stderr
    assert f"continues from step {SHORT}" in done.stdout and "test error" in done.stdout
    (longer,) = others(parent)
    assert read_record(longer).command == f"python -m depthlab extend run={parent} trainer.max_steps={LONG}"
    set_status(parent, "running")
    refused = command("-m", "depthlab", "extend", f"run={parent}", "trainer.max_steps=96")
    assert refused.returncode == 2 and "only a finished run can be extended" in refused.stderr
