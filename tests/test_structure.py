"""The structure that CONTRIBUTING.md describes: no import circles, and no private names across modules."""

import ast
from pathlib import Path

import grimp
import networkx

import counterpoint

PACKAGE = Path(counterpoint.__file__).parent


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("counterpoint", cache_dir=None)
    imports = networkx.DiGraph(
        (module, imported)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        # `counterpoint` itself names its public objects for type checkers alone.
        if "counterpoint" not in (module, imported)
    )
    assert [sorted(circle) for circle in networkx.strongly_connected_components(imports) if len(circle) > 1] == []


def test_no_packages_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("counterpoint", cache_dir=None)
    packages = networkx.DiGraph()
    for module in graph.modules - {"counterpoint"}:
        for imported in graph.find_modules_directly_imported_by(module) - {"counterpoint"}:
            one, other = (name.split(".")[1] for name in (module, imported))
            if one != other:
                packages.add_edge(one, other)
    assert [sorted(circle) for circle in networkx.strongly_connected_components(packages) if len(circle) > 1] == []


def test_no_module_imports_a_private_name_of_another() -> None:
    private = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {alias.name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("counterpoint")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert private == []


def test_nobody_imports_the_command_line() -> None:
    graph = grimp.build_graph("counterpoint", cache_dir=None)
    importers = {
        module
        for imported in graph.modules
        if imported.startswith("counterpoint.cli")
        for module in graph.find_modules_that_directly_import(imported)
    }
    assert {module for module in importers if not module.startswith("counterpoint.cli")} == {"counterpoint.__main__"}
