"""The contents of a file are never run: no code here does that."""

import ast
import pathlib

import noah_jax

PACKAGE = pathlib.Path(noah_jax.__file__).parent
CONVERTER = PACKAGE / "pretrained/convert.py"
TORCH = {CONVERTER: 1, PACKAGE / "interop/torch_model.py": 2}  # how often they import it
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch"}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
ATTRIBUTES = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "os.system"}
FLAGS = {"allow_pickle", "shell"}


def _dangers(code: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.split(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                found.append(module)
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                found.append(name)
            case ast.Attribute(value=ast.Name()) if ast.unparse(node) in ATTRIBUTES:
                found.append(ast.unparse(node))
            case ast.keyword(arg=arg, value=value) if arg in FLAGS:
                if not (isinstance(value, ast.Constant) and value.value is False):
                    found.append(arg)
    return found


def test_the_converter_lets_torch_read_tensors_alone():
    calls = [
        node for node in ast.walk(ast.parse(CONVERTER.read_text())) if isinstance(node, ast.Call)
    ]
    loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
    assert len(loads) == 1
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in loads[0].keywords}
    assert options["weights_only"] == "True"


def test_nothing_runs_what_a_file_says():
    """No pickle, no eval, no YAML that makes objects, no shell; strings and docstrings aside."""
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.parent.glob("configs/*.py")]
    assert len(files) > 60
    for file in files:
        found = [name.split(".")[0] for name in _dangers(file.read_text())]
        assert found == ["torch"] * TORCH.get(file, 0), file
    bad = "import pickle\nnp.load(f, allow_pickle=True)\nyaml.load(f)\neval(s)\nimport torch.nn\n"
    assert sorted(_dangers(bad)) == ["allow_pickle", "eval", "pickle", "torch.nn", "yaml.load"]
