"""`jobs.retrain` as a user runs it: as a daemon, as a step of another scheduler, and with notices."""

import json
import re
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from PIL import Image

from mnist_lib.data.corrections import NONE
from mnist_lib.data.dataset import Dataset
from mnist_lib.environment import moment_of
from mnist_lib.objects.local import LocalObjects
from tests.support.bounds import at_most_processor_seconds, wait_until
from tests.support.corrections import correct, correction
from tests.support.digits import ORDER, add_digits
from tests.support.job import history_of, processes_of
from tests.support.schedule import DAILY, HOUR, HOURLY, Schedule, epochs_of, kill, terminate
from tests.support.store.invariants import champions

pytestmark = pytest.mark.slow

TRAIN = ("--models=scratch", "--epochs=2", "--no-report")
BEFORE_A_SLOT = timedelta(minutes=44, seconds=40)  # 20 seconds before a full hour
LONG = ("--models=scratch", "--epochs=3000", "--checkpoint-seconds=0", "--validation-percent=0")


@pytest.mark.long
def test_a_daemon_that_is_killed_and_restarted_runs_each_slot_once(schedule: Schedule) -> None:
    command = (HOURLY, "--lease-seconds=6", "--tz=Europe/Berlin")
    train = ("--models=scratch", "--epochs=40", "--checkpoint-seconds=0")
    daemon = schedule.start(*command, train=train, later=BEFORE_A_SLOT)
    wait_until(lambda: epochs_of(schedule) >= 1, "no epoch has been trained")
    kill(daemon)
    daemon = schedule.start(*command, train=train, later=BEFORE_A_SLOT)
    (run,) = (schedule.storage / "runs").glob("*")
    wait_until((run / "summary.json").exists, schedule.log())
    wait_until(lambda: schedule.read("status")["going_on"] is None, schedule.log())
    assert terminate(daemon) == 128 + signal.SIGTERM
    assert processes_of(schedule.folder) == []
    (done,) = [entry for entry in schedule.entries() if entry["kind"] == "done"]
    assert (done["attempt"], done["results"]["scratch"]["version"], epochs_of(schedule)) == (2, 1, 40)
    assert done["results"]["scratch"]["why"].startswith("scratch@1 is the first champion")
    _, text = schedule.run("status", HOURLY, "--tz=Europe/Berlin")
    assert text.count("CE") >= 2, text  # CET or CEST
    assert "Next: " in text


@pytest.mark.long
def test_with_once_the_command_exits_soon_for_a_done_slot_and_skips_unchanged_ones(schedule: Schedule) -> None:
    command = ("--once", HOURLY, "--skip-unchanged", "--json")
    train = (*TRAIN, "--init-from=@champion")
    code, stdout = schedule.run(*command, train=train)
    first = json.loads(stdout)
    assert "scratch starts from random weights, since it has no champion for mnist-mini yet" in schedule.log()
    assert (code, first["outcome"], first["events"]) == (0, "done", ["success", "promotion"]), schedule.log()
    with at_most_processor_seconds(3):
        code, stdout = schedule.run(*command, train=train)
    idle = json.loads(stdout)
    assert (code, idle["outcome"]) == (0, "idle")
    assert idle["newest"] == {"slot": first["slot"], "outcome": "done"}
    assert moment_of(first["slot"]) < datetime.now(UTC) + schedule.ahead < moment_of(idle["next"])
    code, stdout = schedule.run("--once", HOURLY, train=train)
    assert code == 0
    assert re.fullmatch(r"nightly: nothing is due; next: .* UTC; newest slot, 20\S+:00:00Z: done\n", stdout)
    code, stdout = schedule.run(*command, train=train, later=HOUR)  # although there is a champion now
    skipped = json.loads(stdout)
    assert (code, skipped["outcome"], skipped["events"]) == (0, "unchanged", ["skip"])
    assert skipped["cause"] == f"data, configuration and code have not changed since run {first['run']}"


@pytest.mark.long
def test_a_schedule_runs_a_search(schedule: Schedule) -> None:
    schedule.trains = True
    search = ("--vary=learning_rate=0.01,0.1", "--models=scratch", "--epochs=12", "--trials=2", "--strategy=grid")
    code, stdout = schedule.run("--once", HOURLY, "--skip-unchanged", "--json", train=(*search, "--final-seeds=1"))
    done = json.loads(stdout)
    assert (code, done["outcome"]) == (0, "done"), schedule.log()
    found = json.loads((schedule.storage / f"runs/{done['run']}/search.json").read_text())
    assert [made["scores"].keys() for made in found["decisions"]] == [{"0", "1"}]
    command = ("--once", HOURLY, "--skip-unchanged", "--json")
    code, stdout = schedule.run(*command, train=(*search, "--final-seeds=1"), later=HOUR)
    assert (code, json.loads(stdout)["outcome"]) == (0, "unchanged")


@pytest.mark.long
def test_a_night_trains_on_the_rows_that_were_added_to_a_table(schedule: Schedule, digits: Dataset) -> None:
    schedule.trains = True
    folder = add_digits(schedule.folder / "digits", digits, 0, 400)
    rows = [f"{path.relative_to(folder)},digit {path.parent.name}" for path in sorted(folder.glob("*/*"))]
    table = folder / "metadata.csv"
    train = ("--models=keras", "--epochs=5", "--no-report", "--dataset", str(folder))

    def night(hour: int, count: int) -> dict[str, Any]:
        table.write_text("\n".join(("file_name,label", *rows[:count])))
        command = ("--once", HOURLY, "--skip-unchanged", "--json")
        code, stdout = schedule.run(*command, train=train, later=hour * HOUR)
        assert code == 0, schedule.log()
        found: dict[str, Any] = json.loads(stdout)
        return found

    first = night(0, 300)
    assert first["outcome"] == "done"
    assert night(1, 300)["outcome"] == "unchanged"
    second = night(2, 400)
    assert second["data"].items() >= {"since": first["run"], "added": 100, "removed": 0, "relabelled": 0}.items()
    assert f"digits: 100 images added since {first['run']}" in second["text"]


@pytest.mark.long
def test_nights_of_a_new_user_end_with_the_model_of_more_pictures_not_of_wrong_ones(
    schedule: Schedule, digits: Dataset
) -> None:
    schedule.trains = True
    folder = add_digits(schedule.folder / "digits", digits, 0, 400)
    train = ("--models=keras", "--epochs=20", "--no-report", "--dataset", str(folder))

    def notice(hour: int, *more: str) -> dict[str, Any]:
        command = ("--once", HOURLY, "--skip-unchanged", "--json")
        code, stdout = schedule.run(*command, train=(*train, *more), later=hour * HOUR)
        assert code == 0, schedule.log()
        found: dict[str, Any] = json.loads(stdout)
        return found

    first = notice(0)
    assert (first["outcome"], first["data"], notice(1)["outcome"]) == ("done", None, "unchanged")
    correct(folder, correction(digits.train.images[ORDER[0]], NONE))
    second = notice(2)
    assert second["events"] == ["success", "rejection"]
    data = {"name": "digits", "since": first["run"], "added": 0, "removed": 1, "relabelled": 0, "corrected": 1}
    assert second["data"].items() >= data.items()
    add_digits(folder, digits, 400, 430)
    third = notice(3, "--init-from=@champion")
    assert third["events"] == ["success", "rejection"]
    assert re.findall("keras starts from .*", schedule.log()) == [
        "keras starts from the weights of keras@1, trained on digits"
    ]
    add_digits(folder, digits, 430, 800)
    fourth = notice(4)
    assert fourth["events"] == ["success", "promotion", "unusual"]
    assert "not worse, with" in fourth["models"]["keras"]["why"]
    assert re.search(rf"digits: 370 images added.* since {third['run']}.*; keras@4 has ", fourth["text"])
    assert fourth["models"]["keras"]["new_test"]["total"] > 0
    assert re.search(r"digits: 370 images\s+added", schedule.run("status")[1])
    wrong = [index for index in ORDER[800:] if digits.train.labels[index] != 5][:200]
    for index in wrong:  # a whole folder, unpacked into a class
        Image.fromarray(digits.train.images[index, ..., 0]).save(folder / f"5/{index}.png")
    fifth = notice(5)
    assert fifth["events"] == ["success", "rejection", "unusual"]
    assert fifth["data"]["unusual"].keys() == {"5"}
    assert "unusual: 200 images added to class 5, where " in fifth["text"]
    assert "keras@5 has " in fifth["text"]
    assert " and is not the champion (" in fifth["text"]
    assert "keras@4 predicts " in schedule.log()  # the new test images
    log = champions(LocalObjects(schedule.storage), "keras", "digits")
    assert [(record.kind, record.version, record.replaced) for record in log] == [
        *(("promote", 1, None), ("keep", 1, 1), ("keep", 1, 1), ("promote", 4, 1), ("keep", 4, 4)),
    ]
    sizes = [record.test.total for record in log if record.test]
    assert sizes[2] < sizes[3] < sizes[4]


@pytest.mark.long
def test_i10_a_second_start_gives_exit_code_75_a_stopped_run_is_resumed_and_ends_with_its_daemon(
    schedule: Schedule,
) -> None:
    command = (HOURLY, "--lease-seconds=15")
    running = schedule.start("--now", *command, train=LONG)
    wait_until(lambda: epochs_of(schedule) >= 1, "no epoch has been trained")
    for option in ("--now", "--once"):
        code, _ = schedule.run(option, *command, train=LONG)
        assert code == 75
        (error,) = re.findall(r"error\[E-BUSY\] .*", schedule.log())[-1:]
        assert re.search(rf"a run is in progress \(process {running.pid} on \S+, since 20\S+Z\); wait for it", error)
    assert terminate(running) == 128 + signal.SIGTERM
    assert processes_of(schedule.folder) == []
    before = epochs_of(schedule)
    assert schedule.entries()[-1]["kind"] == "interrupted"
    again = schedule.start("--now", *command, train=LONG)
    wait_until(lambda: epochs_of(schedule) > before, "the run has not been resumed")
    kill(again)
    wait_until(lambda: processes_of(schedule.folder) == [], "the process of the run still runs")
    (run,) = (schedule.storage / "runs").iterdir()
    starts = [line for line in history_of(run) if line["event"] == "started"]
    assert [start["resumed_after"] > 0 for start in starts] == [False, True]


@pytest.mark.long
def test_w8_now_trains_after_a_daemon_was_ended_by_a_signal(schedule: Schedule) -> None:
    """What follows a killed one is in `jobs/retrain/test_recovery.py`."""
    command = (HOURLY, "--lease-seconds=6")
    train = ("--models=scratch", "--epochs=40", "--checkpoint-seconds=0", "--no-report")
    daemon = schedule.start(*command, train=train, later=BEFORE_A_SLOT)
    wait_until(lambda: epochs_of(schedule) >= 1, "no epoch has been trained")
    assert terminate(daemon) == 128 + signal.SIGTERM
    assert epochs_of(schedule) < 40
    code, stdout = schedule.run("--now", *command, "--json", train=train, later=BEFORE_A_SLOT + HOUR)
    assert code == 0, schedule.log()
    done = json.loads(stdout)
    assert (done["outcome"], done["attempt"], epochs_of(schedule)) == ("done", 2, 40), schedule.log()
    assert [entry["kind"] for entry in schedule.entries()].count("done") == 1


def test_the_notice_of_a_failed_run_gives_its_cause_and_the_next_command(schedule: Schedule) -> None:
    received = schedule.folder / "notice"
    train = ("--dataset=mnist", "--data-source=/nowhere", f"--data-dir={schedule.folder}")
    code, stdout = schedule.run("--once", DAILY, f"--notify=cat > {received}", "--json", train=train)
    notice = json.loads(received.read_text())
    assert received.read_text().endswith("}\n")
    assert (code, notice) == (3, json.loads(stdout))
    assert (notice["outcome"], notice["events"], notice["exit_code"]) == ("failed", ["failure"], 3)
    assert notice["cause"].startswith("error[E-DATA-MISSING] mnist: ")
    assert notice["next_command"] is None
    assert not schedule.storage.joinpath("runs", notice["run"]).exists()  # the same command would end in the same way
    assert notice["cause"] in notice["text"]
    code, stdout = schedule.run("--once", DAILY, train=train)
    assert code == 3  # the slot has failed for good
    assert "nothing is due" in stdout
    assert stdout.endswith(": failed (exit code 3)\n")
    assert [entry["kind"] for entry in schedule.entries()] == ["enrolled", "started", "failed"]
