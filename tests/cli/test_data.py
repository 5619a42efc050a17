"""`tinydl data` on a file of one's own."""

import numpy as np
from typer.testing import CliRunner

from tinydl.cli.main import app


def test_info_of_ones_own(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.zeros((20, 3)), y=np.arange(20) % 2)
    result = CliRunner().invoke(app, ["data", "info", str(path)])
    assert result.exit_code == 0, result.output
    assert "mine: 16 training and 4 test samples of 3 (float64), 2 classes" in result.output
