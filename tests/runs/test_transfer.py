"""From the command's keys to a run: weights, frozen parts, rates, a second stream, networks without a depth."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from depthlab.config.images import ImageSpec
from depthlab.data.device_images import Normalization
from depthlab.errors import InputError
from depthlab.models import TwoStream, cifar_net
from depthlab.records.checkpoints import list_checkpoints, load_checkpoint
from depthlab.records.publishing import publish
from depthlab.records.record import read_record
from depthlab.records.weight_files import find_weights, weights_hash
from depthlab.report.report import make_report
from depthlab.runs.build import build_module, build_network
from depthlab.runs.evaluate import evaluate_run, load_run
from depthlab.runs.run import run
from depthlab.training.callbacks.checkpointing import Checkpoints

from ..conftest import Compose, slowly

DIGITS = ImageSpec(8, 8, 1)

SMALL = ("model=resnet20", "model.depth=8", "trainer.precision=32-true")
SHORT = ("trainer.max_steps=2", "trainer.val_every_steps=2", "checkpoint.every_steps=1")


def last_weights(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(list_checkpoints(directory)[0])["network"])


@pytest.fixture
def pretrained(compose_config: Compose) -> Path:
    return run(compose_config(*SMALL, *SHORT, "name=before"), "").directory


@pytest.mark.parametrize("give", ["the run", *slowly("its folder", "a file")])
def test_a_run_starts_from_weights_and_says_from_which(
    compose_config: Compose, pretrained: Path, tmp_path: Path, give: str
) -> None:
    given = last_weights(pretrained)
    torch.save(given, tmp_path / "w.pt")
    source = {"the run": pretrained, "its folder": pretrained.parent, "a file": tmp_path / "w.pt"}[give]
    config = compose_config(*SMALL, *SHORT, f"model.weights={source}", "optimizer.lr=1.0e-12")
    directory = run(config, "").directory
    found = last_weights(directory)
    assert torch.allclose(found["layer3.0.conv2.weight"], given["layer3.0.conv2.weight"], atol=1e-6)
    record = read_record(directory)
    assert record["weights"] == {
        "source": str(source),
        "content": weights_hash(str(source)),
        "num_tensors": len(given),
    }
    assert len(record["weights"]["content"]) == 64
    torch.testing.assert_close(load_run(directory)[0].state_dict()["fc.weight"], found["fc.weight"])


def test_the_content_of_weights_makes_the_run_not_their_place(compose_config: Compose, tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(cifar_net(8, in_channels=1).state_dict(), tmp_path / f"{seed}.pt")
    shutil.copy(tmp_path / "0.pt", tmp_path / "copy.pt")
    names = [
        run(compose_config(*SMALL, "dry_run=true", f"model.weights={tmp_path / name}"), "").directory.name
        for name in ("0.pt", "copy.pt", "1.pt")
    ]
    assert names[0] == names[1] != names[2]


def test_a_run_directory_loads_without_the_weights_it_started_from(compose_config: Compose, tmp_path: Path) -> None:
    torch.save(cifar_net(8, in_channels=1).state_dict(), tmp_path / "w.pt")
    config = compose_config(*SMALL, *SHORT, f"model.weights={tmp_path / 'w.pt'}", "model.freeze=backbone")
    directory = run(config, "").directory
    (tmp_path / "w.pt").unlink()
    assert load_run(directory)[1]["weights"]["num_tensors"] > 0
    assert evaluate_run(directory)["test/err"] == read_record(directory)["metrics"]["test/err"]


@pytest.mark.parametrize("bn_statistics", ["moving", "averaged"])
def test_frozen_parts_are_the_same_after_training(
    compose_config: Compose, pretrained: Path, bn_statistics: str
) -> None:
    config = compose_config(
        *SMALL,
        *SHORT,
        f"model.weights={pretrained}",
        "model.freeze=until:layer1",
        "model.drop_classifier=true",
        f"trainer.bn_statistics={bn_statistics}",
    )
    before, after = last_weights(pretrained), last_weights(run(config, "").directory)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(("conv1", "bn1", "layer1"))}


def test_a_folder_must_hold_one_finished_run(compose_config: Compose, pretrained: Path, tmp_path: Path) -> None:
    run(compose_config(*SMALL, *SHORT, "name=before", "seed=2"), "")
    with pytest.raises(InputError, match=r"one finished run is expected below it; there is: digits-.*seed1.*seed2"):
        find_weights(str(pretrained.parent))
    with pytest.raises(InputError, match=r"model\.weights=.*no/such: there is no such file"):
        find_weights(str(tmp_path / "no/such"))
    assert find_weights("IMAGENET1K_V2") is None


def test_a_run_whose_weights_do_not_fit_leaves_nothing(compose_config: Compose, tmp_path: Path) -> None:
    torch.save(cifar_net(14, in_channels=1).state_dict(), tmp_path / "w.pt")
    config = compose_config(*SMALL, f"model.weights={tmp_path / 'w.pt'}")
    with pytest.raises(InputError, match="is not of this network"):
        run(config, "")
    assert not list(Path(config.paths.log_dir).rglob("record.json"))


def test_the_backbone_has_a_rate_of_its_own(compose_config: Compose) -> None:
    config = compose_config(*SMALL, *SHORT, "optimizer.backbone_lr_factor=1.0e-9", "optimizer.weight_decay=0")
    before, after = build_network(config, DIGITS, 10).state_dict(), last_weights(run(config, "").directory)
    assert torch.allclose(before["conv1.weight"], after["conv1.weight"], atol=1e-7)
    assert not torch.allclose(before["fc.weight"], after["fc.weight"], atol=1e-4)


@pytest.mark.parametrize("decay", ["true", "false"])
def test_every_parameter_that_trains_is_in_one_group(compose_config: Compose, decay: str) -> None:
    keys = ("optimizer.backbone_lr_factor=0.1", f"optimizer.decay_norm_and_bias={decay}")
    config = compose_config(*SMALL, *keys)
    module = build_module(config, build_network(config, DIGITS, 10), 10)
    groups = module.configure_optimizers().param_groups
    assert [group.get("lr_factor", 1.0) for group in groups] == ([0.1, 1.0] if decay == "true" else [0.1, 0.1, 1, 1])
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped}) == len(list(module.network.parameters()))


@pytest.mark.slow
def test_a_run_with_weights_and_random_masks_that_was_stopped_ends_as_if_it_had_not(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, pretrained: Path
) -> None:
    keys = (*SMALL, "model.dropout=0.3", "model.stochastic_depth=0.5", "checkpoint.every_steps=1")
    keys += (f"model.weights={pretrained}",)
    whole = run(compose_config(*keys, "name=whole"), "").directory
    decide = Checkpoints._save_if_due

    def stop(self: Checkpoints, trainer: Any, module: Any) -> None:
        self.stop.is_made = module.step >= 5
        decide(self, trainer, module)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_save_if_due", stop)
        assert run(compose_config(*keys, "name=cut"), "").status == "interrupted"
    cut = run(compose_config(*keys, "name=cut"), "").directory
    assert read_record(cut)["weights"] == read_record(whole)["weights"]
    expected, found = last_weights(whole), last_weights(cut)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    without = run(compose_config(*SMALL, "name=without"), "").directory
    assert not torch.equal(last_weights(without)["conv1.weight"], expected["conv1.weight"])


@pytest.mark.slow
def test_recomputation_is_the_same_run_to_the_bit(compose_config: Compose) -> None:
    directories = [
        run(compose_config(*SMALL, *SHORT, f"name={value}", f"model.activation_checkpointing={value}"), "").directory
        for value in ("true", "false")
    ]
    assert directories[0].name == directories[1].name
    first, second = map(last_weights, directories)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
def test_brightness_follows_the_normalisation_of_the_data(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Normalization, "deviations", lambda self: [2.0, 1.0, 1.0])
    config = compose_config(*SMALL, *SHORT, "model.two_stream=true")
    weights = last_weights(run(config, "").directory)["rgbl.weights"]
    assert weights.tolist() == pytest.approx([2 * 0.299 / 1.299, 0.587 / 1.299, 0.114 / 1.299])


def test_one_key_makes_any_network_two_streams(compose_config: Compose) -> None:
    config = compose_config(*SMALL, *SHORT, "model.two_stream=true")
    assert config.model.name == "two_stream_resnet8"
    network, record = load_run(run(config, "").directory)
    assert isinstance(network, TwoStream)
    assert record["model"]["name"] == "two_stream_resnet8"


@pytest.mark.slow
def test_networks_without_a_depth_have_a_record_and_a_report(compose_config: Compose, tmp_path: Path) -> None:
    dense = run(compose_config("model=two_stream_dense", *SHORT), "").directory
    run(compose_config("model=dense", *SHORT), "")
    run(compose_config(*SMALL, *SHORT), "")
    model = read_record(dense)["model"]
    assert (model["depth"], model["residual"], model["name"]) == (None, None, "two_stream_dense")
    report = make_report([dense.parent], tmp_path / "report")
    assert sorted(group.network for group in report.groups) == ["dense", "resnet8", "two_stream_dense"]
    assert {group.kind for group in report.groups} == {"dense", "residual", "two_stream_dense"}
    headings = [section.heading for section in report.document.sections]
    assert "Exploratory comparisons" not in headings  # networks of different families are no series
    assert "two_stream_dense" in report.markdown.read_text()


@pytest.mark.slow
def test_scratch_and_transfer_are_compared(compose_config: Compose, pretrained: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        for keys in ((), (f"model.weights={pretrained}",)):
            run(compose_config(*SMALL, *SHORT, f"seed={seed}", "name=both", *keys), "")
    report = make_report([pretrained.parent.parent / "both"], tmp_path / "report")
    assert sorted(group.kind for group in report.groups) == ["residual", "residual, from weights"]
    (comparisons,) = (table for table in report.document.tables if table.name == "comparisons")
    assert {row[comparisons.header.index("n")] for row in comparisons.rows} == {"2 and 2"}  # pairs of seeds


def test_images_too_small_for_a_network_are_refused_by_name(compose_config: Compose) -> None:
    with pytest.raises(InputError, match=r"model\.name=densenet121: not for images of 8 x 8 pixels"):
        run(compose_config("model=densenet121"), "")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.freeze=until:layer9", "model.weights=w.pt"), r"until:layer9: resnet20 has no such part\. Valid: none"),
        (("model.freeze=backbone",), "random weights"),
        (("model=plain20", "model.stochastic_depth=0.2"), r"plain20 is plain; .*Use its residual twin"),
        (("model=plain18", "model.shortcut=B"), "plain18 is plain and has no shortcuts"),
        (("model.dropout=1",), r"model\.dropout=1\.0: must be less than 1"),
        (("model.stochastic_depth=-0.1",), "must not be negative"),
        (("model=resnet18", "model.groups=32"), "bottleneck blocks"),
        (("model=resnet18", "model.depth=20"), "the depths are 18, 34, 50, 101, 152"),
        (("model=wide_resnet28_10", "model.depth=27"), r"6n\+4 .* nearest are 22 and 28"),
        (("model=preact_resnet164", "model.depth=111"), r"9n\+2 .* nearest are 110 and 119"),
        (("model=dense", "model.widths=[]"), r"model\.widths=\[\]"),
        (("model=dense", "model.stochastic_depth=0.1"), "stochastic_depth"),
        (("model.name=resnet20", "model.two_stream=true"), "this network is two_stream_resnet20"),
        (("model=densenet121", "model.name=densenet169"), "this network is densenet121"),
        (("model.weights=w.pt", "model.freeze=backbone", "optimizer.backbone_lr_factor=0.1"), "nothing to train"),
        (("optimizer.backbone_lr_factor=0",), "must be greater than 0"),
    ],
)
def test_what_contradicts_itself_is_refused_early(
    compose_config: Compose, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        compose_config(*overrides)


def test_what_is_published_names_no_folder_of_weights(
    compose_config: Compose, pretrained: Path, tmp_path: Path
) -> None:
    directory = run(compose_config(*SMALL, *SHORT, f"model.weights={pretrained}"), "").directory
    (copy,) = publish(directory, tmp_path / "published")
    record = read_record(copy)
    assert record["config"]["model"]["weights"] == record["weights"]["source"] == pretrained.name
    assert str(tmp_path) not in (tmp_path / "published" / "records.jsonl").read_text()
