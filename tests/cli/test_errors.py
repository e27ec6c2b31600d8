"""Tests of how a command ends on an error: with one line for a mistake of the user, with the error itself for a bug."""

import pytest

from partrain.cli.errors import errors_in_one_line
from partrain.errors import UserError


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARTRAIN_TRACEBACK", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # The command sets it otherwise, for all tests that follow.


def test_a_mistake_of_the_user_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, errors_in_one_line():
        raise UserError("train.lr must be greater than 0,\n  got 0")
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: train.lr must be greater than 0, got 0\n")


def test_a_bug_is_raised_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    bug = ValueError("too many values to unpack")
    with pytest.raises(ValueError) as caught, errors_in_one_line():
        raise bug
    assert caught.value is bug
    assert capsys.readouterr() == ("", "")
