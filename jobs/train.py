"""`python -m jobs.train`: the main job. Progress on stderr, the result on stdout."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import cluster
import jobs
import mnist_lib
from jobs import exits
from jobs.options import TrainOptions, parse
from mnist_lib.environment import code_version
from mnist_lib.spec import TrialSpec
from mnist_lib.store.objects import Objects
from mnist_lib.store.runs import RunFolder, check_run_name, check_writable
from mnist_lib.store.storage import check_storage, is_url, open_storage
from mnist_lib.store.versions import version_folder

if TYPE_CHECKING:
    from cluster.resources import LanePlan, Node

WIDTH_OF_A_PIPE = 110  # in columns
PACKAGES = [Path(str(package.__file__)).parent for package in (jobs, mnist_lib, cluster)]


def main(arguments: Sequence[str] | None = None) -> int:
    return exits.run(train, sys.argv[1:] if arguments is None else arguments)


def train(arguments: Sequence[str]) -> int:
    options: TrainOptions = parse("jobs.train", TrainOptions, arguments)
    _log_to_stderr(verbose=options.verbose)
    trials = options.trials()
    options.check_resources()
    options.rule()
    check_storage(options.storage)
    if options.run_name is not None:
        check_run_name(options.run_name)

    return _show_plan(options, trials) if options.plan else _run(options, trials)


def _show_plan(options: TrainOptions, trials: Sequence[TrialSpec]) -> int:
    from cluster.resources import deal, live_nodes, this_machine
    from cluster.session import address_of, session

    if address_of(options.address) is None:
        nodes = [this_machine()]
    else:
        with session(options.address, PACKAGES):
            nodes = live_nodes()
    plan = _plan(options, trials, nodes)
    lanes = [[trial.id for trial in lane] for lane in deal(trials, plan.lanes)]
    if options.json:
        document = {"lanes": lanes, "cpus": plan.cpus, "gpus": plan.gpus, "nodes": [vars(node) for node in nodes]}
        exits.print_result(json.dumps(document, indent=2))
        return exits.DONE
    lines = [
        f"{len(trials)} trial(s) on {options.dataset} in {plan}, the most that can run at once on",
        *(f"  {node.host}: {node.cpus} CPU(s), {node.gpus} GPU(s)" for node in nodes),
        *(f"lane {number}: {', '.join(lane)}" for number, lane in enumerate(lanes, start=1)),
    ]
    exits.print_result("\n".join(lines))
    return exits.DONE


def _run(options: TrainOptions, trials: Sequence[TrialSpec]) -> int:
    from cluster.resources import live_nodes
    from cluster.session import session
    from jobs.driver import run

    objects = _storage(options.storage)
    with session(options.address, PACKAGES):
        plan = _plan(options, trials, live_nodes())
        resources = options.resources(plan.cpus, plan.gpus)
        folder = _create_folder(options, objects)
        summary = run(
            folder=folder,
            trials=trials,
            plan=plan,
            resources=resources,
            data_dir=options.data_dir,
            data_source=options.data_source,
            max_failures=options.max_failures,
            rule=options.rule(),
            code=code_version(PACKAGES),
        )
    exits.print_result(json.dumps(summary, indent=2) if options.json else _result_text(summary, folder))
    return _exit_code(summary)


def _storage(storage: str) -> Objects:
    """Looked at before anything is started: after the training would be too late."""
    from cluster.session import in_submitted_job

    if in_submitted_job() and not is_url(storage) and not Path(storage).is_absolute():
        raise exits.UsageError(
            "storage: expected an absolute path, since the working folder of a submitted job is deleted"
            f", got {storage}; use --storage /PATH"
        )
    objects = open_storage(storage)
    check_writable(objects)
    return objects


def _plan(options: TrainOptions, trials: Sequence[TrialSpec], nodes: "Sequence[Node]") -> "LanePlan":
    from cluster.resources import plan_lanes

    return plan_lanes(len(trials), nodes, gpus_per_trial=options.gpus_per_trial, cpus_per_trial=options.cpus_per_trial)


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


def _create_folder(options: TrainOptions, objects: Objects) -> RunFolder:
    configuration = yaml.safe_dump(_configuration(options), sort_keys=False)
    if options.run_name is None:
        return RunFolder.create_unnamed(objects, options.dataset, configuration)
    return RunFolder.create(objects, options.run_name, configuration)


def _result_text(summary: dict[str, Any], folder: RunFolder) -> str:
    from rich.console import Console

    from mnist_lib.report.table import render

    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE, force_terminal=sys.stdout.isatty())
    with console.capture() as capture:
        render(summary, console)
    lines = [capture.get().rstrip() + "\n", f"The run is in {folder.where}"]
    for name, model in summary["models"].items():
        stored = f"{name}@{model['version']}, which is {model['best_trial']}"
        lines.append(f"{stored}, is in {folder.objects.where(version_folder(name, model['version']))}")
        champion = "the champion" if model["champion"] else "not the champion"
        lines.append(f"  It is {champion}: {model['promotion']}")
    return "\n".join(lines)


def _exit_code(summary: Mapping[str, Any]) -> int:
    failed = sum(trial["status"] == "failed" for trial in summary["trials"])
    if failed == len(summary["trials"]):
        raise exits.TrainingError(f"all {failed} trial(s) failed; the reasons are above and in summary.json")
    return exits.SOME_TRIALS_FAILED if failed else exits.DONE


if __name__ == "__main__":
    sys.exit(main())
