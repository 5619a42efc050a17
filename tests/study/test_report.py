"""The report: tables, pictures and protocol, in Markdown and in one HTML file."""

import re
from html.parser import HTMLParser

import pytest

from tests.study.made_up import study_of
from tinydl.study import LARGE_BATCH_TASKS
from tinydl.study.analysis import Study
from tinydl.study.protocol import Protocol
from tinydl.study.report import markdown_table, write_report
from tinydl.study.tables import Table

TASKS = ("digits", "names-lstm", *LARGE_BATCH_TASKS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    protocol = Protocol(TASKS, ("momentum", "adam", "das"), seeds=2)
    results = study_of(
        *(folder, protocol, lambda run: 50 + run.seed % 2 - 40 * (run.task == "names-lstm")),
        losses=[2.0, None, 0.1],
        rates=lambda run: [0.1, None, 0.01] if run.contender.optimizer == "das" else [],
        layers=lambda run: {"a.weight": [1e-3, None, 0.0], "a.bias": [1.0, 1.0, 1.0]},
    )
    paths = write_report(Study(protocol, results), folder)
    return folder, {path.name for path in paths}


def test_files(written):
    folder, names = written
    assert names == {"REPORT.md", "report.html", *(p.name for p in folder.glob("*.png"))}
    assert {p.stem for p in folder.glob("*.png")} == {
        *("loss-curves", "sensitivity", "budget", "rates", "gradients", "large-batches")
    }


def test_markdown_has_claims_tables_pictures_and_the_protocol(written):
    folder, _ = written
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    for words in ("does not hold", "not measured", "± ", "[0.1]", "1909.03004", "100, and 101"):
        assert words in text
    linked = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert linked and all((folder / name).read_bytes().startswith(b"\x89PNG") for name in linked)


def test_html_is_one_file_that_needs_no_other(written):
    folder, _ = written
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 6
    sources = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            sources.extend(v for k, v in attributes if k in ("src", "href"))

    Reader().feed(text)
    assert all(source.startswith("data:") for source in sources)


def test_cells_cannot_break_a_table():
    table = Table("t", ("a", "b"), [("x|y", "two\nlines")], strong=frozenset({(0, 1)}))
    assert markdown_table(table).splitlines()[2] == "| x\\|y | **two lines** |"
