"""Each file of the model can be read after the ones that it imports: no two import each other, not even inside a function."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import amt.model

FOLDER = Path(amt.model.__file__).parent


def imports(path: Path) -> set[str]:
    """Names of the model's own files that one of them imports, anywhere in it."""
    nodes = ast.walk(ast.parse(path.read_text()))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {module.removeprefix("amt.model.") for module in modules if module.startswith("amt.model.")}


def test_no_file_of_the_model_is_imported_by_what_it_imports():
    graph = {path.stem: imports(path) for path in FOLDER.glob("*.py") if path.stem != "__init__"}
    assert {"camera", "scene_solver"} <= graph["amt"]
    assert graph["dinov2"] >= {"features"}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
