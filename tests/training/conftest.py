"""What the tests of training share."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C as in a terminal: a shell without job control starts its background jobs with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
