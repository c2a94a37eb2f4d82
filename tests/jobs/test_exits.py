from collections.abc import Sequence

import pytest

from cluster import errors as cluster_errors
from jobs import exits
from mnist_lib import errors as mnist_errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (mnist_errors.SpecError, 2),
        (exits.UsageError, 2),
        (mnist_errors.DataMissingError, 3),
        (mnist_errors.DataChecksumError, 3),
        (cluster_errors.ResourcesError, 4),
        (exits.TrainingError, 5),
        (mnist_errors.StoreError, 6),
        (cluster_errors.ClusterError, 8),
        (ZeroDivisionError, 1),
    ],
)
def test_each_failure_is_one_line_and_a_fixed_exit_code(
    error: type[Exception], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(arguments: Sequence[str]) -> int:
        raise error("what\nhappened")

    assert exits.run(command, []) == expected
    stderr = capsys.readouterr().err
    assert stderr.splitlines()[-1].startswith(f"error[{getattr(error, 'code', 'E-BUG')}] ")
    assert "what happened" in stderr
    assert ("Traceback" in stderr) == (expected == 1)


def test_verbose_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def command(arguments: Sequence[str]) -> int:
        raise mnist_errors.DataError("damaged")

    assert exits.run(command, ["--verbose"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_every_error_class_has_an_exit_code() -> None:
    """Codes that a trial ends with are not among them: these make a row, and the run ends with 5 or 9."""
    of_trials = {"E-NAN", "E-GPU-INVISIBLE"}
    for module in (mnist_errors, cluster_errors, exits):
        for item in vars(module).values():
            code = getattr(item, "code", None)
            if isinstance(code, str) and code not in of_trials | {"E-BUG"}:
                assert exits.exit_code_of(code) != 1, code
