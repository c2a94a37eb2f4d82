"""`python -m jobs.train`: the main job. Progress on stderr, the result on stdout."""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

import cluster
import jobs
import mnist_lib
from jobs import exits
from jobs.options import TrainOptions, parse
from mnist_lib.store.runs import RunFolder, check_run_name
from mnist_lib.store.versions import version_folder

WIDTH_OF_A_PIPE = 110  # in columns
PACKAGES = [Path(str(package.__file__)).parent for package in (jobs, mnist_lib, cluster)]


def main(arguments: Sequence[str] | None = None) -> int:
    return exits.run(train, sys.argv[1:] if arguments is None else arguments)


def train(arguments: Sequence[str]) -> int:
    options: TrainOptions = parse("jobs.train", TrainOptions, arguments)
    trials = options.trials()
    options.resources(options.cpus_per_trial or 1, options.gpus_per_trial or 0)  # refuses before anything starts
    run = options.run_name or f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{options.dataset}"
    check_run_name(run)
    _log_to_stderr(verbose=options.verbose)

    from cluster.resources import deal, live_nodes, plan_lanes
    from cluster.session import in_submitted_job, session
    from jobs.driver import run_trials

    if in_submitted_job() and not options.storage.is_absolute():
        raise exits.UsageError(
            "storage: expected an absolute path, since the working folder of a submitted job is deleted"
            f", got {options.storage}; use --storage /PATH"
        )
    folder = None if options.plan else RunFolder(options.storage.absolute(), run)
    with session(options.address, PACKAGES):
        nodes = live_nodes()
        plan = plan_lanes(
            len(trials), nodes, gpus_per_trial=options.gpus_per_trial, cpus_per_trial=options.cpus_per_trial
        )
        if folder is not None:
            folder.write_text("config.yaml", yaml.safe_dump(_configuration(options), sort_keys=False))
            summary = run_trials(
                folder=folder,
                trials=trials,
                plan=plan,
                resources=options.resources(plan.cpus, plan.gpus),
                data_dir=options.data_dir,
                data_source=options.data_source,
                max_failures=options.max_failures,
            )
    if folder is None:
        print(f"{len(trials)} trial(s) on {options.dataset}, in {plan}: the most that can run at once on")
        print("\n".join(f"  {node.host}: {node.cpus} CPU(s), {node.gpus} GPU(s)" for node in nodes))
        for number, lane in enumerate(deal(trials, plan.lanes), start=1):
            print(f"lane {number}: {', '.join(trial.id for trial in lane)}")
        return exits.DONE
    _print_result(summary, folder, as_json=options.json)
    return _exit_code(summary)


def _log_to_stderr(*, verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for package in ("jobs", "mnist_lib", "cluster"):
        logging.getLogger(package).addHandler(handler)
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


def _configuration(options: TrainOptions) -> dict[str, Any]:
    """What --config takes to do this run again, under another name."""
    plain = {field.name: getattr(options, field.name) for field in fields(options)}
    left_out = ("run_name", "plan")
    return {name: _plain(value) for name, value in plain.items() if value is not None and name not in left_out}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _print_result(summary: dict[str, Any], folder: RunFolder, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    from rich.console import Console

    from mnist_lib.report.table import render

    render(summary, Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE))
    print(f"run     {folder.path}")
    for name, model in summary["models"].items():
        print(f"model   {version_folder(folder.storage, name, model['version'])}")


def _exit_code(summary: Mapping[str, Any]) -> int:
    failed = sum(trial["status"] == "failed" for trial in summary["trials"])
    if failed == len(summary["trials"]):
        raise exits.TrainingError(f"all {failed} trial(s) failed; the reasons are above and in summary.json")
    return exits.SOME_TRIALS_FAILED if failed else exits.DONE


if __name__ == "__main__":
    sys.exit(main())
