"""Groups of pictures: how each is found, and that a group is in one split and stays there."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.groups import BY_FILE, groups_of, hash_of_group
from mnist_lib.data.prepared.index import fingerprint_of_files
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import NO_GROUP, Table, is_held_out
from mnist_lib.errors import DataError, SpecError
from tests.support.corrections import correct, correction
from tests.support.pictures import classes, noise, read, total, write_folder

NIGHTS = 10


def objects(*names: str, count: int = 30, pictures: int = 2) -> dict[str, Image.Image | bytes]:
    """Return pictures of `count` objects for each class, each object with a folder of its own, by path."""
    return {
        f"{name}/{name}{number}/{picture}.png": noise(10_000 * label + 100 * number + picture)
        for label, name in enumerate(names)
        for number in range(count)
        for picture in range(pictures)
    }


def held_out(group: str) -> bool:
    return bool(is_held_out(np.frombuffer(hash_of_group(group), np.uint64)[None])[0])


def sides(dataset: Dataset, validation_percent: int = 30) -> dict[str, str]:
    """Return the split of each file."""
    train, validation = dataset.train_and_validation(validation_percent)
    return names_by_file({"train": train, "validation": validation, "test": dataset.test})


def sides_and_folds(dataset: Dataset) -> dict[str, str]:
    """Return the split of each file and its fold of three, if it has one."""
    folds = names_by_file({f" {fold}": dataset.train_and_fold(fold, 3)[1] for fold in range(3)})
    return {file: side + folds.get(file, "") for file, side in sides(dataset).items()}


def names_by_file(splits: Mapping[str, Table | None]) -> dict[str, str]:
    return {str(split.file(i)): name for name, split in splits.items() if split for i in range(len(split))}


def test_a_folder_that_grows_for_ten_nights_moves_no_picture_and_splits_no_group(tmp_path: Path) -> None:
    random, before = np.random.default_rng(0), dict[str, str]()
    write_folder(tmp_path / "f", {"a/object0/first.png": noise(1), "b/object1/first.png": noise(2)})
    for night in range(1, NIGHTS + 1):
        groups = random.integers(0, 4 * night + 8, size=12)  # some pictures join known groups, others new ones
        new = {f"{'ab'[group % 2]}/object{group}/{night}-{i}.png": 1_000 * night + i for i, group in enumerate(groups)}
        write_folder(tmp_path / "f", {path: noise(seed) for path, seed in new.items()})
        dataset = read(tmp_path / "f", group_by="folder")
        after, splits = sides_and_folds(dataset), defaultdict[str, set[str]](set)
        assert len(after) == total(dataset) == 12 * night + 2
        assert before.items() <= after.items()
        for path, split in after.items():
            splits[path.split("/")[1]].add(split)
        assert {len(each) for each in splits.values()} == {1}
        before = after
    assert {*before.values()} == {"test", "validation 0", "train 0", "train 1", "train 2"}  # ranks decide both


@pytest.mark.parametrize(
    ("group_by", "paths", "groups"),
    [
        ("folder", ["a/x/1.png", "b/x/deep/2.png", "b/y/3.png"], ["x", "x", "y"]),
        (r"([^/_]+)_[0-9]+\.png$", ["a/x_1.png", "b/x_2.png", "b/y_1.png"], ["x", "x", "y"]),
        (BY_FILE, ["a/1.png", "b/2.png", "b/cafe\u0301.png"], ["x", "x", "y"]),  # the file has another form of the name
    ],
)
def test_each_way_to_group_finds_the_groups(group_by: str, paths: list[str], groups: list[str], tmp_path: Path) -> None:
    (tmp_path / BY_FILE).write_text("\ufeffpath,note,group\na/1.png,,x\nb/2.png,,x\nb/caf\u00e9.png,,y\n")
    assert groups_of(group_by, tmp_path, paths, depth=1) == groups
    if group_by == "folder":
        assert groups_of(group_by, tmp_path, [f"train/{path}" for path in paths], depth=2) == groups


def test_numbers_of_groups_are_those_of_the_images_of_each_split(tmp_path: Path) -> None:
    dataset = read(write_folder(tmp_path / "f", objects("a", "b")), group_by="folder")
    counts, test_groups = dataset.group_counts, dataset.test_groups
    assert counts is not None
    assert test_groups is not None
    assert (counts.by, counts.train + counts.test) == ("folder", 60)
    named: dict[int, set[str]] = defaultdict(set)
    for index, group in enumerate(test_groups.tolist()):
        named[group].add(str(dataset.test.file(index)).split("/")[1])
    assert {len(names) for names in named.values()} == {1}
    assert len(named) == counts.test == len(dataset.test) / 2
    again = read(tmp_path / "f", group_by="folder")  # from the cache
    assert (again.table.groups.dtype.name, again.group_counts) == ("int32", counts)
    without = read(tmp_path / "f")
    assert (without.test_groups, without.group_counts, {*without.table.groups.tolist()}) == (None, None, {NO_GROUP})
    assert without.fingerprint != dataset.fingerprint


def test_equal_pictures_of_groups_on_two_sides_are_left_out_of_the_hold_out_and_named(tmp_path: Path) -> None:
    names = [f"a{number}" for number in range(30)]
    in_test = next(name for name in names if held_out(name))
    in_train = next(name for name in names if not held_out(name))
    copies = {f"a/{in_test}/copy.png": noise(77), f"a/{in_train}/copy.bmp": noise(77)}
    dataset = read(write_folder(tmp_path / "f", {**objects("a", "b"), **copies}), group_by="folder")
    found = sides(dataset)
    assert f"a/{in_test}/copy.png" not in found
    assert found[f"a/{in_train}/copy.bmp"] in ("train", "validation")
    assert dataset.report.notices == (
        f"left out of the hold-out, since another group has the same picture for training: 1 (a/{in_test}/copy.png)",
    )
    # A picture in two classes needs a correction. With one, its copy in the hold-out is left out, too.
    write_folder(tmp_path / "f", {f"b/{in_test}/copy.png": noise(77)})
    for correct_class, used in (("", set()), ("a", {f"a/{in_train}/copy.bmp"})):
        if correct_class:
            correct(tmp_path / "f", correction(noise(77), correct_class))
        assert {path for path in sides(read(tmp_path / "f", group_by="folder")) if "copy" in path} == used


def test_a_class_in_one_group_and_a_group_in_two_folders_are_named(tmp_path: Path) -> None:
    one = {f"c/only/{number}.png": noise(5_000 + number) for number in range(3)}
    notices = read(write_folder(tmp_path / "f", {**objects("a", "b"), **one}), group_by="folder").report.notices
    assert "1 class with all pictures in one group, so in one split: c" in notices
    train, test = classes("train/a/x", "train/b/y"), {"test/a/x/1.png": noise(7_001), "test/b/z/2.png": noise(7_002)}
    notices = read(write_folder(tmp_path / "g", {**train, **test}), group_by="folder").report.notices
    assert "1 group in more than one of the folders train, validation and test: x" in notices


def test_a_changed_group_changes_the_dataset_and_is_read_again(tmp_path: Path) -> None:
    pictures = write_folder(tmp_path / "f", {**classes("a", "b")})
    request = DataRequest(dataset=f"{pictures}/", group_by=BY_FILE)

    def write(prefix: str) -> tuple[str, str | None]:
        rows = [f"{name}/{number}.png,{prefix}{number}" for name in "ab" for number in range(30)]
        (pictures / BY_FILE).write_text("\n".join(["path,group", *rows]))
        return read(pictures, group_by=BY_FILE).fingerprint, fingerprint_of_files(request)

    first, second = write("x"), write("y")
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert write("x") == first
    assert read(pictures).report.notices == (
        "groups.csv is not used; to form groups with it, use --group-by groups.csv",
    )


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        (
            "font[0-9]+",
            r"expected folder, groups.csv, column or a regular expression .*, got 'font\[0-9\]\+'; put",
        ),
        ("(", r"got '\(', which is not valid \(missing \): \(\); correct it"),
        ("(a{1000}){1000}", "which is not valid"),
        (r"(a)\1", r"which is not valid \(invalid escape sequence: \\1\)"),
        ("(\udcff)", "which is not valid"),
        ("(" + "a" * 1_000 + ")", "got '.*'; put the part"),
    ],
)
def test_an_expression_that_cannot_group_is_refused(group_by: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        DataRequest(dataset="./x", group_by=group_by)


def test_an_expression_takes_no_longer_on_a_name_that_was_made_for_it(tmp_path: Path) -> None:
    """An engine that backtracks would need more than the age of the universe."""
    path = f"a/{'a' * 200}.png"
    with pytest.raises(DataError, match="got 1 picture without one"):
        groups_of("((a+)+)+$", tmp_path, [path], 1)


def test_a_name_that_is_not_utf_8_has_a_group(tmp_path: Path) -> None:
    assert groups_of("mug([0-9]+)", tmp_path, ["a/\udcffmug7.png"], 1) == ["7"]


@pytest.mark.parametrize("dataset", ["mnist", "mnist-mini", "tfds:beans"])
def test_groups_of_images_without_paths_are_refused(dataset: str) -> None:
    with pytest.raises(SpecError, match=f"group_by: expected a folder of pictures as --dataset, got {dataset}; omit"):
        DataRequest(dataset=dataset, group_by="folder")


@pytest.mark.parametrize(
    ("group_by", "rows", "message"),
    [
        ("folder", None, "by --group-by folder, got 2 pictures without one, such as a/1.png; move each picture into"),
        ("a/([0-9])", None, r"by --group-by a/\(\[0-9\]\), got 1 picture without one, such as b/2.png; change the"),
        ("2?(z?)", None, "got 2 pictures without one, such as a/1.png"),
        (BY_FILE, None, "expected a file with the columns path and group, got none; write it, or omit --group-by"),
        (BY_FILE, "path|group\n", "expected the columns path and group, got none named group; add it"),
        (BY_FILE, "", "expected the columns path and group, got none named group; add it"),
        (
            BY_FILE,
            "path,group\na/1.png,x\n",
            "got 1 picture without one, such as b/2.png; add a row for each picture to",
        ),
        (BY_FILE, "path,group\na/1.png,x\nb/2.png,y\nb/3.png,y\n", "got 1 other path, such as b/3.png; correct or"),
        (BY_FILE, "path,group\na/1.png,x\na/1.png,y\n", "line 3: expected a path with one group, got 'a/1.png' with"),
        (BY_FILE, "path,group\na/1.png\n", "line 2: expected a path with one group, got 'a/1.png' with ''; correct it"),
        (BY_FILE, 'path,group\n"a/1.png"x,y\n', "groups.csv: expected CSV, got other text"),
    ],
)
def test_pictures_and_rows_that_do_not_match_are_refused(
    group_by: str, rows: str | None, message: str, tmp_path: Path
) -> None:
    pictures = write_folder(tmp_path / "f", {"a/1.png": noise(1), "b/2.png": noise(2)})
    if rows is not None:
        (pictures / BY_FILE).write_text(rows)
    with pytest.raises(DataError, match=message):
        read(pictures, group_by=group_by)
