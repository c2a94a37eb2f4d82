"""Every command of the files that deploy the job is parsed by its own parser, and what it names exists."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from ray.scripts.scripts import cli as ray_cli

from jobs.console import exit_codes
from tests.support.commands import parse_command
from tests.support.deploy_files import (
    GROUPS,
    GUIDE,
    LAUNCHERS,
    OBJECTS,
    ROOT,
    commands,
    simple_commands,
)

# Programs whose options are not checked here. The files and objects given to kubectl and docker are checked below.
UNCHECKED = {"apt-get", "chmod", "docker", "install", "kubectl", "ln", "mkdir", "pip", "scp", "ssh", "ulimit"}
UNCHECKED |= {"kill", "pkill", "sleep"}


def parse_ray(arguments: Sequence[str]) -> None:
    command: Any = ray_cli
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, list(arguments))


@pytest.mark.parametrize(
    ("file", "command"), [(file, command) for file, found in commands().items() for command in found]
)
def test_every_command_is_accepted_by_its_parser(file: str, command: list[str]) -> None:
    program, *arguments = command
    name = Path(program).name
    if name == "ray":
        parse_ray(arguments)
    elif name in ("python", "python3"):
        assert arguments[0] == "-m", "python -m finds the packages in the current folder"
        if arguments[1] != "venv":
            parse_command(arguments[1], [word for word in arguments[2:] if word != "--help"])
    else:
        assert name in UNCHECKED, f"{file}: expected a known program, got {name}"


def test_each_file_has_commands_to_check() -> None:
    assert {file for file, found in commands().items() if any("ray" in words[0] for words in found)} >= {
        "cluster.md",
        *(file.name for file in LAUNCHERS),
    }
    assert ["ray", "job", "list"] in commands()["cluster.md"]


@pytest.mark.parametrize("wrong", ["ray start --num-cpu=1", "ray job lst", "python -m jobs.train --epoch 1"])
def test_an_option_that_does_not_exist_is_found(wrong: str) -> None:
    (command,) = simple_commands(wrong)
    with pytest.raises((click.NoSuchOption, KeyError, exit_codes.UsageError)):
        test_every_command_is_accepted_by_its_parser("any", command)


@pytest.mark.parametrize("group", GROUPS)
def test_ray_start_params_are_options_of_ray_start(group: Any) -> None:
    parse_ray(["start", "--address=head:6379", *(f"--{key}={value}" for key, value in group["rayStartParams"].items())])


def test_the_files_and_objects_that_kubectl_and_docker_are_given_exist() -> None:
    assert {"docker", "kubectl"} <= {command[0] for command in commands()["cluster.md"]}
    for command in commands()["cluster.md"]:
        if command[0] == "docker":
            assert all((ROOT / word).exists() for word in command if word.startswith("cluster/"))
            locks = [word.removeprefix("LOCK=") for word in command if word.startswith("LOCK=")]
            assert all((ROOT / "requirements" / f"{lock}.lock").exists() for lock in locks)
        if command[0] != "kubectl":
            continue
        for word in command:
            if word.startswith("cluster/"):
                assert (ROOT / word).exists()
            if word.startswith("service/"):  # KubeRay appends to the name of a cluster or job
                assert word.removeprefix("service/").removesuffix("-head-svc") in {name for _, name in OBJECTS}
            if word.startswith("--from=cronjob/"):
                assert ("CronJob", word.removeprefix("--from=cronjob/")) in OBJECTS
        if "rayjob" in command:
            assert ("RayJob", command[command.index("rayjob") + 1]) in OBJECTS


def test_every_link_within_the_text_leads_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", GUIDE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= headings
