"""Faults in what is stored: versions, champions, runs, and what a run is resumed from."""

from tests.support.mutants.mutant import Mutant

PUBLISHING = "mnist_lib/store/publishing.py"
VERSIONS = "mnist_lib/store/versions.py"
RESUMPTION = "mnist_lib/store/resumption.py"
RUNS = "mnist_lib/store/runs.py"
APPOINTMENT = "mnist_lib/store/champions/appointment.py"
LOG = "mnist_lib/store/champions/log.py"
CHALLENGE = "mnist_lib/store/champions/challenge.py"
PROMOTION = "mnist_lib/store/champions/promotion.py"
REFERENCE = "mnist_lib/store/reference.py"
COMPARISON = "mnist_lib/store/champions/comparison.py"
LOCKS = "mnist_lib/store/opening.py"
GC = "mnist_lib/store/test_garbage_collection.py"
TESTS = "mnist_lib/store"

MUTANTS = (
    Mutant(
        name="the number of a version whose claim is lost is used again",
        file=PUBLISHING,
        old="while objects.exists(commit_record(model, number)) or not log.append(",
        new="while not log.append(",
        why="A new run would write its files among those of an existing version.",
        tests=(f"{TESTS}/test_hostile.py::test_a_lost_claim_does_not_let_another_run_reuse_the_number",),
    ),
    Mutant(
        name="files of a killed attempt to publish stay",
        file=PUBLISHING,
        old='            return ""\n        objects.delete_below(folder)\n',
        new='            return ""\n',
        why="Each crash while a model is stored would leave a copy of the model behind.",
        tests=(f"{GC}::test_s2_gc_deletes_the_files_of_a_killed_attempt_whose_run_has_published_since",),
    ),
    Mutant(
        name="a version may have no weights",
        file=PUBLISHING,
        old="if files.keys().isdisjoint(WEIGHTS_FILES):",
        new="if not files:",
        why="A champion could be stored that nobody can load.",
        tests=(f"{TESTS}/test_publishing.py",),
    ),
    Mutant(
        name="gc gives up the number of a run that may be resumed",
        file=PUBLISHING,
        old="if RunFolder(objects, claim.run).is_unfinished:",
        new="if False:",
        why="A run that was killed while it stored its model could never be completed.",
        tests=(f"{GC}::test_s2_a_publisher_that_died_just_before_its_commit_is_completed_by_the_next_attempt",),
    ),
    Mutant(
        name="gc deletes versions while a run is under way",
        file=LOCKS,
        old="            if is_locked:",
        new="            if False:",
        why="A promotion could appoint a version whose files are gone.",
        tests=(f"{TESTS}/test_locks.py",),
    ),
    Mutant(
        name="a run begins while gc is under way",
        file=LOCKS,
        old="    if objects.is_locked(GC_LOCK):",
        new="    if False:",
        why="gc could delete the version from which the run starts.",
        tests=(f"{TESTS}/test_locks.py",),
    ),
    Mutant(
        name="gc keeps the oldest versions",
        file=PUBLISHING,
        old="for version in existing[-keep:]}",
        new="for version in existing[:keep]}",
        why="The newest models would be deleted.",
        tests=(f"{GC}::test_gc_keeps_the_newest_versions_the_champion_and_its_roll_back_targets",),
    ),
    Mutant(
        name="gc deletes files and leaves the record of the version as it was",
        file=PUBLISHING,
        old="        objects.replace(commit_record(model, version.number), seal(replace(version, deleted=True)))\n",
        new="",
        why="Listings would show a version that cannot be loaded.",
        tests=(f"{GC}::test_gc_deletes_files_and_keeps_the_record_so_that_the_number_is_not_reused",),
    ),
    Mutant(
        name="gc keeps one former champion too few",
        file=APPOINTMENT,
        old="rollback_line(log)[-keep - 1 :]",
        new="rollback_line(log)[-keep:]",
        why="A roll-back would have no version to go to.",
        tests=(f"{GC}::test_gc_keeps_the_newest_versions_the_champion_and_its_roll_back_targets",),
    ),
    Mutant(
        name="a damaged version becomes champion by a roll-back",
        file=APPOINTMENT,
        old="        verify(objects, version)\n        predictions =",
        new="        predictions =",
        why="In an emergency, predictions would fail at once after the roll-back.",
        tests=(f"{TESTS}/test_hostile.py::test_s8_a_damaged_version_cannot_become_champion_by_a_roll_back",),
    ),
    Mutant(
        name="a second roll-back returns to the version that was left",
        file=APPOINTMENT,
        old="            del line[line.index(record.version) + 1 :]",
        new="            line.append(record.version)",
        why="Two roll-backs in a row would bring back the bad model.",
        tests=(f"{TESTS}/champions/test_appointment.py",),
    ),
    Mutant(
        name="the champion is compared with itself",
        file=CHALLENGE,
        old="if current is not None and current.name == challenger.name:",
        new="if current is not None and current.version < 0:",
        why="A repeated promotion would spend significance on nothing.",
        tests=(f"{TESTS}/champions/test_appointment.py::test_the_champion_is_not_promoted_again",),
    ),
    Mutant(
        name="a comparison costs nothing",
        file=CHALLENGE,
        old="return replace(decision, budget=budget.after_comparison())",
        new="return replace(decision, budget=budget)",
        why="In a year of nights, chance would promote a model that is no better.",
        tests=(f"{TESTS}/champions/test_significance.py::test_the_comparisons_of_a_log_spend_what_the_budget_says",),
    ),
    Mutant(
        name="a small drop of one class prevents a promotion",
        file=PROMOTION,
        old="if drop <= self.max_class_drop:",
        new="if drop <= 0:",
        why="A much better model would be refused for a class that hardly changed.",
        tests=(f"{TESTS}/champions/test_promotion.py",),
    ),
    Mutant(
        name="a class collapses by chance in one of many classes",
        file=PROMOTION,
        old="p < MAX_FALSE_ALARMS / len(both.by_class)",
        new="p < MAX_FALSE_ALARMS",
        why="With many classes, one of them seems to drop in most comparisons.",
        tests=(f"{TESTS}/champions/test_promotion.py",),
    ),
    Mutant(
        name="the p-value lacks its last term",
        file=COMPARISON,
        old="for k in range(lost):",
        new="for k in range(lost - 1):",
        why="Models would be promoted that are not significantly better.",
        tests=(f"{TESTS}/champions/test_promotion.py",),
    ),
    Mutant(
        name="a model that has learned wrong labels is promoted",
        file=COMPARISON,
        old="if mcnemar(worse, better) >= MIN_LUCK:",
        new="if both.tested.any():",
        why="A folder of pictures in the wrong class would replace the champion overnight.",
        tests=(f"{TESTS}/champions/test_promotion.py",),
    ),
    Mutant(
        name="pictures of one object count as several",
        file=COMPARISON,
        old="return units_of(len(self.labels), self.groups)",
        new="return units_of(len(self.labels), None)",
        why="Ten near-copies would count as ten independent pictures, and chance would replace the champion.",
        tests=(f"{TESTS}/champions/test_promotion.py",),
    ),
    Mutant(
        name="a class that a model does not know is held against one that knows it",
        file="mnist_lib/store/champions/test_set.py",
        old="balanced=balanced, shared=shared)",
        new="balanced=balanced, shared=None)",
        why="A model of ten classes would be refused, since it sometimes takes an image for one of the new classes.",
        tests=(f"{TESTS}/champions/test_challenge.py",),
    ),
    Mutant(
        name="a class that is gone is no objection",
        file=REFERENCE,
        old="if missing:",
        new="if len(missing) > 2:",
        why="A folder that was incomplete for one night would have a champion that does not know all classes.",
        tests=(f"{TESTS}/test_reference.py",),
    ),
    Mutant(
        name="what a person has removed counts as gone",
        file=REFERENCE,
        old="gone = int((~corrected & (indices_of(before.hashes, dataset.table.hashes) < 0)).sum())",
        new="gone = int((indices_of(before.hashes, dataset.table.hashes) < 0).sum())",
        why="A thorough review would end in a run that promotes nothing.",
        tests=(f"{TESTS}/test_reference.py",),
    ),
    Mutant(
        name="a dataset with objections becomes the reference",
        file=REFERENCE,
        old="if not dataset.objections and (",
        new="if (",
        why="The second incomplete night would promote what the first one refused.",
        tests=(f"{TESTS}/test_reference.py",),
    ),
    Mutant(
        name="a deleted record of a champion is not noticed",
        file=LOG,
        old="if number > last + 1:",
        new="if number < last:",
        why="A decision could vanish, and `verify` would call the log complete.",
        tests=(f"{TESTS}/champions/test_log.py",),
    ),
    Mutant(
        name="the content of a stored file is not compared with its hash",
        file=VERSIONS,
        old="if content is None or got != expected:",
        new="if content is None:",
        why="A disk that flips a bit would change predictions without an error.",
        tests=(f"{TESTS}/test_versions.py::test_p4_s8_a_changed_or_missing_file_is_named_with_what_was_expected",),
    ),
    Mutant(
        name="only the newest checkpoint is kept",
        file=RESUMPTION,
        old="_checkpoints(folder, trial)[CHECKPOINTS_PER_TRIAL:]",
        new="_checkpoints(folder, trial)[1:]",
        why="If the newest one is damaged, a trial would begin again.",
        tests=(f"{TESTS}/test_resumption.py::test_all_but_the_newest_two_checkpoints_are_deleted",),
    ),
    Mutant(
        name="the stored probabilities of a trial are not compared with their hash",
        file=RESUMPTION,
        old="if content is None or hashlib.sha256(content).hexdigest() != sha256:",
        new="if content is None:",
        why="A damaged file would change the accuracy that a resumed run reports.",
        tests=(f"{TESTS}/test_resumption.py::test_a_damaged_result_is_reported_and_not_used",),
    ),
    Mutant(
        name="the stored result of other settings is used",
        file=RESUMPTION,
        old="if stored.record.spec != spec:",
        new="if stored.record.spec.seed != spec.seed:",
        why="A report would show a trial with settings that it was not trained with.",
        tests=(f"{TESTS}/test_resumption.py::test_a_result_of_another_spec_is_not_used",),
    ),
    Mutant(
        name="the time between two drivers counts as work on the run",
        file=RUNS,
        old="worked, begin = worked + last - begin, entry.at - sum(entry.phases.values())",
        new="worked, begin = worked + entry.at - begin, entry.at",
        why="A run that was interrupted overnight would find its time limit used up.",
        tests=(f"{TESTS}/test_runs.py::test_the_time_worked_on_a_run_leaves_out_the_time_between_two_drivers",),
    ),
)
