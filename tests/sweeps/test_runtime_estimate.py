"""What finished runs tell of the time and disk that others take; what a bad record tells is nothing."""

import json
import os
import time

import pytest

from depthlab.sweeps.runtime_estimate import read_estimates

from ..report.synthetic import write_run

PART = {"from_step": 0, "to_step": 64_000, "wall_seconds": 50.0}
ODD = {
    "NaN": {"stretches": [{**PART, "training_seconds": float("nan")}]},
    "infinite": {"stretches": [{**PART, "training_seconds": float("inf")}]},
    "huge": {"stretches": [{**PART, "training_seconds": 10**400}]},
    "text": {"stretches": [{**PART, "training_seconds": "long"}]},
    "parameters in words": {"model": {"name": "plain20", "num_params": "many"}},
    "parameters without end": {"model": {"name": "plain20", "num_params": 10**40}},
    "a model of another kind": {"model": {"name": ["plain20"], "num_params": 7}},
    "no batch": {"config": {"data": {"batch_size": 0}, "trainer": {"accumulate_grad_batches": 1}}},
    "a batch in words": {"config": {"data": {"batch_size": "big"}, "trainer": {"accumulate_grad_batches": 1}}},
    "no steps": {"steps": 0},
}


def finished(root, seed, **record):
    times = {"stretches": [{**PART, "training_seconds": 40.0}], "wall_seconds": 50.0}
    return write_run(root, "plain20", seed, 1.0, 9.0, points=0, record={**times, **record})


def test_the_pace_is_that_of_the_steps_that_were_taken(tmp_path):
    finished(tmp_path, 1)
    known = read_estimates(tmp_path)
    (pace,) = known.paces.values()
    assert pace.image_seconds == 40.0 / (64_000 * 128)
    assert pace.other_seconds == 10.0
    assert known.num_params == {"plain20": 97078 * 3 - 21512}


@pytest.mark.parametrize("odd", list(ODD))
def test_one_bad_neighbour_changes_no_estimate(tmp_path, odd):
    finished(tmp_path, 1)
    before = read_estimates(tmp_path)
    bad = finished(tmp_path, 2) / "record.json"
    bad.write_text(json.dumps({**json.loads(bad.read_text()), **ODD[odd]}))
    assert read_estimates(tmp_path) == before


@pytest.mark.parametrize("kind", ["fifo", "link", "not UTF-8"])
def test_a_neighbour_that_cannot_be_read_blocks_nothing(tmp_path, kind):
    finished(tmp_path / "logs", 1)
    before = read_estimates(tmp_path / "logs")
    bad = finished(tmp_path / "logs", 2) / "record.json"
    (tmp_path / "other").write_bytes(bad.read_bytes())
    bad.unlink()
    if kind == "fifo":
        os.mkfifo(bad)
    elif kind == "link":
        bad.symlink_to(tmp_path / "other")
    else:
        bad.write_bytes(b"\xff\xfe")
    begun = time.monotonic()
    assert read_estimates(tmp_path / "logs") == before
    assert time.monotonic() - begun < 5
