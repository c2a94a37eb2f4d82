"""Faults in the data: which pictures there are, their splits, batches and corrections."""

from tests.support.mutants.mutant import Mutant

LISTING, SPLIT = "mnist_lib/data/listing.py", "mnist_lib/data/split.py"
SHARDS = "mnist_lib/data/shards.py"
CORRECTED, CORRECTIONS = "mnist_lib/data/corrected.py", "mnist_lib/data/corrections.py"
TESTS = "mnist_lib/data"

MUTANTS = (
    Mutant(
        name="a class that only the test has is accepted",
        file=LISTING,
        old='if not any(listing.split(path) in ("train", "") for path in paths)',
        new='if not any(listing.split(path) != "validation" for path in paths)',
        why="The model would be tested on a class that it cannot know.",
        tests=(f"{TESTS}/test_folder.py::test_d8_a_class_that_exists_only_in_test_is_refused",),
    ),
    Mutant(
        name="links to pictures outside of the folder are followed",
        file=LISTING,
        old="if not path.resolve().is_relative_to(self._inside):",
        new="if not path.resolve().is_file():",
        why="A private picture could become part of a dataset and of its report.",
        tests=(f"{TESTS}/test_listing.py::test_d8_links_that_lead_out_of_the_folder_are_left_out",),
    ),
    Mutant(
        name="class 10 comes before class 2",
        file=LISTING,
        old="if lines), key=_natural)",
        new="if lines))",
        why="The labels of a dataset of numbers would not be the numbers.",
        tests=(f"{TESTS}/test_listing.py::test_d8_classes_are_the_folders_in_natural_order",),
    ),
    Mutant(
        name="a picture that has changed is not read again",
        file=LISTING,
        old="{path}\\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}",
        new="{path}\\0",
        why="Training would go on with the pictures of yesterday.",
        tests=(f"{TESTS}/test_folder.py", f"{TESTS}/test_fingerprint.py"),
    ),
    Mutant(
        name="images are read in the order of their files",
        file=SHARDS,
        old="(pixels if in_order else pixels[place])",
        new="(pixels if len(pixels) == len(rows) else pixels[place])",
        why="Each image would have the label of another.",
        tests=(f"{TESTS}/test_shards.py::test_any_rows_are_read_in_their_order_from_files_and_from_memory",),
    ),
    Mutant(
        name="a damaged image is trained on",
        file=SHARDS,
        old="if zlib.crc32(buffer[index * size : (index + 1) * size]) != checksum:",
        new="if not checksum:",
        why="A failing disk would change the accuracy, and nobody would know.",
        tests=(f"{TESTS}/test_shards.py::test_d10_no_wrong_pixels_are_returned",),
    ),
    Mutant(
        name="the images of a running job are removed",
        file=SHARDS,
        old="names.update(file.read().split())",
        new="pass",
        why="A job that trains for days would fail when another one begins.",
        tests=(f"{TESTS}/test_shards.py::test_only_old_shards_that_no_process_holds_are_removed",),
    ),
    Mutant(
        name="validation images are trained on",
        file=SPLIT,
        old="return train.take(order[held_out:]), train.take(order[:held_out])",
        new="return train.take(order), train.take(order[:held_out])",
        why="The best epoch would be chosen on images that the model has learned.",
        tests=(f"{TESTS}/test_split.py",),
    ),
    Mutant(
        name="the order of pictures decides which are for the test",
        file=SPLIT,
        old="shares_of(hashes)[:, 0] < TEST_SHARE",
        new="np.arange(len(hashes)) < TEST_SHARE * len(hashes)",
        why="A new picture would move others from the training to the test.",
        tests=(f"{TESTS}/test_folder.py::test_p18_a_picture_and_its_copies_stay_in_one_split_when_others_are_added",),
    ),
    Mutant(
        name="half of a hash identifies an image",
        file=SPLIT,
        old="(among[found] == hashes).all(axis=1)",
        new="(among[found] == hashes).any(axis=1)",
        why="A forged line could suppress a correction of another image.",
        tests=(f"{TESTS}/test_hashes.py",),
    ),
    Mutant(
        name="a wrong number of images is accepted",
        file=SPLIT,
        old="if not len(split) == len(split.images) == expected:",
        new="if not len(split) == len(split.images):",
        why="A truncated download would be trained on.",
        tests=(f"{TESTS}/test_split.py",),
    ),
    Mutant(
        name="a run may have no image left to train on",
        file=SPLIT,
        old="if held_out >= train:",
        new="if held_out > train:",
        why="The error would come from TensorFlow, minutes later and without advice.",
        tests=(f"{TESTS}/test_split.py", f"{TESTS}/test_folder.py"),
    ),
    Mutant(
        name="all corrections of test images count as disputed",
        file=CORRECTED,
        old="(changed & in_test & disputed)",
        new="(changed & in_test)",
        why="The report would warn of a bias that does not exist.",
        tests=(f"{TESTS}/test_corrected.py::test_the_disputed_labels_of_the_test_are_counted_apart",),
    ),
    Mutant(
        name="pictures whose class is decided are in the wrong split",
        file=CORRECTED,
        old='    rows = rows[np.argsort(in_test[rows], kind="stable")]',
        new="    rows = rows[:]",
        why="A picture for the test would be trained on.",
        tests=(f"{TESTS}/test_corrected.py::test_a_correction_decides_about_a_picture_in_several_classes",),
    ),
    Mutant(
        name="a line that is being written is read",
        file=CORRECTIONS,
        old='return complete_lines(self.objects.read(self.name, MAX_LABELS_BYTES) or b"")',
        new='return self.objects.read(self.name, MAX_LABELS_BYTES) or b""',
        why="A run that starts during a review would fail.",
        tests=(f"{TESTS}/test_corrected.py::test_a_line_that_is_being_written_does_not_count_until_it_is_complete",),
    ),
    Mutant(
        name="of several new copies of an image only one is counted",
        file="mnist_lib/data/changes.py",
        old="copies = np.arange(len(new)) - np.searchsorted(new_sorted, new_sorted)",
        new="copies = np.zeros(len(new), int)",
        why="A folder that is copied into the dataset would not be reported.",
        tests=(f"{TESTS}/test_changes.py",),
    ),
)
