"""A module that is named in a string is imported too: such names stand under the floors of import-linter as well."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINTED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
ROOMS = LINTED["root_packages"]
NAMED = re.compile(rf"((?:{'|'.join(ROOMS)})(?:\.\w+)+)(?::(\w+))?")


def _named() -> Iterator[tuple[str, str, str | None]]:
    """Who names a module in a string, which one, and which of its names."""
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            source = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found = NAMED.fullmatch(node.value)
                    if found:
                        yield source, found[1], found[2]


NAMES = sorted(set(_named()), key=str)


def _height(layers: list[str], name: str) -> int | None:
    """How far below the top a room stands, None where a contract does not know it."""
    return next((number for number, floor in enumerate(layers) if name in floor.split(" | ")), None)


def _upwards(source: str, target: str) -> bool:
    """Whether a contract forbids the import: the target stands as high as the source, or above."""
    for contract in LINTED["contracts"]:
        if contract["type"] != "layers":
            continue
        for container in contract.get("containers", [""]):
            prefix = f"{container}." if container else ""
            if not (source.startswith(prefix) and target.startswith(prefix)):
                continue
            who, whom = (name.removeprefix(prefix).split(".")[0] for name in (source, target))
            above, below = _height(contract["layers"], who), _height(contract["layers"], whom)
            if who != whom and above is not None and below is not None and above >= below:
                return True
    return False


def test_names_in_strings_are_found_and_judged_by_the_floors() -> None:
    assert ("relay_billing.broker.options", "relay_billing.broker.posting", "Amqp") in NAMES
    assert _upwards("config.celery", "worker.celery")
    assert _upwards("relay_billing.broker.posting", "relay_billing.broker.options")
    assert not _upwards("worker.celery", "tasks.settle")


@pytest.mark.parametrize(("source", "target", "attribute"), NAMES)
def test_a_module_named_in_a_string_is_there_and_stands_below(source: str, target: str, attribute: str | None) -> None:
    file = ROOT.joinpath(*target.split(".")).with_suffix(".py")
    assert file.is_file() or file.with_suffix("").is_dir(), f"{source} names {target}"
    if attribute is not None:
        defined = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
        assert attribute in defined
    assert not _upwards(source, target), f"{source} names {target}, which stands above it"
