"""The report of a study: REPORT.md with its pictures beside it, and report.html, which holds everything in one file."""

from __future__ import annotations

import base64
import html
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinydl.study import protocol as protocol_text
from tinydl.study.analysis import Study
from tinydl.study.tables import Table, all_tables
from tinydl.training.files import write_atomically

TITLE = "The optimizer study"
DPI = 110
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left; vertical-align: top }
th { background: #f4f4f4 } td + td { font-variant-numeric: tabular-nums }
img { max-width: 100% } figcaption, .note { color: #555; font-size: 13px }
.holds { color: #17702b; font-weight: 600 } .does-not-hold { color: #b3261e; font-weight: 600 }
"""


def write_report(study: Study, folder: Path) -> list[Path]:
    """Write both forms and the pictures; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    tables, pictures = all_tables(study), draw(study)
    written = []
    for name, (_, png) in pictures.items():
        written.append(folder / f"{name}.png")
        write_atomically(written[-1], png)
    captions = {name: caption for name, (caption, _) in pictures.items()}
    documents = {
        "REPORT.md": markdown(study, tables, captions),
        "report.html": page(study, tables, pictures),
    }
    for name, text in documents.items():
        write_atomically(folder / name, text.encode())
    return [*(folder / name for name in documents), *written]


def draw(study: Study) -> dict[str, tuple[str, bytes]]:
    """file stem -> (caption, PNG); none without Matplotlib."""
    if find_spec("matplotlib") is None:
        return {}
    from tinydl.study.pictures import all_pictures

    return {name: (caption, png(figure)) for name, (caption, figure) in all_pictures(study).items()}


def png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI)
    return data.getvalue()


def summary(study: Study) -> str:
    """How much was run, by what code."""
    records = study.results.records.values()
    commits = list(
        dict.fromkeys(s.get("commit") for s in study.results.sessions if s.get("commit"))
    )
    text = f"{len(records)} runs on {len(study.protocol.tasks)} tasks"
    if study.results.scale != 1:
        text += f", each {study.results.scale:g} times as long as the protocol has it"
    if commits:
        text += f"; commits {', '.join(str(c)[:10] for c in commits[-3:])}"
    return text + "."


def paragraphs() -> list[str]:
    """The protocol: the text at the head of its module, but for the first line."""
    assert protocol_text.__doc__ is not None
    return [" ".join(p.split()) for p in protocol_text.__doc__.split("\n\n")[1:]]


# ---- Markdown -----------------------------------------------------------------------------------------------


def markdown(study: Study, tables: list[Table], captions: dict[str, str]) -> str:
    blocks = [f"# {TITLE}", summary(study)]
    for table in tables:
        blocks += [f"## {table.title}", markdown_table(table)]
        if table.note:
            blocks.append(table.note)
    blocks.append("## Pictures")
    blocks += [f"![{caption}]({name}.png)\n\n{caption}" for name, caption in captions.items()]
    blocks += ["## Protocol", "Fixed before there were results.", *paragraphs()]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    lines = [row_of(table.header), row_of("---" for _ in table.header)]
    for i, row in enumerate(table.rows):
        cells = [f"**{text}**" if (i, k) in table.strong else text for k, text in enumerate(row)]
        lines.append(row_of(cells))
    return "\n".join(lines)


def row_of(cells: Any) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


# ---- HTML ---------------------------------------------------------------------------------------------------


def page(study: Study, tables: list[Table], pictures: dict[str, tuple[str, bytes]]) -> str:
    """One file that needs no other."""
    body = [f"<h1>{TITLE}</h1>", f"<p>{html.escape(summary(study))}</p>"]
    for table in tables:
        body += [f"<h2>{html.escape(table.title)}</h2>", html_table(table)]
        if table.note:
            body.append(f'<p class="note">{html.escape(table.note)}</p>')
    for caption, data in pictures.values():
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        text = html.escape(caption)
        body.append(
            f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        )
    body.append("<h2>Protocol</h2><p>Fixed before there were results.</p>")
    body += [f"<p>{html.escape(p).replace('**', '')}</p>" for p in paragraphs()]
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{TITLE}</title>\n<style>{STYLE}</style>\n'
        + "\n".join(body)
        + "\n</html>\n"
    )


def html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in table.header)
    rows = [
        "<tr>"
        + "".join(html_cell(text, (i, k) in table.strong) for k, text in enumerate(row))
        + "</tr>"
        for i, row in enumerate(table.rows)
    ]
    return f"<table><tr>{head}</tr>\n" + "\n".join(rows) + "</table>"


def html_cell(text: str, strong: bool) -> str:
    escaped = html.escape(text)
    if text in ("holds", "does not hold"):
        return f'<td class="{text.replace(" ", "-")}">{escaped}</td>'
    return f"<td><b>{escaped}</b></td>" if strong else f"<td>{escaped}</td>"
