"""Heads and GELU, which weights do not show: by name, by setting, and by a config beside them."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from flax import nnx

from noah_jax import pretrained
from noah_jax.config.settings import Config, RetrainSchedule
from noah_jax.data.arrays import from_arrays
from noah_jax.errors import UserError
from noah_jax.runtime.workdir import write_json
from noah_jax.training.opening import open_run
from noah_jax.vit import ViT, ViTConfig

NO_PROMPTS = {"vpt": 0, "lora": 0, "adapter": 0}
SHAPE = dict(hidden_size=384, num_hidden_layers=12, patch_size=16, image_size=32)
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def moco(tmp_path_factory):
    """A ViT-S/16 of 12 heads: its file without a config, and its class tokens by transformers."""
    config = transformers.ViTConfig(
        **SHAPE, num_attention_heads=12, intermediate_size=1536, layer_norm_eps=1e-6
    )
    return _model(transformers.ViTModel(config), tmp_path_factory.mktemp("moco"))


@pytest.fixture(scope="module")
def openclip(tmp_path_factory):
    """The image tower of a CLIP with the exact GELU, as its own config says."""
    config = transformers.CLIPVisionConfig(
        **SHAPE, num_attention_heads=6, intermediate_size=1536, hidden_act="gelu"
    )
    return _model(transformers.CLIPVisionModel(config), tmp_path_factory.mktemp("openclip"))


def _model(model, folder):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        model.eval().save_pretrained(folder)
        found = model(torch.tensor(IMAGES.transpose(0, 3, 1, 2)))
    expected = found.pooler_output if "CLIP" in type(model).__name__ else found[0][:, 0]
    (folder / "config.json").rename(folder / "its own.json")
    return folder / "model.safetensors", expected.numpy()


@pytest.fixture
def place(moco, openclip, tmp_path):
    """A function: which of the two → a folder with its file and these configs, or its own."""

    def make(which, configs=None, own=False):
        path = {"moco": moco, "openclip": openclip}[which][0]
        (tmp_path / "model.safetensors").symlink_to(path)
        configs = (
            {"config.json": json.loads((path.parent / "its own.json").read_text())}
            if own
            else configs
        )
        for name, values in (configs or {}).items():
            (tmp_path / name).write_text(json.dumps(values))
        return tmp_path / "model.safetensors"

    return make


def _open(path, **settings):
    """The run that these settings open, without any training."""
    images, labels = np.zeros((12, 32, 32, 3), np.uint8), np.arange(12) % 2
    images += np.arange(12, dtype=np.uint8)[:, None, None, None]
    values = dict(task="arrays", method="linear", image_size=32, normalisation="half")
    values["retrain"] = RetrainSchedule(batch_size=2)
    config = dataclasses.replace(Config(), weights=str(path), **values | settings)
    return open_run(config, path.parent / "run", from_arrays(images, labels, ["a", "b"], 0))


def _apart(run, expected):
    """How far the class tokens of that run's backbone are from the expected ones."""
    model = ViT(run.vit, NO_PROMPTS, rngs=nnx.Rngs(0))
    nnx.update(model, run.backbone)
    graphdef, state = nnx.split(model)

    @jax.jit
    def class_token(state, images):
        vit = nnx.merge(graphdef, state)
        return vit.norm(vit.features(images, np.zeros((12, 3), np.int32))[:, 0])

    return np.abs(class_token(state, IMAGES) - expected).max()


def test_heads_by_setting_by_name_and_by_the_config_beside(moco, place):
    path = place("moco")
    plain = _open(path, backbone="vit_s16")
    assert plain.vit.heads == 6 and plain.notes == () and _apart(plain, moco[1]) > 0.05
    for settings in (dict(backbone="vit_s16", heads=12), dict(backbone="vit_s16_moco")):
        run = _open(path, **settings)
        assert (
            _apart(run, moco[1]) < 1e-4
            and run.notes == ()
            and run.inputs.keys() == plain.inputs.keys()
        )
    path.unlink()
    run = _open(place("moco", own=True), backbone="vit_s16")
    assert _apart(run, moco[1]) < 1e-4
    assert (
        f"{path.parent}/config.json: num_attention_heads is 12, which is used; vit_s16 has 6"
        in run.notes
    )
    assert run.inputs["shape"] == "heads=12"


def test_the_names_of_moco_are_recognised(moco, tmp_path):
    tensors = safetensors.numpy.load_file(moco[0])
    tensors = {f"module.momentum_encoder.{name}": x for name, x in tensors.items()}
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(tensors, path)
    notes = _open(path, backbone="vit_s16").notes
    assert "has 12 heads, not 6: give --config.backbone=vit_s16_moco if it is one" in notes[-1]
    for settings in (dict(backbone="vit_s16_moco"), dict(backbone="vit_s16", heads=12)):
        assert len(_open(path, **settings).notes) == 1  # the prefix


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"patch_size": 16, "num_attention_heads": 12}),
        ("config.json", {"patch_size": [16, 16], "num_attention_heads": 12, "hidden_act": "gelu"}),
        ("config.json", {"vision_config": {"num_attention_heads": 12, "hidden_size": 384}}),
        ("config.json", {"encoder": {"num_attention_heads": 12, "patch_size": 16}, "decoder": {}}),
        ("config.json", {"image_config": {"num_attention_heads": 12, "patch_size": 16}}),
        (
            "config.json",
            {"architecture": "vit_small", "model_args": {"num_heads": 12, "depth": 12}},
        ),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"width": 384, "head_width": 32}}}),
        ("open_clip_config.json", {"vision_cfg": {"width": 384, "layers": 12, "head_width": 32}}),
    ],
)
def test_configs_of_all_programs_are_believed(name, values, place):
    run = _open(place("moco", {name: values}), backbone="vit_s16")
    assert run.vit.heads == 12
    assert any(re.search(f"{name}: .* is 12, which is used; vit_s16 has 6", x) for x in run.notes)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 1024, "num_attention_heads": 12},  # a language model's
        {"inputs": {"weights": "00"}, "heads": 3, "backbone": "vit_b16"},  # a run's
        {"architecture": "vit_small_patch16_224", "num_features": 384},
        {"model_cfg": {"vision_cfg": {"timm_model_name": "eva"}}},
    ],
)
def test_configs_that_say_nothing_of_a_vit_change_nothing(values, place):
    configs = {"config.json": values, "open_clip_config.json": values}
    run = _open(place("moco", configs), backbone="vit_s16")
    assert run.vit.heads == 6 and run.notes == ()


@pytest.mark.parametrize(
    ("values", "backbone", "message"),
    [
        (
            {"hidden_size": 768},
            "vit_s16",
            "hidden_size is 768, expected width 384; give --config.b",
        ),
        ({"num_hidden_layers": 24, "hidden_size": 1024}, "vit_s16", "backbone=vit_l16, or take"),
        (
            {"hidden_size": 384, "num_hidden_layers": 12},
            "vit_b16",
            "give --config.backbone=vit_s16, or",
        ),
        ({"hidden_size": 1536}, "vit_s16", "no shape here fits it: take the config away"),
        ({"num_attention_heads": 7}, "vit_s16", "heads 7 do not divide the width 384"),
        ({"num_attention_heads": "6"}, "vit_s16", "num_attention_heads is '6': expected a number"),
        ({"num_attention_heads": 10**30}, "vit_s16", "expected a number"),
        (
            {"num_attention_heads": {"a": [1, 2]}},
            "vit_s16",
            "num_attention_heads is dict: expected a number",
        ),
        ({"num_attention_heads": True}, "vit_s16", "num_attention_heads is True: expected a num"),
        ({"layer_norm_eps": -1}, "vit_s16", "layer_norm_eps is -1: expected a small number"),
        ({"rope_theta": 10000.0}, "vit_s16", "rope_theta is 10000.0: no ViT here has that"),
        ({"rope_parameters": {"rope_theta": 7}}, "vit_s16", "rope_theta is 7: no ViT here has"),
        ({"image_size": [64, 16]}, "vit_s16", "image_size is list: no ViT here has that"),
        ({"architecture": "vit_pe_core"}, "vit_s16", "architecture is 'vit_pe_core': no ViT h"),
        ({"hidden_act": "relu"}, "vit_s16", "hidden_act is 'relu': expected one of gelu"),
    ],
)
def test_what_is_beside_and_does_not_fit_is_refused(values, backbone, message, place):
    path = place("moco", {"config.json": {"patch_size": 16} | values})
    with pytest.raises(UserError, match="config.json") as error:
        _open(path, backbone=backbone)
    assert message in str(error.value)


def test_the_epsilon_is_believed(place):
    path = place("moco", {"config.json": {"patch_size": 16, "layer_norm_eps": 1e-12}})
    run = _open(path, backbone="vit_s16")
    assert run.vit.epsilon == 1e-12 and run.inputs["shape"] == "epsilon=1e-12"
    (note,) = run.notes
    assert "layer_norm_eps is 1e-12, which is used; vit_s16 has 1e-06" in note


def test_contradictions_are_refused(place):
    path = place("moco", {"config.json": {"patch_size": 16, "num_attention_heads": 12}})
    with pytest.raises(UserError, match="heads=3, but .*config.json: num_attention_heads is 12"):
        _open(path, backbone="vit_s16", heads=3)
    _open(path, backbone="vit_s16", heads=12)
    with pytest.raises(UserError, match="num_attention_heads is 12, but the ViT has 6"):
        pretrained.backbone(ViTConfig.named("vit_s16", image_size=32), str(path))
    values = {"vision_cfg": {"width": 384, "head_width": 64}}
    path.with_name("open_clip_config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="two configs disagree: .*open_clip_config.json: .* is 6"):
        _open(path, backbone="vit_s16")
    path.with_name("config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        _open(path, backbone="vit_s16")


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads 5 do not divide the width 384; use one of 1, 2, 3"):
        ViTConfig.named("vit_s16", heads=5)
    assert (
        ViTConfig.named("vit_b16_moco").heads == 12 and ViTConfig.named("vit_l16_moco").heads == 16
    )


def test_the_gelu_by_name_and_by_the_config_beside(openclip, place):
    path = place("openclip")
    quick = _open(path, backbone="vit_s16_clip")
    assert _apart(quick, openclip[1]) > 0.01
    (note,) = quick.notes
    assert f"no config beside {path} says which GELU" in note
    assert "OpenAI's CLIP (quick GELU) give vit_s16_clip" in note
    assert "OpenCLIP's own models (exact GELU) vit_s16_openclip" in note
    exact = _open(path, backbone="vit_s16_openclip")
    assert _apart(exact, openclip[1]) < 1e-4 and exact.notes == ()
    path.unlink()
    run = _open(place("openclip", own=True), backbone="vit_s16_clip")
    assert _apart(run, openclip[1]) < 1e-4
    (note,) = run.notes
    assert (
        "config.json: hidden_act is 'gelu', which is used; vit_s16_clip has the quick GELU" in note
    )


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"pool_type": "avg"}, "vision_cfg.pool_type is 'avg': no ViT here has that"),
        ({"head_width": 36}, "width / head_width is '384 / 36': expected a number"),
    ],
)
def test_what_openclip_states_and_no_vit_here_has(vision, message, place):
    path = place("moco", {"open_clip_config.json": {"vision_cfg": {"width": 384} | vision}})
    with pytest.raises(UserError, match=re.escape(message)):
        _open(path, backbone="vit_s16")


def test_openclips_further_keys_are_believed(place):
    vision = {"width": 384, "norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"}}
    run = _open(
        place("moco", {"open_clip_config.json": {"vision_cfg": vision}}), backbone="vit_s16"
    )
    assert (run.vit.epsilon, run.vit.tanh_gelu) == (1e-3, True) and len(run.notes) == 2


def test_a_link_to_weights_finds_their_config(place, tmp_path):
    path = place("moco", {"config.json": {"patch_size": 16, "num_attention_heads": 12}})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/w.safetensors").symlink_to(path)
    run = _open(tmp_path / "elsewhere/w.safetensors", backbone="vit_s16")
    assert run.vit.heads == 12


@pytest.mark.parametrize(
    ("name", "values", "quick"),
    [
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"width": 384}}}, False),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {}, "quick_gelu": True}}, True),
        ("config.json", {"model_type": "clip", "vision_config": {"patch_size": 16}}, True),
        ("config.json", {"vision_config": {"hidden_act": "gelu"}}, False),
        ("config.json", {"architecture": "vit_small_patch16_clip_quickgelu_224"}, True),
        ("config.json", {"architecture": "x", "model_args": {"act_layer": "gelu"}}, False),
    ],
)
def test_every_way_to_state_a_gelu(name, values, quick, place):
    path = place("openclip", {name: values})
    for backbone in ("vit_s16_clip", "vit_s16_openclip"):
        run = _open(path, backbone=backbone)
        assert run.vit.quick_gelu == quick
        assert len(run.notes) == (quick != backbone.endswith("_clip"))


def test_a_run_knows_that_the_config_beside_has_changed(place):
    path = place("moco", {"config.json": {"patch_size": 16, "num_attention_heads": 12}})
    run = _open(path, backbone="vit_s16")
    run.workdir.mkdir()
    saved = dataclasses.asdict(run.config) | {"inputs": run.inputs}
    write_json(run.workdir / "config.json", saved)
    _open(path, backbone="vit_s16")
    path.with_name("config.json").unlink()
    with pytest.raises(UserError, match="the config beside the weights: not the same as there"):
        _open(path, backbone="vit_s16")
    with pytest.raises(UserError, match="heads: 0 there, 12 now"):
        _open(path, backbone="vit_s16", heads=12)


def test_named_backbones_ask_no_config(moco, monkeypatch, place):
    """A shared cache may hold anything beside them, and their shapes are known."""
    path = place("moco", own=True)
    monkeypatch.setattr("noah_jax.pretrained.loading.fetch", lambda _: path)
    state = pretrained.backbone(ViTConfig.named("vit_s16", image_size=32), "dino_vits16")
    assert (
        safetensors.numpy.load_file(path)["layernorm.weight"].shape == state["norm"]["scale"].shape
    )
