"""What a search has tried, in a journal of Optuna's beside its frozen configurations, and search.json for reports.

A search that was killed reads its journal: results stay, and configurations that were being tried go on.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlab.config.identity import flatten, identity_values
from depthlab.config.schema import as_dict
from depthlab.errors import InputError
from depthlab.records.atomic_files import replacing
from depthlab.runs.frozen import SEARCH, SUMMARY
from depthlab.sweeps.search_space import Question

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

STARTUP = 5  # trials that end before others are measured against them
PART = 0.5  # of a run, before which no trial is pruned: large rates, which end well, are behind until the rate falls
JOURNAL = "search.journal"


def open_study(folder: Path, question: Question) -> Study:
    """The study whose journal lies in `folder`, which this process has claimed, with what it holds.

    Raises:
        InputError: Optuna is not installed, or the journal is damaged.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage
    except ImportError:
        raise InputError("hydra/sweeper=search: optuna is not installed. Type: pip install -e '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    folder.mkdir(parents=True, exist_ok=True)
    _repair(folder / JOURNAL)
    try:
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        return optuna.create_study(
            storage=storage,
            study_name="search",
            direction=question.direction,
            load_if_exists=True,
            sampler=make_sampler(question.keys.seed, 0),
            pruner=_pruner(question),
        )
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:  # Optuna checks nothing
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{folder / JOURNAL} is damaged ({reason}). Remove it; the runs are kept and read.") from None


def make_sampler(seed: int, number: int) -> Any:
    """What proposes trial `number`: a sampler of its own, so that a search that was continued proposes the same."""
    from numpy.random import SeedSequence
    from optuna.samplers import TPESampler

    return TPESampler(seed=int(SeedSequence([seed, number]).generate_state(1)[0]), constant_liar=True)


def folder_name(question: Question) -> str:
    """The name of a search's folder: the same question has the same one, however many trials are asked for."""
    keys = {name: value for name, value in vars(question.keys).items() if name != "trials"}
    space = {each.key: each.as_dict() for each in question.space}
    runs = identity_values(flatten(as_dict(question.config)))
    asked = {**keys, "objective": question.key, "space": space, "runs": runs}
    return f"{SEARCH}{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]}"


def summarize(study: Study, question: Question, command: Callable[[Sequence[str]], str]) -> dict[str, Any]:
    """What reports show of a search, as search.json has it.

    Args:
        study: what was tried.
        question: what is looked for.
        command: what a person types, from the overrides of a trial.
    """
    metric = question.metric
    trials = [_trial_as_dict(trial, question) for trial in study.trials]
    complete = [trial for trial in trials if trial["value"] is not None]
    best = (min if metric.better == "lower" else max)(complete, key=lambda trial: trial["value"], default=None)
    words = [f"{key}={value}" for key, value in best["params"].items()] if best else []
    return {
        "version": 1,
        "objective": question.key,
        "metric": {name: getattr(metric, name) for name in ("name", "title", "unit", "better")},
        "space": {each.key: each.as_dict() for each in question.space},
        "search": vars(question.keys),
        "trials": trials,
        "best": best,
        "command": command(words) if best else None,
        "importance": _importance(study, question),
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Put search.json into `folder`."""
    with replacing(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _trial_as_dict(trial: FrozenTrial, question: Question) -> dict[str, Any]:
    params = {each.key: each.text(trial.params[each.key]) for each in question.space if each.key in trial.params}
    value = trial.value if trial.state.name == "COMPLETE" else None
    state = trial.state.name.lower()
    return {"number": trial.number + 1, "state": state, "params": params, "value": value, **trial.user_attrs}


def _importance(study: Study, question: Question) -> dict[str, float] | None:
    """The share of each key in the variance of the objective (fANOVA); None where there is nothing to tell apart."""
    import optuna

    complete = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    if len(question.space) < 2 or len(set(complete)) < STARTUP:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=question.keys.seed)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def trials_left_running(study: Study) -> list[Trial]:
    """The trials that a killed search left, to go on with the values that they have."""
    from optuna import Trial

    return [Trial(study, trial._trial_id) for trial in study.trials if trial.state.name == "RUNNING"]


def _pruner(question: Question) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    trainer = question.config.trainer
    first = max(trainer.val_every_steps, round(PART * trainer.max_steps))
    if question.keys.pruner == "median":
        return MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=first)
    if question.keys.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=4)
    return NopPruner()


def _repair(path: Path) -> None:
    """Remove what a kill may have left: a last line that is cut short, to which Optuna would append, and its lock."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
