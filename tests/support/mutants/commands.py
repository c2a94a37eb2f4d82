"""Faults in what commands do: recording, options, reviews and predictions."""

from tests.support.mutants.mutant import Mutant

CHECKPOINTS = "jobs/train/recorder.py"
QUEUE = "jobs/train/write_queue.py"
RECORDER = "jobs/train/recorder.py"
OPTIONS = "jobs/console/options.py"
TRAIN_OPTIONS = "jobs/train/options.py"
SERVER = "jobs/review/server.py"
LABELS = "jobs/review/labels.py"
SESSION = "jobs/review/session.py"
ANSWERS = "jobs/predict/answers.py"

MUTANTS = (
    Mutant(
        name="two threads make writes of one key at once",
        file=QUEUE,
        old="for key in self._waiting if key not in self._in_progress)",
        new="for key in self._waiting)",
        why="An older checkpoint could replace a newer one.",
        tests=("jobs/train/test_write_queue.py",),
    ),
    Mutant(
        name="writes go on after one has failed",
        file=QUEUE,
        old="        self._waiting.clear()\n        self._count = 0\n",
        new="",
        why="A record could be stored whose files are missing.",
        tests=("jobs/train/test_write_queue.py",),
    ),
    Mutant(
        name="checkpoints fill the memory of the driver",
        file=CHECKPOINTS,
        old="> MAX_CACHED_BYTES:",
        new="> 1 << 60:",
        why="With many large models the driver would be killed.",
        tests=("jobs/train/test_recorder.py",),
    ),
    Mutant(
        name="checkpoints that are read at once fill the memory of the driver",
        file=CHECKPOINTS,
        old=" and len(self._reads) < max(1, MAX_READ_BYTES // (self._largest or MAX_READ_BYTES)):",
        new=":",
        why="When a node with many lanes of large models is lost, the driver would be killed.",
        tests=("jobs/train/test_recorder.py",),
    ),
    Mutant(
        name="every failure of a trial is worth a retry",
        file="jobs/train/trials.py",
        old="retry=is_worth_a_retry(event.code)",
        new="retry=True",
        why="A schedule would train a diverging model again and again.",
        tests=("jobs/train/test_recorder.py",),
    ),
    Mutant(
        name="a checkpoint is stored before the epochs that precede it",
        file=RECORDER,
        old="        self.write_history(flush=True)  # a trial resumes only",
        new="        # a trial resumes only",
        why="After a crash the learning curve would have a gap.",
        tests=("jobs/train/test_recorder.py",),
    ),
    Mutant(
        name="a file overrides the command line",
        file=OPTIONS,
        old="        values[name] = {**(values.get(name) or {}), **value} if isinstance(value, Mapping) else value",
        new="        values.setdefault(name, value)",
        why="An option that is typed would have no effect.",
        tests=("jobs/console/test_options.py",),
    ),
    Mutant(
        name="names of files are taken from the storage",
        file="jobs/train/commands.py",
        old='{**load_mapping(content, CONFIGURATION), "storage": storage}',
        new='{"storage": storage, **load_mapping(content, CONFIGURATION)}',
        why="The pasted command would store its results wherever a writer of the storage says.",
        tests=("jobs/train/test_hostile_configurations.py",),
    ),
    Mutant(
        name="of two time limits the later one counts",
        file="jobs/train/run.py",
        old="min(until, begin + options.max_seconds)",
        new="max(until, begin + options.max_seconds)",
        why="A run would not end by the time that was asked for.",
        tests=("jobs/train/test_limits.py", "jobs/train/test_options.py"),
    ),
    Mutant(
        name="seeds begin at 0",
        file="jobs/train/plan.py",
        old="return range(options.seed, options.seed + options.seeds)",
        new="return range(options.seeds)",
        why="A second run with fresh seeds would repeat the first one.",
        tests=("jobs/train/test_options.py",),
    ),
    Mutant(
        name="a page of another site may send decisions",
        file=SERVER,
        old='if request.method != "GET" and',
        new='if request.method == "" and',
        why="Any web page could label pictures while a review is open.",
        tests=("jobs/review/test_access.py::test_a_decision_from_another_page_is_refused",),
    ),
    Mutant(
        name="a decision that is sent again is stored again",
        file=LABELS,
        old="self.count(decision.image) > decision.seen:",
        new="self.count(decision.image) < 0:",
        why="The file of labels would grow with each lost answer.",
        tests=("jobs/review/test_labels.py",),
    ),
    Mutant(
        name="a picture that is reviewed comes back",
        file=SESSION,
        old="return self.labels.is_reviewed(item.image, at_random=at_random)",
        new="return not item.image",
        why="After a restart people would label the same pictures again.",
        tests=(
            "jobs/review/test_server.py::test_reviewed_pictures_do_not_come_back_after_a_restart_but_skipped_and_"
            "undone_ones_do",
        ),
    ),
    Mutant(
        name="a picture is added a second time",
        file="jobs/review/data.py",
        old="        if image in self.present:\n            return\n",
        new="",
        why="A copy would count twice in the training.",
        tests=("jobs/review/test_additions.py",),
    ),
    Mutant(
        name="a rejected picture has an answer in CSV",
        file=ANSWERS,
        old='            row["class"] = answer.rejection\n',
        new="            pass\n",
        why="A program could not tell a rejected picture from a blank line.",
        tests=("jobs/predict/test_options.py",),
    ),
    Mutant(
        name="the picture itself does not count among those it is compared with",
        file="mnist_lib/pictures/likeness.py",
        old="(lower + 1) / (len(self.held_out) + 1)",
        new="lower / max(len(self.held_out), 1)",
        why="More real pictures would be rejected than is said, all of them with few held-out ones.",
        tests=("mnist_lib/pictures/test_likeness.py",),
    ),
    Mutant(
        name="the last batch of pictures is not predicted",
        file="mnist_lib/pictures/sandbox.py",
        old="    if batch:\n        yield batch\n",
        new="",
        why="Up to 999 pictures would have no answer.",
        tests=("jobs/predict/test_options.py::test_each_picture_is_in_one_batch_of_limited_size",),
    ),
)
