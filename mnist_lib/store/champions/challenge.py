"""Decide whether a challenger replaces the champion. Both answer the challenger's test images.

`promote` gathers the facts that the decision depends on, decides by the rule in `promotion`, and appends a record.
"""

from dataclasses import dataclass, replace

from mnist_lib.data.changes import DatasetState, changes_between
from mnist_lib.data.table import TRAIN
from mnist_lib.errors import DataReadError, IntegrityError, MnistError, StoreError
from mnist_lib.objects.protocol import Objects
from mnist_lib.store.champions.comparison import Compared
from mnist_lib.store.champions.log import Champion, ChampionLog, Kind, next_record
from mnist_lib.store.champions.promotion import Budget, Decision, Rule, missing_images
from mnist_lib.store.champions.test_set import ChallengerTestSet, Predict
from mnist_lib.store.datasets import read_state
from mnist_lib.store.predictions import Predictions
from mnist_lib.store.versions import Version, require_not_deleted, require_version, verify


def promote(objects: Objects, challenger: Version, rule: Rule, predict: Predict | None = None) -> Decision:
    """Make a version the champion for the dataset that it was trained on, if the rule says so.

    Both are compared on the challenger's test images, with the challenger's labels. Where the champion was tested on
    the same images, its stored answers are used. A damaged champion cannot be compared; it has to be rolled back first.

    Args:
        predict: predicts test images on which the champion was not tested; None if that is not possible.

    Raises:
        ConflictError: `gc` has deleted the challenger.
        IntegrityError: the challenger is damaged.
        StoreError: the storage fails; the champion is unchanged.
    """
    require_not_deleted(objects, challenger)
    verify(objects, challenger)
    test_set = ChallengerTestSet(objects, challenger, predict)
    log = ChampionLog(objects, challenger.model, challenger.facts.dataset.name)
    try:
        while True:
            facts = _gather(objects, challenger, test_set, rule, log)
            decision = decide(rule, facts)
            if not decision.promote and facts.compared is None:
                return decision
            if log.append(_record(challenger, test_set, facts, decision)):
                return decision
            # Another decision was made at the same time: compare again, with the current champion.
    except IntegrityError as error:
        return Decision(False, f"the champion is damaged; roll it back first ({error})")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a decision depends on, besides the rule."""

    challenger: Predictions
    is_balanced: bool  # whether trials were compared by balanced accuracy when the challenger was trained
    current: Champion | None  # the newest record; None if there is no champion
    refusal: Champion | None = None  # the record of the same comparison; None if it is the first one
    no_answer: str = ""  # why the champion cannot answer the images
    champion: Version | None = None
    compared: Compared | None = None  # the answers of both; None if the champion is not needed, or cannot answer
    new_images: int = 0  # training images that the champion was not trained on, or with another label
    champion_images: int = 0  # all training images of the champion; both are 0 if one of the datasets is not known


def decide(rule: Rule, facts: Facts) -> Decision:
    """Return the decision, with what it leaves of the significance. This reads and writes nothing."""
    current = facts.current
    challenger = facts.challenger
    if current is not None and current.name == challenger.name:
        return Decision(False, f"{challenger.name} is already the champion", budget=current.budget)
    if facts.refusal is not None:
        return Decision(False, facts.refusal.why, facts.refusal.statistics, facts.refusal.budget)
    if facts.no_answer:
        return Decision(False, facts.no_answer)
    budget = Budget(rule.alpha, current.comparisons if current else 0)
    if facts.compared is None:
        decision = rule.decide_alone(challenger) or rule.decide_first(challenger, balanced=facts.is_balanced)
        left = current.budget if current else None
        return replace(decision, budget=left or (budget if decision.promote else None))
    by_data = rule.decide_by_data(facts.compared, facts.new_images, facts.champion_images)
    if by_data is not None and by_data.promote:
        return replace(by_data, budget=budget)
    missing = missing_images(facts.new_images, facts.champion_images)
    decision = rule.decide(facts.compared, budget.next_alpha, missing)
    if by_data is not None and not decision.promote and by_data.why not in decision.why:
        decision = replace(decision, why=f"{decision.why}; {by_data.why}")
    return replace(decision, budget=budget.after_comparison())


def _gather(objects: Objects, challenger: Version, test_set: ChallengerTestSet, rule: Rule, log: ChampionLog) -> Facts:
    """Return what is known now. Raises IntegrityError if the champion is damaged."""
    current = log.newest()
    if isinstance(current, IntegrityError):
        raise current
    is_balanced = challenger.facts.test_balanced_accuracy is not None
    facts = Facts(challenger=test_set.predictions, is_balanced=is_balanced, current=current)
    if current is None or current.version == challenger.number or rule.decide_alone(facts.challenger):
        return facts
    if refusal := _earlier_refusal(log, challenger, current):
        return replace(facts, refusal=refusal)
    champion = require_version(objects, current.model, current.version)
    try:
        test_set.answer(champion)
    except (IntegrityError, StoreError, DataReadError):
        raise
    except MnistError as error:
        no_answer = f"{current.name} stays: it cannot answer the images of this hold-out ({error})"
        return replace(facts, no_answer=no_answer)
    before = _state(objects, champion)
    after = _state(objects, challenger)
    new_images = champion_images = 0
    if before is not None and after is not None:
        changes = changes_between(before, after)
        new_images = sum(changes.added["train"].values()) + sum(changes.relabelled["train"].values())
        champion_images = int((before.split == TRAIN).sum())
    return replace(
        facts,
        champion=champion,
        compared=test_set.compared(champion, balanced=is_balanced),
        new_images=new_images,
        champion_images=champion_images,
    )


def _earlier_refusal(log: ChampionLog, challenger: Version, current: Champion) -> Champion | None:
    """Return the record of the same comparison, so that a repeated command or a resumed run costs nothing."""
    for number in range(current.number, 0, -1):
        record = log.read(number)
        if isinstance(record, IntegrityError) or record.version != current.version or record.kind != "keep":
            break
        if record.challenger == challenger.number:
            return record
        if record.at < challenger.committed_at:
            break  # older records are about other challengers
    return None


def _state(objects: Objects, version: Version) -> DatasetState | None:
    """Return the images and labels of the dataset that a version was trained on, or None if they are not known."""
    content = read_state(objects, version.facts.dataset.name, version.facts.dataset.fingerprint)
    try:
        return DatasetState.read(content or b"", "the state of a dataset")
    except IntegrityError:
        return None


def _record(challenger: Version, test_set: ChallengerTestSet, facts: Facts, decision: Decision) -> Champion:
    """Return the record of a decision: of a new champion, or of a comparison that the champion has won."""
    winner = challenger if decision.promote or facts.champion is None else facts.champion
    kind: Kind = "promote" if decision.promote else "keep"
    dataset: str = challenger.facts.dataset.name
    record = next_record(kind, dataset, facts.current, winner, decision, was_compared=facts.compared is not None)
    test, interval = test_set.accuracy(winner, record.selected_from)
    refused = None if decision.promote else challenger.number
    return replace(record, run=challenger.run, challenger=refused, test=test, test_ci95=interval)
