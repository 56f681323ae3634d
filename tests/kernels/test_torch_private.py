"""The private names of PyTorch that AMT uses: all in one file, all there, and named where one is missing."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch

import amt
from amt.kernels import _torch_private

SOURCES = Path(amt.__file__).parent
FILE = SOURCES / "kernels" / "_torch_private.py"
NAMES = re.findall(r'find\("(torch\.[\w.]+)"\)', FILE.read_text())


def dotted(node) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def private_names(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.append(dotted(node))
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if re.match(r"torch\.(.+\.)?_[a-z]\w*", name, re.IGNORECASE)]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_is_there(name):
    assert _torch_private.find(name) is not None


def test_no_other_file_uses_a_private_name():
    assert private_names("import torch._dynamo\nfrom torch.utils import _pytree\ntorch._C.x(torch.ops.amt)") != []
    found = {
        str(path.relative_to(SOURCES)): names
        for path in SOURCES.rglob("*.py")
        if path != FILE and (names := private_names(path.read_text()))
    }
    assert found == {}


def test_a_name_that_is_gone_is_named(monkeypatch):
    monkeypatch.delattr(torch._C, "_AutoDispatchBelowAutograd")
    with pytest.raises(ImportError, match=r"PyTorch \S+ has no torch._C._AutoDispatchBelowAutograd, a private name"):
        importlib.reload(_torch_private)
    monkeypatch.undo()
    importlib.reload(_torch_private)
