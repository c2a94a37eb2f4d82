"""What the files for all schedulers have in common: every value arrives unchanged, or is refused."""

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from cluster.deploy.schedulers import COMMENT, UnwritableError
from cluster.deploy.schedulers.crontab import crontab
from cluster.deploy.schedulers.kubernetes import cronjob, raycronjob
from cluster.deploy.schedulers.systemd import units
from jobs.console import exit_codes
from jobs.retrain.emit import FINAL_EXIT_CODES
from tests.support.emitted import (
    HOSTILE,
    check_crontab,
    cron_variable,
    hostile,
    kubernetes_words,
    pod_of,
    printed_by,
    systemd_words,
    timer,
)


def test_each_file_says_what_the_command_itself_takes_care_of() -> None:
    for text in (crontab(timer()), cronjob(timer(), "i"), raycronjob(timer(), "i")):
        assert COMMENT in text
    for text in units(timer()).values():
        assert COMMENT in text or "The command runs that slot" in text


def test_no_scheduler_retries_a_final_exit_code() -> None:
    """Exit codes to retry "once" are final, too, since the command itself has already retried after them."""
    assert set(FINAL_EXIT_CODES) == {row.number for row in exit_codes.TABLE if row.retry != "yes"} - {exit_codes.DONE}
    (line,) = re.findall(r"RestartPreventExitStatus=(.*)", units(timer())["mnist-jobs-nightly.service"])
    assert [*map(int, line.split())] == [*FINAL_EXIT_CODES]
    job = yaml.safe_load(cronjob(timer(), "i"))["spec"]["jobTemplate"]["spec"]
    by_code = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert [(rule["action"], rule["onExitCodes"]["operator"]) for rule in by_code] == [("FailJob", "In")]
    assert by_code[0]["onExitCodes"]["values"] == [*FINAL_EXIT_CODES]


CONTROLS = ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029"]


def test_every_hostile_argument_arrives_unchanged() -> None:
    made = hostile(HOSTILE)
    check_crontab(made, crontab(made))
    assert systemd_words(units(made)["mnist-jobs-nightly.service"]) == list(made.command)
    assert kubernetes_words(cronjob(made, "i")) == list(made.command)
    *_, ray_job = yaml.safe_load_all(raycronjob(made, "i"))
    assert printed_by(ray_job["spec"]["jobTemplate"]["entrypoint"]) == HOSTILE


@pytest.mark.parametrize("c", [*CONTROLS, "\ud800", "\ufdd0", "\uffff", "\U0010fffe"])
def test_a_control_character_is_refused_in_everything_that_is_written(c: str) -> None:
    changes: list[dict[str, Any]] = [{"command": ("python", c)}, {"folder": Path(f"/a{c}b")}, {"notify": f"cat{c}"}]
    for change in changes:
        with pytest.raises(UnwritableError, match="expected UTF-8 without control characters"):
            dataclasses.replace(timer(), **change)
    for field in ("name", "cron", "zone", "about"):
        change = {field: f"a{c}b"}
        with pytest.raises(UnwritableError, match="expected printable ASCII"):
            dataclasses.replace(timer(), **change)
    for emit in (cronjob, raycronjob):
        with pytest.raises(UnwritableError, match="image: "):
            emit(timer(), f"an-image{c}")


def test_a_receiver_of_notices_is_in_the_environment_and_not_in_the_command() -> None:
    for notify in ("https://hooks.example.com/canary?a=1%2F&b=$x", "'/opt/my tools/notify' --to \\x", '"a b" `c`'):
        made = dataclasses.replace(timer(), notify=notify)
        assert cron_variable(crontab(made), "MNIST_JOBS_NOTIFY") == notify
        files = units(made)
        script = '. /dev/stdin; printf %s "$MNIST_JOBS_NOTIFY"'
        assert subprocess.check_output(["sh", "-c", script], input=files["nightly.env"], text=True) == notify
        assert "EnvironmentFile=%E/mnist-jobs/nightly.env" in files["mnist-jobs-nightly.service"]  # the file must exist
        assert notify not in files["mnist-jobs-nightly.service"]
        for manifest in (cronjob(made, "i"), raycronjob(made, "i")):
            secret, job = yaml.safe_load_all(manifest)
            assert (secret["kind"], secret["stringData"]) == ("Secret", {"url": notify})
            (variable,) = [v for v in pod_of(manifest)["containers"][0]["env"] if v["name"] == "MNIST_JOBS_NOTIFY"]
            assert variable["valueFrom"] == {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "url"}}
            assert "canary" not in yaml.dump(job)
    kubernetes_validate.validate(secret, "1.31", strict=True)
    with pytest.raises(UnwritableError, match="both kinds of quotes"):
        crontab(dataclasses.replace(timer(), notify="'it' \"is\""))
