"""The settings of each configuration, proposed from earlier scores."""

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mnist_lib.errors import SpecError
from mnist_lib.search.halving import DEFAULTS, Halving
from mnist_lib.search.space import Choice, Range, Space, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Propose = Callable[[int], Mapping[str, Value]]  # from the number of a configuration to its settings

# Bracket n is proposed from the scores of brackets 0 to n - LAG, so a free lane can begin it before bracket n - 1 is
# complete.
LAG = 2


class TpeProposals:
    """Proposals of Optuna's tree-structured Parzen estimator (Bergstra et al., 2011).

    All configurations of bracket n are proposed together, from the scores of brackets 0 to n - LAG, which are complete.
    So they depend on the seed and these scores alone.
    """

    def __init__(self, space: Space, seed: int, halving: Halving) -> None:
        require_optuna()
        self._space, self._seed, self._halving = space, seed, halving
        self._distributions = {name: _distribution(dimension) for name, dimension in space.dimensions.items()}
        self._proposed: list[list[Mapping[str, Value]]] = []  # by bracket

    def __call__(self, number: int) -> Mapping[str, Value]:
        """Return the settings of a configuration. The brackets that they depend on must be complete."""
        bracket, position = divmod(number, self._halving.ladder.bracket)
        while len(self._proposed) <= bracket:
            self._proposed.append(self._bracket(len(self._proposed)))
        return self._proposed[bracket][position]

    def _bracket(self, bracket: int) -> list[Mapping[str, Value]]:
        import optuna
        from optuna.trial import TrialState, create_trial

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = int.from_bytes(hashlib.sha256(f"{self._seed} {bracket}".encode()).digest()[:4])
        size = self._halving.ladder.bracket
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        scores: dict[int, dict[int, float]] = {}  # by configuration and number of epochs
        for made in self._halving.decisions:
            if made.bracket + LAG <= bracket:
                for number, score in made.scores.items():
                    if score is not None:
                        scores.setdefault(number, {})[made.epochs] = score.score
        scores.pop(DEFAULTS, None)  # its settings need not be in the space
        for number, by_epochs in sorted(scores.items()):
            is_whole = self._halving.ladder.rungs[-1] in by_epochs
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if is_whole else TrialState.PRUNED,
                    value=by_epochs[max(by_epochs)],
                    intermediate_values=by_epochs,
                    params=dict(self(number)),
                    distributions=self._distributions,
                )
            )
        asked = [study.ask(self._distributions).params for _ in range(size)]
        return [{name: self._space.dimensions[name].rounded(value) for name, value in one.items()} for one in asked]


def require_optuna() -> None:
    """Raise SpecError if Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise SpecError(
            'propose: expected the package optuna for "tpe", got none; install it: pip install "mnist-jobs[search]"'
        ) from None


def _distribution(dimension: Choice | Range) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.ends)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
