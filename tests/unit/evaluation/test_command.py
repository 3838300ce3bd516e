from pathlib import Path

from click.testing import CliRunner

from clip_search_evaluation.evaluate_command import evaluate

NOBODY = "127.0.0.1:1"


def test_data_are_read_before_the_server_is_asked(tmp_path: Path) -> None:
    """What is wrong with them is told with file and line, and exits 1."""
    (tmp_path / "t.csv").write_text("image,caption\ncow.png,a cow\n")
    result = CliRunner().invoke(evaluate, [str(tmp_path / "t.csv"), "--server", NOBODY])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path / 't.csv'}:2: there is no picture")


def test_a_template_without_a_place_for_the_class_is_a_usage_error(tmp_path: Path) -> None:
    """It would make all classes alike."""
    result = CliRunner().invoke(evaluate, [str(tmp_path), "--template", "a photo"])
    assert result.exit_code == 2
    assert "'a photo' has no {} where the class goes" in result.stderr


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    """With its address."""
    (tmp_path / "cow.png").touch()
    (tmp_path / "t.csv").write_text("image,caption\ncow.png,a cow\n")
    result = CliRunner().invoke(evaluate, [str(tmp_path / "t.csv"), "--server", NOBODY, "--timeout", "1"])
    assert result.exit_code == 1
    assert NOBODY in result.stderr
