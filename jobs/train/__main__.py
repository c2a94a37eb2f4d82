"""`python -m jobs.train`: train models on a cluster. Progress goes to stderr, the result to stdout."""

import json
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.options import parse
from jobs.console.output import RESULT_BEGINS, RESULT_ENDS, as_text, log_to_stderr, print_result, run_command
from jobs.console.terminal import step
from jobs.train.options import TrainOptions, terms_of
from mnist_lib.clock import moment_of, now_text
from mnist_lib.data.availability import check_availability
from mnist_lib.environment import code_version
from mnist_lib.errors import DataMissingError
from mnist_lib.model_file import ModelFile, trust, with_folder
from mnist_lib.objects.fence import fence
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import check_storage, is_url, open_storage
from mnist_lib.spec import TrialSpec
from mnist_lib.store.opening import open_run, run_to_resume
from mnist_lib.store.runs import REPORT, RunFolder, check_run_name, check_writable, configuration_of
from mnist_lib.store.versions import version_folder

log = logging.getLogger("jobs.train")  # __name__ is "__main__" under `python -m`


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(train, sys.argv[1:] if arguments is None else arguments)


def train(arguments: Sequence[str]) -> int:
    begin = time.time()
    if any(word.partition("=")[0] == "--chaos" for word in arguments):
        raise exit_codes.UsageError("--chaos is not an option; use instead: python -m jobs.rehearse --seed N")
    options: TrainOptions = parse("jobs.train", TrainOptions, arguments)
    if options.resume is not None:
        options = _options_of(options, arguments)
    log_to_stderr(verbose=options.verbose, quiet=options.quiet)
    options.require_trusted(arguments)
    trials = options.trials()
    options.check()
    options.check_data_dir()
    check_storage(options.storage)
    if options.run_name is not None:
        check_run_name(options.run_name)
    if options.finish_by is not None and moment_of(options.finish_by).timestamp() <= begin:
        _require_begun(options, trials)
    with step("loading Ray", shown=not options.quiet):
        from cluster.connection.session import in_submitted_job
        from jobs.train.planning import forecast

    if options.plan or options.calibrate:
        plan = forecast(options, trials)
        _print_result(json.dumps(plan.document(), indent=2) if options.json else str(plan), in_submitted_job())
        return exit_codes.DONE
    return _run(options, trials, begin, submitted=in_submitted_job())


def _options_of(options: TrainOptions, arguments: Sequence[str]) -> TrainOptions:
    """Return the options of the run that `--resume` names, overridden by the flags of this command line.

    The stored address is ignored: others may write to the storage, and a cluster sees all data and sends pickles.
    """
    assert options.resume is not None
    check_storage(options.storage)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(configuration_of(open_storage(options.storage), options.resume))
        file.flush()
        resumed: TrainOptions = parse("jobs.train", TrainOptions, ["--config", file.name, *arguments])
    if resumed.address != options.address and options.address is None:
        raise exit_codes.UsageError(
            f"address: expected the cluster to resume {options.resume} on, got none; add --address"
            f" {shlex.quote(str(resumed.address))}, the address in the stored configuration, if you trust it"
        )
    return replace(resumed, run_name=options.resume, storage=options.storage, address=options.address)


def _require_begun(options: TrainOptions, trials: Sequence[TrialSpec]) -> None:
    """Raise UsageError, since --finish-by has passed, unless there is a run to resume, which then ends early."""
    terms = terms_of(options, trials, code_version(SOURCE_FOLDERS))
    if run_to_resume(open_storage(options.storage), options.run_name, terms) is None:
        raise exit_codes.UsageError(
            f"finish_by: expected a time in the future, got {options.finish_by}; it is {now_text()} now"
        )


def _run(options: TrainOptions, trials: Sequence[TrialSpec], begin: float, *, submitted: bool) -> int:
    with step("checking the storage", shown=not options.quiet):
        from jobs.train.driver import train_trials

        objects = _storage(options.storage, options.lease, submitted)
    code = code_version(SOURCE_FOLDERS)
    run = open_run(
        objects,
        options.run_name,
        dataset=options.data().name,
        terms=terms_of(options, trials, code),
        configuration=yaml.safe_dump(_configuration(options), sort_keys=False),
    )
    with run as folder:
        summary = folder.summary()
        if summary is None:
            _check_data(options)
            _trust(options.code_files.values())
            command = ["python", "-m", "jobs.train", "--resume", folder.run, "--storage", options.storage]
            command += ["--address", options.address] if options.address else []
            advice = "resume with: " + ("the same submission" if submitted else shlex.join(command))
            summary = train_trials(options, trials, begin, folder, code, advice)
        else:
            log.info("run %s is complete; for another run, use another --run-name", folder.run)
            finish(folder, trials, options)
    _print_result(json.dumps(summary, indent=2) if options.json else _result_text(summary, folder), submitted)
    return _exit_code(summary)


def _trust(files: Collection[ModelFile]) -> None:
    """List these files as trusted, so that stored versions may run their code even after the files have changed."""
    try:
        trust(files)
    except (OSError, RuntimeError) as error:
        log.warning(
            "the stored models will need --model-file, since the list of trusted files cannot be written (%s)", error
        )


def _check_data(options: TrainOptions) -> None:
    """Raise DataError within seconds if a run could not get its dataset. The driver reads it on its own machine."""
    data = options.data()
    try:
        check_availability(data)
    except DataMissingError as error:
        hint = "" if data.entry is None else ", or use --dataset mnist-mini, which needs neither"
        raise DataMissingError(f"{error}{hint}") from error


def finish(folder: RunFolder, trials: Sequence[TrialSpec], options: TrainOptions) -> None:
    """Repeat the steps after the summary, in case the driver was killed before or during them."""
    from jobs.train.reporting import is_in_index, write_index
    from mnist_lib.store.datasets import record_last_run
    from mnist_lib.store.resumption import delete_trial_state

    if summary := folder.summary():
        record_last_run(folder, summary)
    delete_trial_state(folder, [trial.id for trial in trials])
    if options.report and not is_in_index(folder.objects, folder.run):
        write_index(folder.objects)


def _storage(storage: str, lease: str | None, submitted: bool) -> Objects:
    """Return the storage. Raises StoreError before anything starts if it cannot be written."""
    if submitted and not is_url(storage) and not Path(storage).is_absolute():
        raise exit_codes.UsageError(
            "storage: expected an absolute path, since the working folder of a submitted job is deleted"
            f", got {storage}; use --storage /PATH"
        )
    objects = open_storage(storage)
    if lease is not None:
        objects = fence(objects, lease)
    check_writable(objects)
    return objects


def _configuration(options: TrainOptions) -> dict[str, Any]:
    """Return the options of the run as in a --config file, without those that concern only this process."""
    left_out = ("run_name", "resume", "plan", "calibrate", "lease", "require_all", "trust", "quiet", "verbose")
    folder = options.data().folder
    options = replace(options, dataset=str(folder)) if folder else options  # for a command in another folder
    options = replace(options, models=tuple(map(with_folder, options.models)))
    plain = json.loads(json.dumps(asdict(options), default=str))  # YAML has neither tuples nor paths
    return {name: value for name, value in plain.items() if value is not None and name not in left_out}


def _result_text(summary: dict[str, Any], folder: RunFolder) -> str:
    from mnist_lib.report.table import result_tables

    lines = [f"Run: {folder.where}"]
    if folder.has_report:
        lines.append(f"Report: {folder.where}/{REPORT}")
    for name, model in summary["models"].items():
        where = folder.objects.where(version_folder(name, model["version"]))
        champion = "the champion" if model["champion"] else "not the champion"
        lines.append(f"{name}@{model['version']} (trial {model['best_trial']}): {where}")
        lines.append(f"  It is {champion}: {model['promotion']}")
    return as_text(*result_tables(summary), "", *lines)


def _print_result(text: str, submitted: bool) -> None:
    print_result(f"{RESULT_BEGINS}{text}{RESULT_ENDS}" if submitted else text)


def _exit_code(summary: Mapping[str, Any]) -> int:
    errors = [(trial["id"], trial["error"]) for trial in summary["trials"] if trial["status"] == "failed"]
    if len(errors) < len(summary["trials"]):
        return exit_codes.SOME_FAILED if errors or summary["dataset"].get("damaged") else exit_codes.DONE
    trial, first = errors[0]
    codes = {error["code"] for _, error in errors}
    others = f" (1 of {len(errors)} trials that failed; see summary.json)" if len(errors) > 1 else ""
    raise exit_codes.TrainingError(f"{trial}: {first['message']}{others}", *(codes if len(codes) == 1 else ()))


if __name__ == "__main__":
    sys.exit(main())
