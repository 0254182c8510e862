"""torch is an extra: running packed models must not need it, nor even import it."""

import ast
from pathlib import Path

import pytest

import bitsr
from without_torch import run_without_torch

PACKAGE = Path(bitsr.__file__).parent
TORCH_FREE = ("program", "format", "runtime", "engine", "export", "data", "evaluation", "cli")
FILES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if (parts := path.relative_to(PACKAGE).parts)[0] in TORCH_FREE or len(parts) == 1
)


def imported_at_module_level(tree: ast.Module) -> set[str]:
    """First parts of the names that importing the module imports: not in functions, not under `if TYPE_CHECKING:`."""
    names: set[str] = set()
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += [child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node]
    return names


def test_the_check_sees_imports() -> None:
    tree = ast.parse("try:\n    import torch.nn\nexcept ImportError:\n    pass\ndef f():\n    import scipy")
    assert imported_at_module_level(tree) == {"torch"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_torch_at_module_level(path: Path) -> None:
    assert "torch" not in imported_at_module_level(ast.parse(path.read_text(encoding="utf-8")))


def test_everything_torch_free_imports_without_torch() -> None:
    names = [".".join(("bitsr", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in FILES]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    done = run_without_torch(f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n")
    assert done.returncode == 0, done.stderr


def test_import_bitsr_brings_nothing_heavy() -> None:
    done = run_without_torch(
        "import bitsr\nheavy = {'torch', 'rich', 'tyro', 'PIL', 'tifffile'} & set(sys.modules)\nassert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


def test_torch_side_names_say_what_is_missing() -> None:
    done = run_without_torch("import bitsr\ntry:\n    bitsr.load\nexcept bitsr.BitsrError as error:\n    print(error)")
    assert "pip install 'bitsr[torch]'" in done.stdout, done.stderr


@pytest.mark.parametrize("name", bitsr.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert getattr(bitsr, name).__doc__


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        bitsr.nonsense  # noqa: B018
