"""A search by Ray Tune: random configurations, and ASHA, which stops the worse ones. It ends when a file appears."""

import json
import sys
from pathlib import Path

from fit_configuration import BATCH_SIZES, HIDDEN_UNITS, LEARNING_RATES, OPTIMIZERS, fit, shuffled
from ray import tune
from ray.tune.schedulers import ASHAScheduler

digits, epochs, seed, folder, stop = (
    Path(sys.argv[1]),
    int(sys.argv[2]),
    int(sys.argv[3]),
    sys.argv[4],
    Path(sys.argv[5]),
)


class AtTheEnd(tune.Stopper):
    def __call__(self, trial_id: str, result: dict) -> bool:
        return stop.exists()

    def stop_all(self) -> bool:
        return stop.exists()


def trial(config: dict, data: object) -> None:
    fit(config, *data, epochs, lambda epoch, accuracy: tune.report({"accuracy": accuracy}))


space = {
    "learning_rate": tune.loguniform(*LEARNING_RATES),
    "hidden_units": tune.choice(HIDDEN_UNITS),
    "batch_size": tune.choice(BATCH_SIZES),
    "optimizer": tune.choice(OPTIMIZERS),
}
trainable = tune.with_resources(tune.with_parameters(trial, data=shuffled(digits, seed)), {"cpu": 1})
results = tune.Tuner(
    trainable,
    param_space=space,
    tune_config=tune.TuneConfig(
        metric="accuracy",
        mode="max",
        num_samples=10_000,
        scheduler=ASHAScheduler(max_t=epochs, grace_period=1, reduction_factor=3),
        reuse_actors=True,
    ),
    run_config=tune.RunConfig(storage_path=folder, verbose=0, stop=AtTheEnd()),
).fit()
best = results.get_best_result(scope="all")
tried = sum(bool(result.metrics and "accuracy" in result.metrics) for result in results)
print(json.dumps({"settings": best.config, "configurations": tried}))
