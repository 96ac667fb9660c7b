"""What a compiled program moves and computes, by hand; and the command, on the devices here."""

import json
import types

import jax
import jax.numpy as jnp
import pytest

from bench import compiled, hlo
from noah_jax.vit import config as vit_config
from noah_jax.vit import execution

# As XLA prints for a GPU: a loop of 11 trips that slices its weights and calls a library.
GPU = """
HloModule jit_step, entry_computation_layout={(f32[11,8,16]{2,1,0}, f32[4,8]{1,0})->f32[4,16]{1,0}}

%fused_slice (param_0: f32[11,8,16], param_1: s32[]) -> f32[1,8,16] {
  %param_0 = f32[11,8,16]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,8,16]{2,1,0} dynamic-slice(%param_0, %param_1, %zero, %zero)
}

%body (carry: (s32[], f32[11,8,16], f32[4,8])) -> (s32[], f32[11,8,16], f32[4,8]) {
  %carry = (s32[], f32[11,8,16]{2,1,0}, f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %w = f32[11,8,16]{2,1,0} get-tuple-element(%carry), index=1
  %x = f32[4,8]{1,0} get-tuple-element(%carry), index=2
  %one = f32[1,8,16]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%fused_slice
  %flat = f32[8,16]{1,0} bitcast(%one)
  %gemm = (f32[4,16]{1,0}, s8[64]{0}) custom-call(%x, %flat), custom_call_target="__cublas$gemm", \
metadata={op_name="jit(step)/transpose(jvp(ViT))/dot_general"}, \
backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}
  ROOT %next = (s32[], f32[11,8,16]{2,1,0}, f32[4,8]{1,0}) tuple(%i, %w, %x)
}

%condition (carry.1: (s32[], f32[11,8,16], f32[4,8])) -> pred[] {
  %carry.1 = (s32[], f32[11,8,16]{2,1,0}, f32[4,8]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  %limit = s32[] constant(11)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (w.1: f32[11,8,16], x.1: f32[4,8]) -> f32[4,16] {
  %w.1 = f32[11,8,16]{2,1,0} parameter(0)
  %x.1 = f32[4,8]{1,0} parameter(1)
  %start = s32[] constant(0)
  %first = (s32[], f32[11,8,16]{2,1,0}, f32[4,8]{1,0}) tuple(%start, %w.1, %x.1)
  %while = (s32[], f32[11,8,16]{2,1,0}, f32[4,8]{1,0}) while(%first), condition=%condition, \
body=%body
  %y = f32[4,8]{1,0} get-tuple-element(%while), index=2
  %sum = f32[4,8]{1,0} all-reduce(%y), to_apply=%add, \
backend_config={"estimated_cycles":"250"}
  ROOT %out = f32[4,16]{1,0} concatenate(%sum, %sum), dimensions={1}
}
""".replace("\\\n", "")


def test_by_hand():
    slices, product, summed, joined = hlo.kernels(GPU)
    assert [k.kind for k in (slices, product, summed, joined)] == [
        *("copies", "products", "collectives", "copies")
    ]
    assert [k.times for k in (slices, product, summed, joined)] == [11, 11, 1, 1]
    assert slices.moved == 2 * 4 * 8 * 16 + 4  # of the weights only the slice, and the index
    assert product.operations == 2 * 4 * 8 * 16
    assert product.moved == 4 * (4 * 8 + 8 * 16 + 4 * 16) + 64
    assert (product.stage, slices.stage, summed.cycles) == ("backward", "other", 250)


def test_of_a_real_program():
    """Five products in a loop, however XLA fuses them."""

    def program(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    shapes = jax.ShapeDtypeStruct((32, 64), jnp.float32), jax.ShapeDtypeStruct((5, 64, 64), "f4")
    kernels = hlo.kernels(jax.jit(program).lower(*shapes).compile().as_text())
    assert sum(k.times * k.operations for k in kernels) == 5 * 2 * 32 * 64 * 64


@pytest.fixture
def absent(monkeypatch):
    """This machine's devices in the place of absent ones, and a small network."""
    monkeypatch.setitem(vit_config._SHAPES, "ti", (32, 3, 2))
    here = types.SimpleNamespace(devices=jax.devices()[:1])
    monkeypatch.setattr(compiled, "_topology", lambda device, hosts: here)
    plain = execution.Execution(unrolled=True)  # no options, which this compiler does not know
    monkeypatch.setattr(compiled, "_execution", lambda device, attention: plain)
    flags = "--backbone=vit_ti16 --image_size=32 --batch=2 --size=2 --genomes_per_call=1 "
    return [*flags.split(), "--attention=plain", "--rows=3"]


def test_the_command(absent, tmp_path, capsys):
    out, text = tmp_path / "compiled.json", tmp_path / "step.hlo"
    compiled.main(["--device=h200", "--program=step", *absent, f"--out={out}", f"--text={text}"])
    result = json.loads(out.read_text())
    for groups in (result["kinds"], result["stages"]):
        for key in ("gb", "kernels"):
            whole = result["all"][key]
            assert sum(row[key] for row in groups.values()) == pytest.approx(whole, abs=0.01)
    assert result["memory"]["planned_mb"] > 0
    assert result["stages"]["backward"]["kernels"] > 10
    assert text.read_text().startswith("HloModule")
    assert capsys.readouterr().out.splitlines()[1].startswith("all ")


def test_several_programs_are_a_line_each(absent, tmp_path, capsys):
    out = tmp_path / "compiled.json"
    compiled.main(["--device=h200", "--program=augmented+test", *absent, f"--out={out}"])
    result = json.loads(out.read_text())
    names = ["h200 augmented", "h200 test"]
    assert list(result["programs"]) == names
    trained, tested = (result["programs"][name] for name in names)
    assert "backward" in trained["stages"] and "backward" not in tested["stages"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["program", *names]


def test_bad_flags_are_named(capsys):
    for flags in (["--program=step+sleep"], ["--program=all", "--text=x.hlo"]):
        with pytest.raises(SystemExit):
            compiled.main(["--device=h200", *flags])
    said = capsys.readouterr().err
    assert "['sleep']" in said and "--text is for one program" in said
    with pytest.raises(SystemExit, match="'v5e'.*like v5e:2x4"):
        compiled.main(["--device=v5e"])


def test_a_slice_of_two_hosts(monkeypatch):
    asked = {}

    def note(**more):
        asked.update(more)
        raise RuntimeError("not here")

    monkeypatch.setattr(compiled.topologies, "get_topology_desc", note)
    with pytest.raises(SystemExit):
        compiled.main(["--device=v5e:2x4", "--hosts=2"])
    assert asked == {
        "platform": "tpu",
        "topology_name": "v5e:4x4",
        "chips_per_host_bounds": (2, 4, 1),
    }


def test_without_the_package_it_says_what_to_install(monkeypatch):
    def nothing(*args, **more):
        raise RuntimeError("no such platform")

    monkeypatch.setattr(compiled.topologies, "get_topology_desc", nothing)
    with pytest.raises(SystemExit, match="requirements-tpu.txt"):
        compiled.main(["--device=v5e:2x4"])
    with pytest.raises(SystemExit, match="requirements-cuda.txt"):
        compiled.main(["--device=h200"])
