"""YAML that a person wrote, as a mapping; refused are keys that stand twice, aliases that unfold to more than anyone writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foundation.errors import UserError

LARGEST = 2**20  # bytes
UNFOLDED = 100_000  # nodes, once every alias is replaced by what it stands for


def read_mapping(path: Path, what: str = "settings") -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty one.

    Raises:
        UserError: it cannot be read, is no YAML, holds no mapping, or is one that nobody writes by hand.
    """
    import yaml

    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UserError(f"cannot read the {what} in {path}: more than {LARGEST:,} bytes")
        text = content.decode()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _unfolded(node, f"cannot read the {what} in {path}")
        record = yaml.safe_load(text) or {}
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        lines = list(enumerate(text.splitlines()[: mark.line + 1 if mark else 0], start=1))
        written = [
            (number, row.strip()) for number, row in lines if row.strip()
        ]  # the mark may lie behind the last one
        line = f" (line {written[-1][0]}: {written[-1][1]!r})" if written else ""
        raise UserError(
            f"cannot read the {what} in {path}{line}: {error.problem or error.context}"
        ) from error
    except Exception as error:  # any bytes may lie there
        story = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read the {what} in {path}: {story}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} must hold `setting: value` lines, not a {type(record).__name__}")
    return record


def _unfolded(root: Any, where: str) -> int:
    """How many nodes there are once aliases are replaced, found without replacing them.

    Raises:
        UserError: too many, a part that holds itself, or a key that stands twice in one mapping.
    """
    import yaml

    sizes: dict[int, int] = {}
    within: set[int] = set()

    def size(node: Any) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in within:
            raise UserError(f"{where} (line {node.start_mark.line + 1}): it holds itself, by an alias")
        if id(node) not in sizes:
            within.add(id(node))
            if isinstance(node, yaml.MappingNode):
                _once(node, where)
                parts = [part for pair in node.value for part in pair]
            else:
                parts = node.value
            sizes[id(node)] = 1 + sum(map(size, parts))
            within.remove(id(node))
        if sizes[id(node)] > UNFOLDED:
            raise UserError(f"{where}: its aliases stand for more than {UNFOLDED:,} values")
        return sizes[id(node)]

    return size(root)


def _once(mapping: Any, where: str) -> None:
    seen: set[str] = set()
    for key, _ in mapping.value:
        name = str(key.value).replace("-", "_")
        if name in seen and key.tag.endswith(":str"):
            raise UserError(f"{where} (line {key.start_mark.line + 1}): {key.value} stands there twice")
        seen.add(name)
