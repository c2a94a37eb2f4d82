"""JSON documents as somebody changes them who wants a program to fail: strategies for hypothesis."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

DEEP: Any = []
for _ in range(900):
    DEEP = [DEEP]

HOSTILE: list[Any] = [
    *(None, True, -1, 0, 10**18, 10**400, 1e308, -0.5, [], {}, DEEP, [[]], {"": {}}),
    *("", "\x1b[31m", "$\\frac{$", "=1+1", "a\nb", "x" * 100_000, "../..", "\ud800", "9999-12-31T23:59:59Z"),
    *("2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "NaN"),
]


def places(document: Any) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value in a document, also of the document itself."""
    yield ()
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        for path in places(document[key]):
            yield (key, *path)


def replaced(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """Return a document with another value at a path."""
    if not path:
        return value
    changed = copy.copy(document)
    changed[path[0]] = replaced(document[path[0]], path[1:], value)
    return changed


def values() -> st.SearchStrategy[Any]:
    scalars = st.one_of(
        st.sampled_from(HOSTILE), st.text(max_size=5), st.integers(), st.floats(allow_nan=False, allow_infinity=False)
    )
    return st.recursive(
        scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner))
    )


def changed(document: Any) -> st.SearchStrategy[Any]:
    """Return variants of a document in which one value is another, or a key is missing."""

    def without(path: tuple[str | int, ...]) -> Any:
        parent: Any = document
        for key in path[:-1]:
            parent = parent[key]
        less = copy.copy(parent)
        del less[path[-1]]
        return replaced(document, path[:-1], less)

    paths = list(places(document))
    other = st.builds(lambda path, value: replaced(document, path, value), st.sampled_from(paths), values())
    return st.one_of(other, st.sampled_from(paths[1:]).map(without))
