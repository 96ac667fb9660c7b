"""Which settings a method reads, and what is said of others; no mistyped name without a hint."""

import pytest

from configs import demo, folder, vtab
from noah_jax import config as config_lib
from noah_jax.errors import UserError
from tests.helpers.commands import run_module


def _told(method, *given, genome=""):
    """The complaint or the warning about keys that a user gives, with their defaults."""
    values = config_lib.defaults()
    values.task, values.method, values.genome = "cifar100", method, genome
    try:
        return config_lib.unread(config_lib.expand(values, given), given)
    except UserError as error:
        return str(error).partition("valid:\n  ")[2]


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        (
            "lora",
            ["space.lora"],
            "lora: method=lora does not read it; its key is baseline.lora",
        ),
        ("noah", ["baseline.lora"], "method=noah does not read it; its key is space.lora"),
        ("tuned_vpt", ["baseline.vpt"], "its key is baseline.tuned"),
        ("full", ["supernet.epochs"], "its key is retrain.epochs"),
        ("lora", ["search.population"], "not read by method=lora: search.population"),
        (
            "lora+vpt",
            ["retrain.inherit", "space.depths"],
            "+vpt: retrain.inherit, space.depths",
        ),
        ("random", ["search.mutations"], "not read by method=random: search.mutations"),
        ("lora", ["baseline.vpt"], "not read by method=lora: baseline.vpt"),
    ],
)
def test_a_key_that_no_method_of_the_runs_reads(method, given, said):
    """It is refused if it has a counterpart that was meant; else a warning names it."""
    assert _told(method, *given).endswith(said)


def test_what_is_read_by_one_of_the_runs_is_fine():
    for method, given in (
        ("noah", ["space.lora", "supernet.epochs", "search.parents", "retrain.inherit"]),
        ("lora+noah", ["space.lora", "baseline.lora", "search.population"]),
        ("sensitivity", ["space.lora", "search.budget_millions", "retrain.epochs"]),
        ("tuned", ["baseline.tuned", "search.least_millions", "seeds", "dropout"]),
    ):
        assert not _told(method, *given)
    # Flags for several methods are given to each in turn, as by a script.
    assert _told("lora", "space.lora", "baseline.lora").startswith("not read by method=lora")


def test_a_given_genome_stands_for_the_search(tmp_path):
    """The search's settings may stay in the command; baselines' were never meant."""
    (tmp_path / "best.json").write_text("[]")
    given = ["supernet.epochs", "space.lora", "genome", "retrain.epochs"]
    said = _told("noah", *given, genome=str(tmp_path / "best.json"))
    assert said == "not read by method=noah with a given genome: supernet.epochs, space.lora"


def test_keys_of_the_config_string():
    text = 'a,method=lora,space.lora=4,nothing=1,data_dir="/x,seed=1"'
    assert config_lib.named(text) == ["method", "space.lora", "data_dir"]
    assert config_lib.named('"a') == config_lib.named("") == []  # a config file may read it so


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--config.serach.budget_millions=1"], "serach.budget_millions (did you mean search.budg"),
        (["--config.epochs=1"], "epochs (did you mean supernet.epochs or retrain.epochs?)"),
        (["--config.searc=1"], "searc (did you mean search.…?)"),
        (["--workdri=x"], "no flag --workdri (did you mean --workdir?)"),
        (["--search.parents=1"], "--search.parents (did you mean --config.search.parents?)"),
        (["--config=configs/vtabb.py:dtd"], "configs/vtabb.py (did you mean configs/vtab.py?)"),
        (["--config", "vtab"], "no config vtab (did you mean configs/vtab.py?)"),
        (["--config.method=loraa"], "(did you mean lora?)"),
        (["--config.space.lora=4", "--config.method=lora"], "its key is baseline.lora"),
    ],
)
def test_a_mistyped_flag_gets_a_hint(flags, hint):
    done = run_module("noah_jax.main", "--config=configs/vtab.py:cifar100", *flags, code=2)
    assert hint in done.stderr


@pytest.mark.parametrize(
    ("config", "text", "hint"),
    [
        (vtab, "cifar100,metod=lora", "(did you mean method?)"),
        (vtab, "metod=lora", "no setting metod (did you mean method?), and no file metod=lora"),
        (demo, "metod=lora", "no setting metod (did you mean method?)"),
        (vtab, "cifar100,epochs=3", "(did you mean supernet.epochs or retrain.epochs?)"),
        (folder, "confgs", "no folder or file"),
    ],
)
def test_a_mistyped_config_string_gets_a_hint(config, text, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    with pytest.raises(UserError) as error:
        config.get_config(text)
    assert hint in str(error.value)
    assert "did you mean" in str(error.value)
