"""`tinydl data`: what is known by name, and what lies at a path of one's own."""

import numpy as np
from typer.testing import CliRunner

from tinydl.cli.main import app

runner = CliRunner()


def test_info_of_a_named_data_set():
    result = runner.invoke(app, ["data", "info", "digits"])
    assert result.exit_code == 0, result.output
    assert "1437 training and 360 test samples of 8 x 8 x 1 (uint8), 10 classes" in result.output


def test_info_of_ones_own(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.zeros((20, 3)), y=np.arange(20) % 2)
    result = runner.invoke(app, ["data", "info", str(path)])
    assert result.exit_code == 0, result.output
    assert "mine: 16 training and 4 test samples of 3 (float64), 2 classes" in result.output


def test_unknown_names_are_refused():
    for command in ("info", "fetch"):
        result = runner.invoke(app, ["data", command, "mnistt"])
        assert result.exit_code == 1
        assert "did you mean 'mnist'" in result.output


def test_list_says_what_is_here(tmp_path):
    result = runner.invoke(app, ["data", "list", "--root", str(tmp_path)])
    assert result.exit_code == 0, result.output
    here = {line.split()[0]: line.split()[1] for line in result.output.splitlines()[1:-1]}
    assert here["digits"] == "yes" and here["mnist"] == here["names"] == "no"
