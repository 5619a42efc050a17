"""What the tests of several processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed.jobs import PROGRAMS, PYTHONS, run, weights
from tests.distributed.mpi import Job, installations

FOUND, REASON = installations()
NONE_FOUND = pytest.param(None, marks=pytest.mark.skip(reason=f"no MPI: {REASON}"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The weights of programs/training.py in one process that nobody disturbs."""
    if not PYTHONS:
        pytest.skip("no Python with an MPI")
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output = run(PYTHONS[0], PROGRAMS / "training.py", folder, ranks=1)
    assert code == 0, output
    return weights(output)


@pytest.fixture(
    scope="session",
    params=[(mpi, ranks) for mpi in FOUND for ranks in (1, 2, 3, 4)] or [NONE_FOUND],
    ids=lambda case: f"{case[0].name}-{case[1]}" if case else "no MPI",
)
def job(request: pytest.FixtureRequest) -> Iterator[Job]:
    """Ranks that wait for functions; pytest runs all tests of one job before it starts the next."""
    mpi, ranks = request.param
    started = Job(mpi, ranks)
    yield started
    started.close()
