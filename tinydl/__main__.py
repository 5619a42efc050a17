"""``python -m tinydl`` is the command ``tinydl``."""

from tinydl.cli.main import app

app(prog_name="tinydl")
