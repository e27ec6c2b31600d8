"""Tests of the file error.json, and of the message that the user gets for an error."""

from pathlib import Path

import pytest

from partrain.errors import JobFailed, UserError
from partrain.launch.error_report import raise_failures, read_error_report, write_error_report
from partrain.storage import checkpoint

FIELDS = {"type", "message", "clear", "traceback", "file", "line"}


def raised(call: object, error: type[Exception]) -> Exception:
    """Return the error that `call` raises."""
    assert callable(call)
    with pytest.raises(error) as caught:
        call()
    return caught.value


def failure_of(error: Exception, folder: Path) -> JobFailed:
    """Return the failure that the launcher makes of `error` in a training called "segment 3"."""
    write_error_report(folder, error)
    assert checkpoint.read_json(folder / "error.json").keys() == FIELDS
    report = read_error_report(folder)
    assert report is not None
    return report.failure("segment 3", folder / "error.json")


def test_an_error_of_a_users_own_module_names_its_file_and_line(tmp_path: Path) -> None:
    module = tmp_path / "my_net.py"
    module.write_text("import torch\n\n\ndef forward():\n    return torch.zeros(2) @ torch.zeros(3)\n")
    scope: dict[str, object] = {}
    exec(compile(module.read_text(), str(module), "exec"), scope)
    failure = failure_of(raised(scope["forward"], RuntimeError), tmp_path)
    message = str(failure)
    assert message.startswith(f"Segment 3 failed in {module}, line 5: RuntimeError: ")
    assert message.endswith(f". The full traceback is in {tmp_path}/error.json.")
    assert "\n" not in message
    assert failure.is_user_error


def test_an_error_in_partrain_or_a_library_keeps_its_traceback(tmp_path: Path) -> None:
    trace = raised(lambda: checkpoint.read_json(tmp_path / "none.json"), FileNotFoundError).__traceback__
    while trace is not None and "checkpoint.py" not in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next  # The frames of this test would count as a user's.
    failure = failure_of(ValueError("not an epoch").with_traceback(trace), tmp_path)
    message = str(failure)
    assert message.startswith("Segment 3 failed: ValueError: not an epoch\nTraceback (most recent call last):\n")
    assert "checkpoint.py" in message
    assert not failure.is_user_error


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("train.lr must be greater than 0, got 0", "Segment 3: train.lr must be greater than 0, got 0"),
        ("segment 3: the loss is nan", "segment 3: the loss is nan"),
    ],
)
def test_a_mistake_of_the_user_is_shown_as_it_is(message: str, expected: str, tmp_path: Path) -> None:
    failure = failure_of(UserError(message), tmp_path)
    assert (str(failure), failure.is_user_error) == (expected, True)


def test_with_several_runs_the_segment_is_named_once(tmp_path: Path) -> None:
    write_error_report(tmp_path, UserError("segment 3: the loss is nan"))
    report = read_error_report(tmp_path)
    assert report is not None
    assert str(report.failure("run a, segment 3", tmp_path / "error.json")) == "Run a, segment 3: the loss is nan"


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"type": "ValueError"}'])
def test_a_report_that_is_missing_or_damaged_is_none(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "error.json").write_text(text)
    assert read_error_report(tmp_path) is None


@pytest.mark.parametrize(
    ("message", "reason"), [("no coffee", "no coffee"), ("", "RuntimeError"), ("\n", "RuntimeError")]
)
def test_an_error_without_a_message_has_a_reason(message: str, reason: str, tmp_path: Path) -> None:
    write_error_report(tmp_path, RuntimeError(message))
    report = read_error_report(tmp_path)
    assert report is not None
    assert report.reason == reason


def test_several_failures_are_raised_as_one() -> None:
    raise_failures([])
    failures = [JobFailed("b", is_user_error=True), JobFailed("a", is_user_error=False)]
    with pytest.raises(JobFailed) as caught:
        raise_failures(failures)
    assert (str(caught.value), caught.value.is_user_error) == ("a\nb", False)
