"""A simulated disk that can lose power: it records every call, and computes what a power loss at any time may leave.

It guarantees only what POSIX does: the content of a file after the file is synced, and the names in a folder after the
folder is synced. Until then each change may be lost, in any order, and new content may be truncated.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from unittest import mock

OPEN = os.open
STATES_PER_CALL = 3  # random ones, in addition to the two extremes


@dataclass(frozen=True)
class Call:
    """A recorded change. `folder`: the folder in which a name changes, or that is synced."""

    kind: str  # "name", "unname", "make", "write", "sync folder", "sync file"
    folder: str = ""
    path: str = ""
    inode: int = 0
    content: bytes = b""


@dataclass
class State:
    """What is on the disk: folders, and the content of each file by path."""

    folders: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)

    def write_to(self, root: Path) -> None:
        root.mkdir()
        for folder in sorted(self.folders):
            (root / folder).mkdir(exist_ok=True)
        for path, content in self.files.items():
            (root / path).write_bytes(content)


class Disk:
    """Records changes below `root` while its context is active. Nothing else may change files there.

    Args:
        fails_at: number, from 1, of the call that fails with an input/output error.
        forgets: "file" or "folder": the kind of sync that is not recorded.
    """

    def __init__(self, root: Path, *, fails_at: int = 0, forgets: str = "") -> None:
        self.calls = 0
        self._root, self._fails_at, self._forgets = root, fails_at, forgets
        self._log: list[Call] = []
        self._inodes: dict[str, int] = {}
        self._first = State()
        for path in root.rglob("*"):
            name = path.relative_to(root).as_posix()
            if path.is_dir():
                self._first.folders.add(name)
            else:
                self._first.files[name] = path.read_bytes()
                self._inodes[name] = -len(self._first.files)
        self._first_inodes = dict(self._inodes)

    def __enter__(self) -> "Disk":
        self._patches = [
            mock.patch.object(os, "mkdir", self._wrapped(os.mkdir, self._mkdir)),
            mock.patch.object(os, "link", self._wrapped(os.link, self._link)),
            mock.patch.object(os, "replace", self._wrapped(os.replace, self._rename)),
            mock.patch.object(os, "unlink", self._wrapped(os.unlink, self._unlink)),
            mock.patch.object(os, "open", self._wrapped(OPEN, self._create)),
            mock.patch.object(os, "rmdir", self._wrapped(os.rmdir, self._unlink)),
            mock.patch.object(os, "fsync", self._wrapped(os.fsync, self._sync)),
            mock.patch.object(os, "write", self._wrapped(os.write, self._write)),
            mock.patch.object(os, "ftruncate", self._wrapped(os.ftruncate, self._write)),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in reversed(self._patches):
            patch.stop()

    def states_after_power_loss(self, seed: int) -> list[State]:
        """Return possible states after a power loss before the first call, between any two, and after the last one.

        Each is returned once. In the last one, every change that was not synced is lost.
        """
        generator = random.Random(seed)
        states = []
        for length in range(len(self._log) + 1):
            log = self._log[:length]
            states += [self._state(log, lambda _: generator.random() < 0.5, generator) for _ in range(STATES_PER_CALL)]
            states += [self._state(log, lambda _: True, generator), self._state(log, lambda _: False, generator)]
        last_first = {(frozenset(s.folders), frozenset(s.files.items())): s for s in reversed(states)}
        return [*reversed(last_first.values())]

    def _state(self, log: list[Call], happened: Callable[[Call], bool], generator: random.Random) -> State:
        inodes = dict(self._first_inodes)
        contents = {inode: self._first.files[path] for path, inode in inodes.items()}
        folders = {*self._first.folders}
        for at, call in enumerate(log):
            later = log[at + 1 :]
            if call.kind == "write":
                before, after = contents.get(call.inode, b""), call.content
                if any(c.kind == "sync file" and c.inode == call.inode for c in later):
                    contents[call.inode] = after
                elif happened(call):
                    same = next(
                        (at for at, pair in enumerate(zip(before, after, strict=False)) if len({*pair}) > 1),
                        len(before),
                    )
                    contents[call.inode] = after[: generator.randint(min(same, len(after)), len(after))]
        for at, call in enumerate(log):
            durable = any(c.kind == "sync folder" and c.folder == call.folder for c in log[at + 1 :])
            if call.kind not in ("name", "unname", "make") or not (durable or happened(call)):
                continue
            folder_exists = call.folder == "." or call.folder in folders
            if call.kind == "make" and folder_exists:
                folders.add(call.path)
            elif call.kind == "name" and folder_exists:
                inodes[call.path] = call.inode
            elif call.kind == "unname":
                inodes.pop(call.path, None)
                folders.discard(call.path)
        folders = {folder for folder in folders if {*map(str, PurePosixPath(folder).parents)} <= {".", *folders}}
        files = {path: contents.get(inode, b"") for path, inode in inodes.items()}
        return State(folders, {path: content for path, content in files.items() if _parent(path) in {".", *folders}})

    def _wrapped(self, original: Callable[..., Any], record: Callable[..., None]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if original is OPEN and not arguments[1] & os.O_CREAT:
                return original(*arguments, **options)  # it creates no file
            self.calls += 1
            if self.calls == self._fails_at:
                raise OSError(5, "Input/output error")
            result = original(*arguments, **options)
            record(result, *arguments, **options)
            return result

        return call

    def _name(self, path: str | Path) -> tuple[str, str]:
        name = Path(path).relative_to(self._root).as_posix()
        return _parent(name), name

    def _mkdir(self, _: object, path: Path, *__: object) -> None:
        folder, name = self._name(path)
        self._log.append(Call("make", folder, name))

    def _create(self, _: object, path: Path, *__: object) -> None:
        folder, name = self._name(path)
        if name not in self._inodes:
            self._inodes[name] = len(self._log) + 1
            self._log.append(Call("name", folder, name, self._inodes[name]))

    def _link(self, _: object, old: Path, new: Path) -> None:
        folder, name = self._name(new)
        self._inodes[name] = self._inodes[self._name(old)[1]]
        self._log.append(Call("name", folder, name, self._inodes[name]))

    def _rename(self, _: object, old: Path, new: Path) -> None:
        folder, old_name = self._name(old)
        new_name = self._name(new)[1]
        self._inodes[new_name] = self._inodes.pop(old_name)
        self._log.append(Call("name", folder, new_name, self._inodes[new_name]))
        self._log.append(Call("unname", folder, old_name))

    def _unlink(self, _: object, path: str | Path) -> None:
        folder, name = self._name(path)
        self._inodes.pop(name, None)
        self._log.append(Call("unname", folder, name))

    def _write(self, _: object, descriptor: int, *__: object) -> None:
        path = _path_of(descriptor)
        if path.is_relative_to(self._root):
            self._log.append(Call("write", inode=self._inodes[self._name(path)[1]], content=path.read_bytes()))

    def _sync(self, _: object, descriptor: int) -> None:
        path = _path_of(descriptor)
        if not path.is_relative_to(self._root):
            return  # the folder that contains the root
        _folder, name = self._name(path)
        if path.is_dir():
            if self._forgets != "folder":
                self._log.append(Call("sync folder", name))
            return
        self._log.append(Call("write", inode=self._inodes[name], content=path.read_bytes()))
        if self._forgets != "file":
            self._log.append(Call("sync file", inode=self._inodes[name]))


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _parent(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()
