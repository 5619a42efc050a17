"""What the tests of several processes share."""

import pytest

from tests.distributed.jobs import PROGRAMS, PYTHONS, run, weights


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The weights of programs/training.py in one process that nobody disturbs."""
    if not PYTHONS:
        pytest.skip("no Python with an MPI")
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output = run(PYTHONS[0], PROGRAMS / "training.py", folder, ranks=1)
    assert code == 0, output
    return weights(output)
