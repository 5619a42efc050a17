"""`tinydl train` as its user runs it: a folder with the whole record, and one clear line when something is wrong."""

import importlib.util
import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tinydl as tl
from tinydl.cli.main import app
from tinydl.distributed.launchers import LaunchError

runner = CliRunner()


def invoke(*arguments):
    return runner.invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """Two epochs of the default job, with the default network."""
    runs = tmp_path_factory.mktemp("runs")
    result = invoke("train", "--runs", runs, "--epochs", 2, "--batch-size", 64)
    assert result.exit_code == 0, result.output
    (folder,) = runs.iterdir()
    return result.output, folder


def test_the_last_line_is_the_test_accuracy(one_run):
    output, _ = one_run
    last = output.strip().splitlines()[-1]
    accuracy = re.fullmatch(r"test accuracy (\d+\.\d\d) %", last)
    assert accuracy and float(accuracy[1]) > 80


def test_the_folder_holds_the_whole_record(one_run):
    _, folder = one_run
    config = json.loads((folder / "config.json").read_text())
    assert config["training"]["epochs"] == 2 and config["data"]["dataset"] == "digits"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert rows[1]["loss"] < rows[0]["loss"] and "learning_rate" in rows[0]
    commit = json.loads((folder / "provenance.json").read_text())["commit"]
    assert commit is None or re.match(r"[0-9a-f]{40}", commit)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_model_predicts_what_was_reported(one_run):
    _, folder = one_run
    result = json.loads((folder / "result.json").read_text())
    model = tl.load(folder / "model.safetensors")
    data = tl.data.load("digits")
    standardize = tl.data.Standardize(**json.loads((folder / "preprocessing.json").read_text()))
    predicted = model.predict(standardize(data.x_test)).argmax(axis=-1)
    assert np.mean(predicted == data.y_test) == result["test_accuracy"]
    assert np.trace(result["confusion_matrix"]) == np.sum(predicted == data.y_test)


def write_images(folder, classes, sizes=(9, 9, 9, 9, 9, 9)):
    """PNG files of noise, brighter from class to class."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i, size in enumerate(sizes):
            pixels = rng.integers(0, 60, (size, size, 3)) + 90 * k
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def test_images_of_ones_own_in_all_sizes(own_model, tmp_path):
    folder = write_images(tmp_path / "mine", ["hünd 日本", "katze"], sizes=range(7, 17))
    arguments = ["--dataset", folder, "--runs", tmp_path / "r", "--epochs", 2, "--batch-size", 4]
    result = invoke("train", own_model, *arguments)
    assert result.exit_code == 1 and "to make them alike" in result.output
    result = invoke("train", own_model, *arguments, "--image-size", 6, "--color", "L")
    assert result.exit_code == 0, result.output
    assert "74 parameters" in result.output  # 6 · 6 · 2 + 2
    assert "hünd 日本" in result.output


def test_a_table_of_ones_own(own_model, tmp_path):
    rows = [f"{k % 2 + k / 100},{k},{'yes' if k % 2 else 'no'}" for k in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,answer", *rows]) + "\n")
    arguments = ["--dataset", tmp_path / "t.csv", "--runs", tmp_path / "r", "--epochs", 1]
    result = invoke("train", own_model, *arguments, "--label", "answer")
    assert result.exit_code == 0, result.output
    result = invoke("train", own_model, *arguments)
    assert result.exit_code == 1 and "no column 'label'" in result.output
    np.savez(tmp_path / "t.npz", x_train=[[0.0]], y_train=[0.5], x_test=[[1.0]], y_test=[1.5])
    result = invoke("train", own_model, "--dataset", tmp_path / "t.npz")
    assert result.exit_code == 1 and "one label a sample, of two classes" in result.output


def test_data_that_cannot_be_classified_are_refused_before_anything_is_written(own_model, tmp_path):
    runs = tmp_path / "r"
    one = write_images(tmp_path / "one", ["only"])
    result = invoke("train", own_model, "--dataset", one, "--runs", runs)
    assert result.exit_code == 1 and "two classes or more" in result.output
    result = invoke("train", own_model, "--image-size", 9, "--runs", runs)
    assert result.exit_code == 1 and "digits is read as it is" in result.output
    (tmp_path / "three.py").write_text(
        "import tinydl as tl\n"
        "def build(input_shape, classes, seed):\n"
        "    return tl.Sequential([tl.layers.Flatten(), tl.layers.Dense(3)])\n"
    )
    result = invoke("train", f"{tmp_path}/three.py:build", "--runs", runs)
    assert result.exit_code == 1 and "gives outputs of shape (3,): the 10 classes" in result.output
    assert not runs.exists()


@pytest.fixture
def own_model(tmp_path):
    """Multinomial logistic regression, in a file of one's own."""
    (tmp_path / "mine.py").write_text(
        "import tinydl as tl\n"
        "def build(input_shape, classes, seed):\n"
        "    return tl.Sequential([tl.layers.Flatten(), tl.layers.Dense(classes)], seed=seed)\n"
    )
    return f"{tmp_path}/mine.py:build"


def test_a_model_file_of_ones_own(own_model, tmp_path):
    result = invoke("train", own_model, "--runs", tmp_path / "r", "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "650 parameters" in result.output  # 64 · 10 + 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def build(shape):\n    pass\n", "is called as function(input_shape, classes, seed=seed)"),
        ("def build(shape, classes, seed):\n    return 3\n", "must return a model"),
        (
            "def build(shape, classes, seed):\n    return shape + classes\n",
            ":build, for input (8, 8, 1): TypeError: can only concatenate tuple",
        ),
        (
            "def build(shape, classes, seed):\n    return model\n",
            "mine.py:build, for input (8, 8, 1): NameError: name 'model' is not defined (line 2)",
        ),
        (
            "import tinydl as tl\n\n"
            "def build(shape, classes, seed):\n    return tl.Sequential([tl.layers.Dense(0)])\n",
            "Dense: units must be a whole number >= 1, got 0 (line 4)",
        ),
        (
            "import tinydl as tl\n\nclass Mine(tl.layers.Dense):\n"
            "    def build(self, input_shape, rng):\n        self.a = {}['width']\n\n"
            "def build(shape, classes, seed):\n    return tl.Sequential([Mine(3)])\n",
            "mine.py:build, for input (8, 8, 1): KeyError: 'width' (line 5)",
        ),
        (
            "import nothing_of_this_name\n",
            "mine.py cannot be imported: ModuleNotFoundError: No module named "
            "'nothing_of_this_name' (line 1)",
        ),
        (
            "import math\nSIZE = sise\n",
            "mine.py cannot be imported: NameError: name 'sise' is not defined (line 2)",
        ),
        ("def build(:\n    pass\n", "mine.py cannot be imported: "),
    ],
)
def test_what_a_model_file_does_wrong_is_said_with_its_name(text, words, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    result = invoke("train", f"{file}:build", "--runs", tmp_path / "runs")
    assert result.exit_code == 1
    assert words in result.output
    assert "mine.py" in result.output
    assert isinstance(result.exception, SystemExit)  # and no traceback


def test_a_learning_rate_of_zero_is_zero(own_model, tmp_path):
    runs = tmp_path / "r"
    result = invoke("train", own_model, "--runs", runs, "--epochs", 2, "--learning-rate", 0)
    assert result.exit_code == 0, result.output
    (folder,) = runs.iterdir()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["learning_rate"] for row in rows] == [0, 0]


def test_a_damaged_description_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    result = invoke("train", "--resume", tmp_path)
    assert result.exit_code == 1
    assert "config.json: not valid JSON: " in result.output


def test_a_run_that_goes_on_keeps_its_settings(one_run):
    _, folder = one_run
    result = invoke("train", "--resume", folder, "--epochs", 3)
    assert result.exit_code == 1
    assert "was started with training.epochs = 2" in result.output
    result = invoke("train", "--resume", folder, "--epochs", 2)
    assert result.exit_code == 0, result.output
    assert result.output.strip().splitlines()[-1].startswith("test accuracy")


def test_without_matplotlib_there_is_everything_but_the_picture(own_model, tmp_path, monkeypatch):
    monkeypatch.setattr("tinydl.cli.train.find_spec", lambda name: None)
    result = invoke("train", own_model, "--epochs", 1, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert "no picture of the curves: pip install 'tinydl[plots]'" in result.output
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "result.json").exists() and not (folder / "curves.png").exists()


@pytest.mark.parametrize(
    "command", [["launch", "-n", 2, "--", "true"], ["data", "fetch", "digits"]]
)
def test_brackets_in_an_error_are_shown(command, monkeypatch):
    """Rich takes [mpi] for the name of a style."""

    def fail(*args, **kwargs):
        raise {"launch": LaunchError, "data": tl.data.DataError}[command[0]](
            "pip install 'tinydl[mpi]'"
        )

    monkeypatch.setattr("tinydl.cli.launch.Launch", fail)
    monkeypatch.setattr("tinydl.cli.data.fetch_files", fail)
    assert "error: pip install 'tinydl[mpi]'" in invoke(*command).output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenett"], "unknown architecture 'lenett' (did you mean 'lenet'?)"),
        (["absent.py:build"], "there is no file absent.py"),
        (["--dataset", "mnistt"], "mnist"),
        (["--optimizer", "adan"], "did you mean 'adam"),
        (["--epochs", "0"], "error: command line: training.epochs: "),
        (["--learning-rate", "-1"], "command line: optimizer.learning_rate: learning_rate must be"),
        (["--schedule", "cosin"], "'cosine'"),
        (["--resume", "nowhere"], "is not the folder of a run"),
        (["--config", "absent.toml"], "absent.toml"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("train", *arguments)
    assert result.exit_code == 1
    assert words in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()


def test_without_a_gpu_one_line_says_what_is_missing(tmp_path):
    if importlib.util.find_spec("numba_cuda"):
        pytest.skip("numba-cuda is installed")
    run = tmp_path / "run.toml"
    run.write_text('[training]\ndevice = "cuda"\n')
    for arguments in (["--device", "cuda"], ["--config", run]):
        result = invoke("train", *arguments, "--runs", tmp_path / "runs")
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        (line,) = result.output.splitlines()
        assert line.startswith("error: device='cuda': numba-cuda")
        assert "is missing: pip install 'tinydl[cuda]'" in line
        assert not (tmp_path / "runs").exists()


def test_every_flag_shows_its_default():
    text = runner.invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    for flag, default in (("--epochs", "15"), ("--batch-size", "32"), ("--dataset", "digits")):
        assert re.search(rf"{flag} [^\[]*\[default: \(?{default}\)?\]", text), flag
