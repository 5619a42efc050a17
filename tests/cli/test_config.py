"""A run's TOML file: what is refused names its line, what was expected and the nearest right name."""

import pytest

from tinydl.cli.config import ConfigError, RunConfig, check_config, read_config


def problems(tmp_path, text):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as info:
        read_config(file)
    return str(info.value).removeprefix(str(file)).splitlines()


def test_an_empty_file_gives_the_defaults(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("")
    assert read_config(file) == RunConfig()


def test_every_section_is_read(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        '[data]\ndataset = "mnist"\naugment = true\n[model]\narchitecture = "lenet"\n'
        '[optimizer]\nname = "sgd"\nmomentum = 0.9\n[training]\nepochs = 3\nschedule = "cosine"\n'
    )
    run = read_config(file)
    assert (run.data.dataset, run.data.augment, run.model.architecture) == ("mnist", True, "lenet")
    assert run.optimizer.arguments() == {"momentum": 0.9}
    assert (run.training.epochs, run.training.schedule) == (3, "cosine")


def test_unknown_key_names_line_and_nearest(tmp_path):
    (line,) = problems(tmp_path, "[training]\nepochs = 3\n\nbatchsize = 8\n")
    assert line.startswith(":4: training.batchsize: unknown key (did you mean 'batch_size'?)")
    assert "epochs" in line


def test_unknown_section_names_nearest(tmp_path):
    (line,) = problems(tmp_path, "[trainin]\nepochs = 3\n")
    assert line.startswith(":1: trainin: unknown key (did you mean 'training'?)")


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("[training]\nepochs = 0\n", ":2: training.epochs: ", "greater than or equal to 1, got 0"),
        ('[training]\nepochs = "many"\n', ":2: training.epochs: ", "got 'many'"),
        ('[training]\n# c\nschedule = "cos"\n', ":3: training.schedule: ", "'cosine'"),
        ("[training]\nepochs = true\n", ":2: training.epochs: ", "valid integer, got True"),
        (
            '[data]\nroot = "a"\nimage_size = "8"\n',
            ":3: data.image_size: ",
            "valid integer, got '8'",
        ),
        ("[optimizer]\nbeta_1 = 2\n", ":2: optimizer.beta_1: ", "in [0, 1), got 2"),
        ('[optimizer]\nlearning_rate = "fast"\n', ":2: optimizer.learning_rate: ", "got 'fast'"),
        ("[data]\nvalidation_split = 1.0\n", ":2: data.validation_split: ", "less than 1"),
        ("training.epochs = -1\n", ":1: training.epochs: ", "got -1"),
        (
            '[distributed]\ncompression = "zip"\n',
            ":2: distributed.compression: ",
            "bfloat16, float16,",
        ),
        ("[distributed]\ncompression = 8\n", ":2: distributed.compression: ", "table such as {"),
        ('training = { epochs = "x" }\n', ":1: training.epochs: ", "got 'x'"),
    ],
)
def test_bad_value_names_line_and_value(tmp_path, text, start, words):
    (line,) = problems(tmp_path, text)
    assert line.startswith(start)
    assert words in line


def test_optimizer_arguments_are_checked_against_the_optimizer(tmp_path):
    (line,) = problems(tmp_path, '[optimizer]\nname = "adam"\nbeta1 = 0.9\n')
    assert line.startswith(
        ":3: optimizer.beta1: Adam has no argument 'beta1' (did you mean 'beta_1'?)"
    )


def test_unknown_optimizer_names_nearest(tmp_path):
    (line,) = problems(tmp_path, '[optimizer]\nname = "adamm"\n')
    assert line.startswith(":2: optimizer.name: unknown optimizer 'adamm' (did you mean 'adam")


def test_all_problems_are_listed_at_once(tmp_path):
    assert len(problems(tmp_path, "[training]\nepochs = 0\nseed = -1\nfoo = 2\n")) == 3


def test_not_toml_and_not_there(tmp_path):
    (line,) = problems(tmp_path, "[training\n")
    assert "not valid TOML" in line and "line 1" in line
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "absent.toml")


def test_round_trip_through_json():
    run = check_config({"optimizer": {"name": "sgd", "momentum": 0.5}})
    assert check_config(run.model_dump(mode="json")) == run
