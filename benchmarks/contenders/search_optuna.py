"""A search by Optuna: TPE proposes configurations, and Hyperband stops the worse ones. It ends when a file appears.

A process for each CPU, each with one thread, which share the study in a file.
"""

import json
import subprocess
import sys
from pathlib import Path

import optuna
from fit_configuration import BATCH_SIZES, HIDDEN_UNITS, LEARNING_RATES, OPTIMIZERS, fit, shuffled
from optuna.storages.journal import JournalFileBackend

digits, folder, stop = Path(sys.argv[1]), sys.argv[4], Path(sys.argv[5])
epochs, seed, processes = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[6])
sampler_seed = int(sys.argv[7]) if len(sys.argv) > 7 else seed  # another one for each process
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    study_name="search",
    storage=optuna.storages.JournalStorage(JournalFileBackend(f"{folder}/study.log")),
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=sampler_seed),
    pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3),
    load_if_exists=True,
)


def objective(trial: optuna.Trial) -> float:
    settings = {
        "learning_rate": trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
        "hidden_units": trial.suggest_categorical("hidden_units", HIDDEN_UNITS),
        "batch_size": trial.suggest_categorical("batch_size", BATCH_SIZES),
        "optimizer": trial.suggest_categorical("optimizer", OPTIMIZERS),
    }

    best = 0.0

    def report(epoch: int, accuracy: float) -> None:
        nonlocal best
        best = max(best, accuracy)
        trial.report(accuracy, epoch)
        if stop.exists():
            study.stop()
            raise optuna.TrialPruned
        if trial.should_prune():
            raise optuna.TrialPruned

    fit(settings, images, labels, epochs, report)
    return best


images, labels = shuffled(digits, seed)
others = [
    subprocess.Popen([sys.executable, __file__, *sys.argv[1:6], "1", str(seed + 1_000 * number)])
    for number in range(1, processes)
]
study.optimize(objective)
if any(other.wait() for other in others):
    raise SystemExit("another process of the study failed")
if processes > 1:
    scores = [
        (max(trial.intermediate_values.values()), trial.params) for trial in study.trials if trial.intermediate_values
    ]
    print(json.dumps({"settings": max(scores, key=lambda score: score[0])[1], "configurations": len(scores)}))
