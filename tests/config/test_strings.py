"""The text after the colon of --config: names, paths with any characters, settings."""

import re
import shlex

import pytest

from configs import folder, study, vtab
from noah_jax import config as config_lib
from noah_jax.errors import UserError

ODD = ["cats+dogs", "a,b", "c++", "seed=1,method=lora", "a b", "+", "x:y", "'quoted'", "ünï"]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_of_any_name(name, tmp_path):
    (tmp_path / name).mkdir()
    for argument in (f'"{tmp_path}/{name}",seed=3', f'{tmp_path}/"{name}",seed=3'):
        (run,) = config_lib.expand(folder.get_config(argument))
        assert (run.task, run.data_dir, run.seed) == (name, str(tmp_path.resolve()), 3)
    (tmp_path / "other").mkdir()
    runs = config_lib.expand(folder.get_config(f'{tmp_path}/other+"{tmp_path}/{name}"'))
    assert [run.task for run in runs] == ["other", name]


def test_other_configs_take_quotes_too(tmp_path):
    (tmp_path / "c++").mkdir()
    runs = config_lib.expand(vtab.get_config(f'"c++"+kitti,data_dir="{tmp_path},x"'))
    assert [(run.task, run.data_dir) for run in runs] == [
        ("c++", f"{tmp_path},x"),
        ("kitti", f"{tmp_path},x"),
    ]
    runs = config_lib.expand(study.get_config(f'"{tmp_path}/c++"+digits,seeds=1,method=lora'))
    assert [run.task for run in runs] == ["c++", "digits"]


@pytest.mark.parametrize("name", ["cats+dogs", "c++", "a,b", "a,b,c"])
def test_without_quotes_the_message_says_how(name, tmp_path):
    """Its command works, as a shell reads it, with the path that was meant."""
    (tmp_path / name).mkdir()
    with pytest.raises(UserError) as error:
        folder.get_config(f"{tmp_path}/{name},method=lora")
    (example,) = re.findall(r"as in (--config=.*)$", str(error.value))
    (flag,) = shlex.split(example.replace("/data/cats+dogs", f"{tmp_path}/{name}"))
    (run,) = config_lib.expand(folder.get_config(flag.split(":", 1)[1]))
    assert (run.task, run.method) == (name, "lora")


def test_a_quote_that_is_not_closed(tmp_path):
    with pytest.raises(UserError, match="a quote is not closed"):
        folder.get_config(f'"{tmp_path},method=lora')


@pytest.mark.parametrize(
    ("task", "name", "data_dir"),
    [("hf://me/pets", "pets", "hf://me"), ("hf://mnist", "mnist", "hf://")],
)
def test_names_on_the_hub(task, name, data_dir):
    (run,) = config_lib.expand(folder.get_config(f"{task},seed=1"))
    assert (run.task, run.data_dir) == (name, data_dir)
    with pytest.raises(UserError, match="several tasks must be in one folder"):
        folder.get_config(f"{task}+/tmp")


def test_files_are_tasks(tmp_path):
    (tmp_path / "labels.csv").touch()
    (run,) = config_lib.expand(folder.get_config(f"{tmp_path}/labels.csv"))
    assert (run.task, run.data_dir) == ("labels.csv", str(tmp_path.resolve()))
    with pytest.raises(UserError, match="there is no folder or file .*/other.csv$"):
        folder.get_config(f"{tmp_path}/other.csv")


def test_joined_names_are_split_again():
    assert config_lib.split_names(config_lib.join_names(["a+b", "c", "d,e"])) == ["a+b", "c", "d,e"]
