"""List the pictures of a folder: CLASS/picture, or train/CLASS/picture and test/CLASS/picture."""

import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mnist_lib.data.groups import BY_FILE, groups_of
from mnist_lib.data.sources.listing import SPLITS, Listing, found_picture, is_class_name
from mnist_lib.data.sources.scan import FolderScan, holds, listed
from mnist_lib.errors import DataError


def list_folder(
    folder: Path, per_class: int | None = None, group_by: str | None = None, none: str | None = None
) -> Listing:
    """List the pictures of a folder, without reading them.

    Args:
        per_class: how many pictures of each class to list, in each split; by default all.
        group_by, none: as in `DataRequest`; by default, the pictures have no groups, and all folders are classes.

    Raises:
        DataMissingError: there is no such folder.
        DataError: it cannot be listed, has fewer than two classes with pictures, or a class without pictures to train
            on, or the groups do not fit, see `groups_of`.
    """
    scan = FolderScan.of(folder)
    tops = _splits(scan)
    if "test" not in tops.values():
        tops = {top: "" if split == "train" else split for top, split in tops.items()}
    found: dict[str, list[str]] = defaultdict(list)
    for top in tops:
        for name in scan.folders(top):
            kind = unicodedata.normalize("NFC", name)
            if not is_class_name(kind):
                scan.leave_out("a class whose name cannot be printed", [repr(name)])
                continue
            found[kind] += (
                found_picture(path, status)
                for path, status in itertools.islice(scan.pictures(Path(top, name)), per_class)
            )
        scan.leave_out("outside of a class folder", scan.own_pictures(top))
    if group_by != BY_FILE and holds((folder / BY_FILE).is_file):
        scan.notice(f"{BY_FILE} is not used; to form groups with it, use --group-by {BY_FILE}")

    def splits_of(paths: Sequence[str]) -> list[str]:
        if "" in tops:  # there may be a million
            return [""] * len(paths)
        return [tops[path.partition("/")[0]] for path in paths]

    listing = Listing.of(scan, found, none, splits_of, (tops, none) if none is not None else tops)
    if group_by is not None:
        depth = 1 if "" in tops else 2
        listing = listing.with_groups(group_by, groups_of(group_by, folder, listing.paths, depth))
    advice = "sort the pictures into folders named after their classes"
    listing.check(folder, "class folders", advice, "the train folder")
    return listing


def _splits(scan: FolderScan) -> dict[str, str]:
    """Return the folders of classes, and the split of each; {"": ""} if the pixels decide."""
    tops = scan.folders("")
    given = {top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS and scan.folders(top)}
    named = [top for top in tops if top.lower() in SPLITS]
    if not given or (len(named) == 1 and len(tops) > 1):  # one folder among others, such as toys/train, is a class
        return {"": ""}
    if "train" not in given.values():
        raise DataError(f"expected a train folder beside {listed([*given])}, got none; add it, or rename these")
    flat = [top for top in named if top not in given]
    if flat:
        raise DataError(f"{flat[0]}: expected a folder for each class, got none; sort its pictures into folders")
    scan.leave_out("outside of a class folder", scan.own_pictures(""))
    scan.leave_out("beside train and test", [top for top in tops if top not in given])
    return given
