"""The literal command line, with real runs: the plugin is found, and the launcher stays light."""

import json

import pytest


def test_the_launcher_imports_no_torch_and_the_plugin_almost_nothing(command):
    code = "import sys, {}; print([m for m in ('torch', 'lightning', 'rich', 'depthlab') if m in sys.modules])"
    assert command("-c", code.format("hydra_plugins.depthlab_pool")).stdout == "[]\n"
    assert command("-c", code.format("depthlab.sweeps.launcher")).stdout == "['rich', 'depthlab']\n"


@pytest.mark.slow
def test_the_sweep_of_the_readme_runs_once_and_then_has_nothing_to_do(command, tmp_path):
    line = ["train.py", "debug=steps", "data=digits", "model=plain20", "-m", "seed=1,2", f"paths.log_dir={tmp_path}"]
    first = command(*line)
    assert first.returncode == 0, first.stdout + first.stderr
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("debug/*/record.json"))]
    assert [(record["status"], record["seed"]) for record in records] == [("finished", 1), ("finished", 2)]
    assert records[1]["command"].startswith("python train.py debug=steps data=digits model=plain20 seed=2 ")
    again = command(*line)
    assert again.returncode == 0
    assert "plain20 seed 2: already finished, test error" in again.stdout
    assert "all 2 jobs are done: nothing to train" in again.stdout


@pytest.mark.slow
def test_a_bad_job_is_refused_in_a_few_lines(command, tmp_path):
    refused = command("train.py", "data=digits", "-m", "model.depth=20,21", f"paths.log_dir={tmp_path}")
    assert refused.returncode == 2
    assert "model.depth=21" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.glob("*/*/record.json"))


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["on_error=stopp", "retries=-1", "jobs_per_device=0"])
def test_a_setting_of_the_launcher_is_refused_by_name(command, tmp_path, setting):
    refused = command("train.py", "-m", "seed=1,2", f"hydra.launcher.{setting}", f"paths.log_dir={tmp_path}")
    assert refused.returncode == 2
    assert f"hydra.launcher.{setting}" in refused.stderr
