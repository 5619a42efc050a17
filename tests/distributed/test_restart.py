"""Jobs that lose ranks are started again, and end with the weights of a job that lost none, to the last bit."""

from tests.distributed.jobs import PROGRAMS, each_mpi, one_mpi, run, weights

TRAINING = PROGRAMS / "training.py"


@one_mpi
def test_three_killed_ranks_change_no_bit(python, undisturbed, tmp_path):
    """After step 2, before there is a checkpoint; after four steps more; in the middle of writing a checkpoint."""
    code, output = run(python, TRAINING, tmp_path, "1:2,0:4,0:write", max_restarts=3)
    assert code == 0, output
    assert "restart 3 of 3" in output
    assert "start 3 ranks 2 ended" in output
    assert weights(output) == undisturbed
    assert not list(tmp_path.glob(".*.tmp"))  # what was half written is gone


@one_mpi
def test_elastic_goes_on_with_fewer_ranks_to_the_same_weights(python, undisturbed, tmp_path):
    code, output = run(python, TRAINING, tmp_path, "2:4,1:5", ranks=3, max_restarts=2, elastic=True)
    assert code == 0, output
    assert "start 2 ranks 1 ended" in output
    assert weights(output) == undisturbed


@one_mpi
def test_too_many_losses_are_a_failure(python, tmp_path):
    code, output = run(python, TRAINING, tmp_path, "1:4,0:1", max_restarts=1)
    assert code not in (0, 1, 2, 130)
    assert "restart 1 of 1" in output and "weights" not in output


@each_mpi
def test_tinydl_train_goes_on_in_the_folder_of_its_run(python, tmp_path):
    """Rank 1 kills itself in its second epoch; the run's folder holds every epoch once, and the result."""
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "import tinydl as tl\n"
        "class Die(tl.layers.Layer):\n"
        "    'Of rank 1, in the first start of the job, after 30 steps.'\n"
        "    steps = 0\n"
        "    def compute_output_shape(self, shape): return shape\n"
        "    def forward(self, x, training=False):\n"
        "        Die.steps += training\n"
        "        doomed = os.environ['TINYDL_RESTART'] == '0' and tl.distributed.world().rank == 1\n"
        "        if doomed and Die.steps == 30: os.kill(os.getpid(), 9)\n"
        "        return x\n"
        "    def backward(self, g): return g\n"
        "    def config(self): return {}\n"
        "def build(input_shape, classes, seed):\n"
        "    return tl.Sequential([tl.layers.Flatten(), Die(), tl.layers.Dense(classes)], seed=seed)\n"
    )
    runs = tmp_path / "runs"
    words = [
        "-m",
        "tinydl",
        "train",
        f"{tmp_path}/mine.py:build",
        "--epochs",
        2,
        "--batch-size",
        64,
    ]
    code, output = run(python, *words, "--runs", runs, max_restarts=1)
    assert "restart 1 of 1" in output
    assert code == 0, output
    (folder,) = runs.iterdir()
    assert (folder / "result.json").exists()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
