"""Which files of a folder are pictures of which class, and which are left out and named."""

import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from mnist_lib.data.request import DataRequest
from mnist_lib.data.sources import scan
from mnist_lib.data.sources.listing import list_folder
from mnist_lib.data.sources.scan import find_pictures
from mnist_lib.errors import DataError, DataMissingError, SpecError
from tests.support.other_user import lines_as_nobody, visible_folder
from tests.support.pictures import classes, noise, read, total, write_folder


def test_d8_classes_are_the_folders_in_natural_order(tmp_path: Path) -> None:
    dataset = read(write_folder(tmp_path / "numbers", classes("10", "2", "b", "A")))
    assert dataset.classes == ("2", "10", "A", "b")
    assert (dataset.name, dataset.image_shape, total(dataset)) == ("numbers", (8, 8, 1), 120)


def test_the_pixels_decide_about_the_test_if_there_is_a_train_folder_alone(tmp_path: Path) -> None:
    alone = classes("train/a", "train/b", pictures=2)
    assert {*list_folder(write_folder(tmp_path / "f", alone)).splits} == {""}
    both = {**alone, "test/a/9.png": noise(9)}
    assert {*list_folder(write_folder(tmp_path / "g", both)).splits} == {"train", "test"}


def test_d8_hidden_files_are_ignored_and_other_non_pictures_are_counted_and_named(tmp_path: Path) -> None:
    ignored = dict.fromkeys(("a/.DS_Store", "a/Thumbs.db", ".git/x.png", "a/._1.png", "__MACOSX/a/1.png"), b"")
    skipped = dict.fromkeys(("a/photo.HEIC", "a/note.pdf", "b/more.pdf", "b/old.zip", "outside.png"), b"x")
    dataset = read(write_folder(tmp_path / "f", {**classes("a", "b"), **ignored, **skipped}))
    assert total(dataset) == 60
    assert set(dataset.report.notices) == {
        "left out, not a picture that can be read (.pdf): 2 (a/note.pdf, b/more.pdf)",
        "left out, not a picture that can be read (.heic): 1 (a/photo.HEIC)",
        "left out, not a picture that can be read (.zip): 1 (b/old.zip)",
        "left out, outside of a class folder: 1 (outside.png)",
    }
    assert len(dataset.report.unreadable) == 0


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
def test_given_splits_are_kept(tmp_path: Path, validation: str) -> None:
    files = classes("a", "b", pictures=9)
    given = {
        f"{('train', 'test', validation)[n % 3]}/{name}": picture for n, (name, picture) in enumerate(files.items())
    }
    dataset = read(write_folder(tmp_path / "f", given))
    train, held_out = dataset.train_and_validation(10)
    assert held_out is not None
    assert (len(train), len(held_out), len(dataset.test)) == (6, 6, 6)
    assert {image.tobytes() for image in held_out.images} == {
        picture.tobytes() for name, picture in given.items() if name.startswith(validation)
    }
    assert len(dataset.train_and_validation(0)[0]) == 12


def test_folders_beside_train_and_test_are_left_out_and_incomplete_splits_refused(tmp_path: Path) -> None:
    files = classes("train/a", "train/b", "test/a", "test/b", pictures=4)
    folder = write_folder(tmp_path / "f", {**files, "annotations/1.png": noise(1)})
    dataset = read(folder)
    assert (dataset.classes, len(dataset.train), len(dataset.test)) == (("a", "b"), 8, 8)
    assert dataset.report.notices == ("left out, beside train and test: 1 (annotations)",)
    with pytest.raises(DataError, match="expected a train folder beside test, val, got none; add it"):
        read(write_folder(tmp_path / "g", classes("val/a", "val/b", "test/a", "test/b")))
    flat: dict[str, Image.Image | bytes] = {
        **classes("train/a", "train/b"),
        **classes("val/a", "val/b"),
        "test/1.png": noise(1),
    }
    with pytest.raises(DataError, match="test: expected a folder for each class, got none; sort its pictures"):
        read(write_folder(tmp_path / "h", flat))


def test_a_pipe_in_a_class_folder_is_left_out_without_a_delay(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    os.mkfifo(folder / "a/pipe.png")
    assert read(folder).report.notices == ("left out, not a file: 1 (a/pipe.png)",)


def test_folders_without_permission_and_links_to_nowhere_are_left_out_and_named() -> None:
    imports = "from mnist_lib.data.sources.listing import DataError, list_folder"
    code = """
for name in ("some", "one", "closed", "closed/inside"):
    try:
        listing = list_folder(folder / name)
        print(*listing.unreadable, *listing.notices, sep="; ")
    except DataError as error:
        print(error)
"""
    with visible_folder() as folder:
        for name in ("some", "one", "closed/inside"):
            write_folder(folder / name, classes("a", "b", "c", pictures=2))
        write_folder(folder / "some", {"a/below/1.png": noise(3)})
        (folder / "some/loop").symlink_to(folder / "some/loop")
        (folder / "some/b/unseen.png").symlink_to(folder / "closed/inside/a/1.png")
        for path, mode in {"some/a/below": 0o744, "some/c": 0, "one/a": 0, "one/b": 0o744, "closed": 0o700}.items():
            (folder / path).chmod(mode)
        some, one, *closed = lines_as_nobody(folder, imports, code)
    assert some == (
        "a/below/1.png; c; left out, without pictures: 1 class (c); left out, cannot be read: 2 (a/below/1.png, c)"
        "; left out, a link to nothing: 1 (b/unseen.png)"
    )
    assert "got 1 (c), and 3 that cannot be read (a, b/0.png, b/1.png); sort" in one
    assert all("cannot be read (Permission denied); check its path and permissions" in line for line in closed)


def test_a_folder_that_cannot_be_read_counts_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    deep = folder / "a"
    monkeypatch.chdir(deep)
    for _ in range(21):  # 4,200 characters, more than the kernel accepts in one path
        Path("d" * 200).mkdir()
        os.chdir("d" * 200)
    monkeypatch.chdir(tmp_path)  # no process can start in so deep a folder
    dataset = read(folder)
    assert (total(dataset), len(dataset.report.unreadable)) == (60, 1)
    assert dataset.report.notices[0].startswith("left out, cannot be read: 1 (a/ddd")


@pytest.mark.parametrize("path", ["x" * 5_000, "x/" * 2_500, "/proc/self/loop"])
def test_a_path_that_the_system_refuses_gives_an_error_of_ours(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError):
        read(tmp_path / path)


def test_a_folder_that_is_a_loop_of_links_or_in_no_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataMissingError, match="expected a folder of pictures, got"):
        read(tmp_path / "loop")
    with pytest.raises(SpecError, match="got ~no-such-user/letters, in the home of an unknown user"):
        DataRequest(dataset="~no-such-user/letters")


def test_a_mistyped_folder_has_a_suggestion(tmp_path: Path) -> None:
    write_folder(tmp_path / "letters", classes("a", "b"))
    with pytest.raises(DataMissingError, match=rf"leters, not a folder; did you mean {tmp_path}/letters\?"):
        read(tmp_path / "leters")
    with pytest.raises(DataMissingError, match=rf"got {tmp_path}/cats, not a folder; check --dataset"):
        read(tmp_path / "cats")


def test_folders_named_train_and_plane_are_classes(tmp_path: Path) -> None:
    assert read(write_folder(tmp_path / "toys", classes("train", "plane"))).classes == ("plane", "train")


def test_d8_links_that_lead_out_of_the_folder_are_left_out(tmp_path: Path) -> None:
    noise(1).save(tmp_path / "outside.png")
    folder = write_folder(tmp_path / "f", classes("a", "b"))
    (folder / "a/out.png").symlink_to(tmp_path / "outside.png")
    (folder / "a/inside.png").symlink_to(folder / "b/1.png")
    (folder / "a/nowhere.png").symlink_to(folder / "missing.png")
    (folder / "a/itself.png").symlink_to(folder / "a/itself.png")
    (folder / "b/root").symlink_to("/")
    (folder / "linked").symlink_to(folder / "a")
    notices = read(folder).report.notices
    assert set(notices) == {
        "left out, a link out of the folder: 1 (a/out.png)",
        "left out, a link to nothing: 2 (a/itself.png, a/nowhere.png)",
        "left out, a link to a folder: 2 (linked, b/root)",
        "left out, the same picture in several classes: a/inside.png, b/1.png",
    }


def test_d8_names_may_contain_any_letters(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "Blätter und 葉", classes("Ahorn (rot)", "e\u0301toile", "桜"))
    dataset = read(folder)
    assert dataset.classes == ("Ahorn (rot)", "\u00e9toile", "桜")
    assert dataset.name == "Bl-tter-und"
    assert read(write_folder(tmp_path / "葉", classes("a", "b"))).name == "pictures"
    assert read(write_folder(tmp_path / "mnist", classes("a", "b"))).name == "mnist-folder"
    assert len(read(write_folder(tmp_path / ("x" * 120), classes("a", "b"))).name) == 60  # names of runs contain it


@pytest.mark.parametrize("name", ["b\x1b[2J", "b\n", " ", "\udcff", "\u202eb"])
def test_a_class_whose_name_cannot_be_printed_is_left_out_and_named(tmp_path: Path, name: str) -> None:
    dataset = read(write_folder(tmp_path / "f", classes("a", "c", name)))
    assert dataset.classes == ("a", "c")
    assert dataset.report.notices == (f"left out, a class whose name cannot be printed: 1 ({name!r})",)


def test_a_class_after_the_thousandth_is_left_out_and_named(tmp_path: Path) -> None:
    for number in range(1, 1_003):
        write_folder(tmp_path / f"f/{number}", {"1.png": b""})
    listed = list_folder(tmp_path / "f")
    assert listed.classes == tuple(str(number) for number in range(1, 1_001))
    assert listed.paths == [f"{name}/1.png" for name in listed.classes]
    assert listed.notices == ("left out, a class after the first 1,000: 2 (1001, 1002)",)


def test_a_path_that_is_not_a_folder_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="expected a folder of pictures, got /nowhere/x, not a folder"):
        read(Path("/nowhere/x"))
    for name, files in {"flat": {"1.png": noise(1)}, "one": classes("a"), "none": {}}.items():
        (tmp_path / name).mkdir()
        write_folder(tmp_path / name, files)
        with pytest.raises(DataError, match="expected 2 to 1,000 class folders with pictures, got"):
            read(tmp_path / name)


def test_a_check_of_a_folder_looks_at_no_more_pictures_than_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "f", {**classes("a", "b"), "a/0-note.pdf": b"x"})
    looked_at, may_be_picture = Counter[str](), scan._may_be_picture

    def look_at(name: str) -> bool:
        looked_at[Path(name).suffix] += 1
        return may_be_picture(name)

    monkeypatch.setattr(scan, "_may_be_picture", look_at)
    checked = list_folder(folder, per_class=2)
    assert checked.classes == ("a", "b")
    assert checked.labels == [0, 0, 1, 1]
    assert looked_at[".png"] == 4
    for picture in (folder / "b").iterdir():
        picture.unlink()
    with pytest.raises(DataError, match="expected 2 to 1,000 class folders with pictures, got 1"):
        list_folder(folder, per_class=2)


def test_folders_are_searched_in_order_and_named_files_are_always_included(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/.hidden.png", ".git/x.png", "a/notes.txt", "c.gif", "empty/notes"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    named = [tmp_path / "a/notes.txt", tmp_path, tmp_path / "empty", tmp_path / "gone.png"]
    names = ["a/notes.txt", "a/z.JPG", "b.png", "c.gif", "empty", "gone.png"]
    assert find_pictures(named) == [tmp_path / name for name in names]
    for path in (Path("a\0b"), tmp_path / ("x" * 300), Path("x/" * 2_500)):
        assert find_pictures([path]) == [path]


def test_d8_what_is_left_out_below_a_named_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = ("a.png", "sub/b.png", "photo.HEIC", "sub/scan.pdf", ".hidden.pdf", "Thumbs.db")
    write_folder(tmp_path / "scans", dict.fromkeys(files, b"x"))
    (tmp_path / "scans/sub/out.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "outside.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert find_pictures([Path("scans")]) == [Path("scans/a.png"), Path("scans/sub/b.png")]
    assert caplog.messages == [
        "scans: left out, not a picture that can be read (.heic): 1 (photo.HEIC)",
        "scans: left out, a link out of the folder: 1 (sub/out.png)",
        "scans: left out, not a picture that can be read (.pdf): 1 (sub/scan.pdf)",
    ]


def test_files_and_folders_without_permission_are_refused_one_by_one() -> None:
    imports = "from mnist_lib.data.sources.scan import find_pictures; from mnist_lib.pictures.reading import *"
    code = """
for path in find_pictures([folder / name for name in ("secret.png", "closed", "closed/a.png", "closed/b", "listed")]):
    try:
        read_content(path)
    except ImageError as error:
        print(path.relative_to(folder), error)
"""
    with visible_folder() as folder:
        write_folder(folder, dict.fromkeys(("secret.png", "closed/a.png", "closed/b/1.png", "listed/1.png"), b"x"))
        (folder / "secret.png").chmod(0)
        (folder / "closed").chmod(0)
        (folder / "listed").chmod(0o744)
        lines = lines_as_nobody(folder, imports, code)
    assert [line.split()[0] for line in lines] == ["secret.png", "closed", "closed/a.png", "closed/b", "listed/1.png"]
    assert all("expected a file that can be read, got: Permission denied; check" in line for line in lines)
