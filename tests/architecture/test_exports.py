"""What `import softprompt` offers: every promised name is there, and nothing else."""

from __future__ import annotations

import ast
import re
from importlib.metadata import version
from pathlib import Path

import pytest

import softprompt


@pytest.mark.parametrize("name", softprompt.__all__)
def test_every_exported_name_can_be_fetched(name: str) -> None:
    assert getattr(softprompt, name) is not None


def test_dir_lists_the_exported_names_in_order() -> None:
    assert dir(softprompt) == sorted(softprompt.__all__)


def test_lazy_homes_are_the_ones_type_checkers_see() -> None:
    tree = ast.parse(Path(softprompt.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == softprompt._HOMES
    assert set(seen) | {"__version__"} == set(softprompt.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(
        AttributeError, match=re.escape("module `softprompt` has no attribute `trian`; did you mean `train`?")
    ):
        softprompt.trian  # noqa: B018


def test_version_is_the_installed_one() -> None:
    assert softprompt.__version__ == version("softprompt")
