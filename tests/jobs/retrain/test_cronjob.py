"""The CronJob in `cluster/deploy` follows the table of exit codes, and a schedule accepts the options of its job."""

from jobs.console.options import split_at_dashes
from jobs.retrain.options import RetrainOptions, check_train, train_options
from tests.support.commands import parse_command, split_command
from tests.support.deploy_files import CRON_JOBS, FINAL, OBJECTS, commands
from tests.support.documents import commands as documented

(NAME,) = CRON_JOBS
CRON_JOB = CRON_JOBS[NAME]


def test_the_cronjob_retries_by_the_table_of_exit_codes() -> None:
    rules = CRON_JOB["podFailurePolicy"]["rules"]
    by_code = [rule for rule in rules if "onExitCodes" in rule]
    assert [rule["action"] for rule in by_code] == ["FailJob"]
    codes = by_code[0]["onExitCodes"]
    assert codes["containerName"] == CRON_JOB["template"]["spec"]["containers"][0]["name"]
    assert (codes["operator"], set(codes["values"])) == ("In", FINAL)
    assert CRON_JOB["template"]["spec"]["restartPolicy"] == "Never", "else the policy is refused"
    assert OBJECTS["CronJob", NAME]["spec"]["concurrencyPolicy"] == "Forbid"
    assert CRON_JOB["backoffLimit"] == 5


def test_every_schedule_of_a_document_and_the_cronjob_accepts_the_options_of_its_job() -> None:
    texts = [command.text for command in documented() if " -- " in command.text]
    (cronjob,) = commands()[NAME]
    schedules = [cronjob[3:], *(words for name, words in map(split_command, texts) if name == "jobs.retrain")]
    for words in schedules:
        options, _ = parse_command("jobs.retrain", words)
        assert isinstance(options, RetrainOptions)
        check_train(train_options(options, split_at_dashes(words)[1]))
    assert len(schedules) >= 3
