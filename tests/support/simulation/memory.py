"""A storage in memory, for thousands of runs a minute."""

import contextlib
from collections.abc import Iterator

from mnist_lib.store.objects import check_name


class MemoryObjects:
    """`mnist_lib.store.objects.Objects` in memory. Appended content that is not flushed is lost with the process."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        return self.content.get(name)

    def exists(self, name: str) -> bool:
        return name in self.content

    def create(self, name: str, content: bytes) -> bool:
        check_name(name)
        return self.content.setdefault(name, content) is content

    def replace(self, name: str, content: bytes) -> None:
        check_name(name)
        self.content[name] = content

    def append(self, name: str, content: bytes) -> None:
        self.content[name] = self.content.get(name, b"") + content

    def flush(self) -> None:
        pass

    def names(self, prefix: str) -> Iterator[str]:
        yield from sorted(name for name in self.content if not prefix or name.startswith(f"{prefix}/"))

    def delete(self, name: str) -> None:
        self.content.pop(name, None)

    def delete_below(self, prefix: str) -> None:
        for name in [*self.names(prefix)]:
            del self.content[name]

    def delete_leftovers(self, prefix: str) -> None:
        pass

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator["MemoryObjects"]:
        yield self

    def where(self, name: str) -> str:
        return f"memory/{name}"
