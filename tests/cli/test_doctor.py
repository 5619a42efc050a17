"""`tinydl doctor` as its user sees it."""

import json

from typer.testing import CliRunner

from tinydl.bench import diagnosis
from tinydl.cli.main import app

runner = CliRunner()


def test_every_section_is_shown_and_nothing_fails():
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for section in diagnosis.SECTIONS:
        assert section in result.output
    assert "Error" not in result.output
    assert "matmul tile" in result.output and "NumPy's BLAS" in result.output


def test_json_holds_every_finding():
    result = runner.invoke(app, ["doctor", "--json"])
    findings = json.loads(result.output)
    assert {f["section"] for f in findings} == set(diagnosis.SECTIONS)
    assert set(findings[0]) == {"section", "item", "value", "hint"}


def test_hints_come_last_and_name_what_is_odd(monkeypatch):
    sections = {"A": lambda: [("one", "1"), ("two", "2", "two is odd")]}
    monkeypatch.setattr(diagnosis, "SECTIONS", sections)
    lines = runner.invoke(app, ["doctor"]).output.strip().splitlines()
    assert lines[-1] == "• A, two: two is odd"
    monkeypatch.setattr(diagnosis, "SECTIONS", {"A": lambda: [("one", "1")]})
    assert runner.invoke(app, ["doctor"]).output.strip().endswith("nothing looks odd")
