"""The folder of one run: `<storage>/runs/<run>/`.

`run.json` comes first, with the terms of the run: all that its result depends on. `summary.json` comes last: with it,
the run is complete.

Whoever comes with the same terms goes on with an unfinished run, by its name or, without one, by its terms.
"""

import contextlib
import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from mnist_lib.clock import as_file_name, now_text
from mnist_lib.errors import BusyError, IntegrityError, SpecError, StoreError
from mnist_lib.store.log import seal, unseal
from mnist_lib.store.objects import Objects, check_part
from mnist_lib.store.publishing import LONGEST_RUN

RECORD, CONFIGURATION, HISTORY, SUMMARY = "run.json", "config.yaml", "history.jsonl", "summary.json"
REPORT, PLOTS = "report.html", "plots"
INDEX = "index.html"  # over all runs; not in the folder of one
# Of runs that are not complete: who trains them, and which run it is that has such terms.
UNFINISHED = "unfinished"
MOST_DIFFERENCES = 5  # in one line

Terms = Mapping[str, Any]  # as JSON has it


def check_run_name(run: str) -> None:
    """Raises SpecError for what cannot be a folder's name on every storage."""
    check_part("run_name", run, LONGEST_RUN)


def check_writable(objects: Objects) -> None:
    """Raises StoreError at once, not after the training, when nothing can be stored there."""
    name = f"writable-{uuid.uuid4().hex}"
    try:
        if not objects.create(name, b"1") or objects.create(name, b"2"):
            raise StoreError(f"{objects.where(name)}: a second writer was not refused; name another with --storage")
    finally:
        objects.delete(name)


class RunFolder:
    """Raises StoreError, in every method, when the folder cannot be written.

    Args:
        resumed: whether an earlier driver has begun the run.
    """

    def __init__(self, objects: Objects, run: str, *, resumed: bool = False) -> None:
        self.objects, self.run, self.resumed = objects, run, resumed

    @property
    def where(self) -> str:
        return self.objects.where(f"runs/{self.run}")

    def read(self, name: str) -> bytes | None:
        return self.objects.read(self._name(name))

    def write(self, name: str, content: bytes) -> None:
        self.objects.replace(self._name(name), content)

    def names(self, prefix: str) -> list[str]:
        """Of all files below, from the run's folder on."""
        return [name.removeprefix(self._name("")) for name in self.objects.names(self._name(prefix))]

    def delete(self, name: str) -> None:
        self.objects.delete(self._name(name))

    def delete_below(self, prefix: str) -> None:
        self.objects.delete_below(self._name(prefix))

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        self.write(name, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")

    def append_history(self, entry: Mapping[str, Any]) -> None:
        """One line of `history.jsonl`, with the Unix time."""
        line = json.dumps({"at": round(time.time(), 3), **entry})
        self.objects.append(self._name(HISTORY), line.encode() + b"\n")

    def history(self) -> list[dict[str, Any]]:
        """Its entries so far, without a line that is being written."""
        lines = (self.read(HISTORY) or b"").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def flush(self) -> None:
        """Sends what was appended and is still kept back."""
        self.objects.flush()

    def complete(self, summary: Mapping[str, Any]) -> None:
        """With it, the run is complete."""
        self.flush()
        self.write_json(SUMMARY, summary)

    def summary(self) -> dict[str, Any] | None:
        """Of a complete run."""
        content = self.read(SUMMARY)
        if content is None:
            return None
        try:
            summary: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise IntegrityError(f"{self.objects.where(self._name(SUMMARY))}: expected JSON: {error}") from error
        return summary

    @property
    def has_report(self) -> bool:
        return self.objects.exists(self._name(REPORT))

    def require_same(self, name: str, value: str, what: str) -> None:
        """Raises SpecError when an earlier driver of this run has found another value of that name."""
        if not self.objects.create(self._name(name), value.encode()) and self.read(name) != value.encode():
            raise SpecError(f"run {self.run}: it was begun with {what}; choose another --run-name")

    def mend_history(self) -> None:
        """Without a line that a driver died in."""
        history = self.read(HISTORY) or b""
        if history and not history.endswith(b"\n"):
            self.write(HISTORY, history[: history.rfind(b"\n") + 1])

    def _name(self, name: str) -> str:
        return f"runs/{self.run}/{name}"


@contextlib.contextmanager
def open_run(
    objects: Objects, name: str | None, *, dataset: str, terms: Terms, configuration: str
) -> Iterator[RunFolder]:
    """The run of that name, begun anew or gone on with, for this process alone.

    Args:
        name: None for the unfinished run of these terms, or else a new one named after the time and the dataset.

    Raises:
        SpecError: the run of that name has other terms.
        BusyError: another process of this machine is at it.
        IntegrityError: its record is damaged.
    """
    check_part("dataset", dataset)
    with contextlib.ExitStack() as held:
        folder = None
        if name is None:
            folder = _resume_unnamed(objects, terms, held)
        for run in [name] if name else _new_names(dataset):
            if folder is not None:
                break
            held.enter_context(objects.lock(_lock(run)))
            folder = _begin(objects, run, terms, configuration)
            if folder is None and name:
                folder = _resume(objects, run, terms)
        assert folder is not None  # the names do not end
        if not name:
            objects.replace(_pointer(terms), seal({"run": folder.run}))
        yield folder
        if folder.summary() is not None:
            if _unfinished(objects, terms) == folder.run:
                objects.delete(_pointer(terms))
            objects.delete(_lock(folder.run))


def run_to_resume(objects: Objects, name: str | None, terms: Terms) -> str | None:
    """Return the run that `open_run` would resume, None if it would begin one."""
    run = name or _unfinished(objects, terms)
    return run if run is not None and objects.exists(f"runs/{run}/{RECORD}") else None


def configuration_of(objects: Objects, run: str) -> str:
    """Raises SpecError if there is no run of that name."""
    check_run_name(run)
    content = objects.read(f"runs/{run}/{CONFIGURATION}")
    if content is None:
        raise SpecError(f"resume: expected the name of a run in {objects.where('runs')}, got {run!r}")
    return content.decode(errors="replace")


def _begin(objects: Objects, run: str, terms: Terms, configuration: str) -> RunFolder | None:
    """None if there is a run of that name."""
    record = {"run": run, "begun": now_text(), "terms": terms, "token": uuid.uuid4().hex}
    if not objects.create(f"runs/{run}/{RECORD}", seal(record)):
        return None
    folder = RunFolder(objects, run)
    folder.write(CONFIGURATION, configuration.encode())
    return folder


def _resume(objects: Objects, run: str, terms: Terms) -> RunFolder:
    before = _terms_of(objects, run)
    differences = _differences(before, json.loads(json.dumps(terms)))
    if differences:
        more = len(differences) - MOST_DIFFERENCES
        told = "; ".join(differences[:MOST_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")
        raise SpecError(f"run_name: {run!r} was begun on other terms: {told}; choose another --run-name")
    folder = RunFolder(objects, run, resumed=True)
    folder.mend_history()
    return folder


def _resume_unnamed(objects: Objects, terms: Terms, held: contextlib.ExitStack) -> RunFolder | None:
    run = _unfinished(objects, terms)
    if run is None:
        return None
    try:
        held.enter_context(objects.lock(_lock(run)))
        folder = _resume(objects, run, terms)
        return None if folder.summary() else folder
    except (BusyError, IntegrityError, SpecError):
        return None  # another run, then


def _unfinished(objects: Objects, terms: Terms) -> str | None:
    """The name of the newest run of these terms that was begun without a name and is not complete."""
    content = objects.read(_pointer(terms))
    try:
        return None if content is None else str(unseal(content, _pointer(terms))["run"])
    except (IntegrityError, KeyError):
        return None


def _terms_of(objects: Objects, run: str) -> dict[str, Any]:
    name = f"runs/{run}/{RECORD}"
    record = unseal(objects.read(name) or b"", objects.where(name))
    if not isinstance(record.get("terms"), dict):
        raise IntegrityError(f"{objects.where(name)}: expected the terms of a run; choose another --run-name")
    terms: dict[str, Any] = record["terms"]
    return terms


def _new_names(dataset: str) -> Iterator[str]:
    name = f"{as_file_name(now_text())}-{dataset}"
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def _lock(run: str) -> str:
    return f"{UNFINISHED}/{run}.lock"


def _pointer(terms: Terms) -> str:
    return f"{UNFINISHED}/{hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:32]}.json"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """For people, each once: what all trials differ in is one difference."""
    found: dict[str, None] = {}
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= dict.fromkeys(_differences(old, new))
        elif old != new:
            found[f"{name} {_short(old)}, now {_short(new)}"] = None
    return list(found)


def _short(value: Any) -> str:
    return "there" if isinstance(value, dict) else "none" if value is None else str(value)[:40]
