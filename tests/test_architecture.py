"""The house rules of CONTRIBUTING.md as tests; each rule is also shown something that breaks it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("dispatcher", "consumers")
DOORS = {
    "dispatcher/cluster.py",
    "dispatcher/connection.py",
    "dispatcher/inspector.py",
    "dispatcher/reaching.py",
    "dispatcher/scripts.py",
    "dispatcher/store.py",
    "consumers/runners/rq.py",
}
KEYS = "dispatcher/keys.py"
MOST_FILE_LINES, MOST_FUNCTION_LINES, MOST_LEVELS = 400, 40, 3
DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.With, ast.AsyncWith)
LUA_TOKEN = re.compile(r"--[^\n]*|\"[^\"\n]*\"|'[^'\n]*'")
UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E|X{3})\b")


def files(*suffixes: str, folders: tuple[str, ...] = ()) -> list[Path]:
    """The repository's own files with these suffixes, of some folders or of all."""
    tops = [ROOT / name for name in folders] or [
        path
        for path in ROOT.iterdir()
        if not path.name.startswith(".") and path.name not in ("build", "dist")
    ]
    nested = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*"))]
    return sorted(path for path in nested if path.is_file() and path.suffix in suffixes)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for path in files(".py", folders=folders):
        yield named(path), ast.parse(path.read_text())


# --- Imports


def imports(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Each imported module, with the name taken from it or None, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((module, alias.name) for alias in node.names)


def imports_of(package: str, tree: ast.Module) -> list[str]:
    return [module for module, _ in imports(tree) if module.split(".")[0] == package]


def test_only_the_doors_import_redis():
    found = {name for name, tree in python(*SOURCES) if imports_of("redis", tree)}
    assert found - DOORS == set()


@pytest.mark.parametrize(
    "source", ["import redis.client", "def f():\n    from redis.retry import Retry"]
)
def test_an_import_of_redis_is_seen_wherever_it_stands(source):
    assert imports_of("redis", ast.parse(source))


EDGE = ("fastapi", "starlette", "uvicorn", "prometheus_client", "anyio")


def test_only_the_http_edge_imports_what_it_is_made_of():
    found = {
        (name, package)
        for name, tree in python(*SOURCES)
        for package in EDGE
        if imports_of(package, tree) and not name.startswith("dispatcher/http/")
    }
    assert found == set()


def test_a_command_that_serves_no_http_does_not_pay_for_it():
    source = """
import sys
from dispatcher.cli import cli
for name in cli.list_commands(None):
    cli.get_command(None, name)
cli(["--help"], standalone_mode=False)
print(sorted({name.split(".")[0] for name in sys.modules} & set(sys.argv[1:])))
"""
    command = [sys.executable, "-c", source, *EDGE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def listed(tree: ast.Module) -> list[str]:
    """What `__all__` lists."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if "__all__" in {target.id for target in targets if isinstance(target, ast.Name)}:
                return list(ast.literal_eval(node.value))
    return []


def unlisted(tree: ast.Module) -> set[str]:
    """Public names that a module imports and `__all__` leaves out."""
    found = [
        alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    names = {alias.asname or alias.name for alias in found}
    return {name for name in names if not name.startswith("_")} - set(listed(tree))


def package_init() -> ast.Module:
    return ast.parse((ROOT / "dispatcher/__init__.py").read_text())


def test_every_public_name_of_the_package_is_listed():
    assert unlisted(package_init()) == set()


def test_a_public_name_that_is_not_listed_is_seen():
    source = "from a import b as c, d, _e\n__all__ = ['d']"
    assert unlisted(ast.parse(source)) == {"c"}


def test_the_package_lists_names_that_exist_and_each_once():
    import dispatcher

    names = listed(package_init())
    assert names
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(dispatcher, name)] == []


def past_the_front_door(tree: ast.Module, public: set[str]) -> list[str]:
    """Imports that reach into dispatcher instead of taking what it exports."""
    return [
        f"{module}: {name}"
        for module, name in imports(tree)
        if module.split(".")[0] == "dispatcher"
        and (module != "dispatcher" or name not in {None, "__version__", *public})
    ]


def test_consumers_use_only_what_the_package_exports():
    public = set(listed(package_init()))
    found = {name: past_the_front_door(tree, public) for name, tree in python("consumers")}
    assert {name: reached for name, reached in found.items() if reached} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import dispatcher.store",
        "from dispatcher.store import Store",
        "from dispatcher import store",
    ],
)
def test_an_import_past_the_front_door_is_seen(source):
    assert past_the_front_door(ast.parse(source), {"Store"})


def test_nothing_imports_pickle():
    assert [name for name, tree in python() if imports_of("pickle", tree)] == []


def sleeps(tree: ast.Module) -> bool:
    called = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return "time.sleep" in called or ("time", "sleep") in set(imports(tree))


def test_nothing_sleeps():
    assert [name for name, tree in python() if sleeps(tree)] == []


@pytest.mark.parametrize("source", ["import time\ntime.sleep(1)", "from time import sleep"])
def test_a_sleep_is_seen(source):
    assert sleeps(ast.parse(source))


# --- Keys


def key_pattern() -> re.Pattern[str]:
    """Match a piece of a key: `:run:` or `:pools` anywhere, `run:` or `:run` as a whole literal."""
    from dispatcher import keys

    found = {match for row in keys.TABLE for match in re.findall(r":([a-z_]+)(:?)", f":{row[1]}")}
    pieces = [f":{word}{more}" + ("" if more else "(?![a-z_])") for word, more in found]
    whole = [f"^:{word}$|^{word}:$" for word, more in found if more]
    return re.compile("|".join(pieces + whole))


def python_literals(source: str) -> list[str]:
    """String literals, pieces of f-strings too, but no docstrings."""
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    literals = [n for n in nodes if isinstance(n, ast.Constant) and id(n) not in docstrings]
    return [node.value for node in literals if isinstance(node.value, str)]


def lua_literals(source: str) -> list[str]:
    return [token[1:-1] for token in LUA_TOKEN.findall(source) if not token.startswith("--")]


def spelled_keys(path: str, source: str) -> list[str]:
    literals = lua_literals(source) if path.endswith(".lua") else python_literals(source)
    return [literal for literal in literals if key_pattern().search(literal)]


def test_no_key_is_spelled_outside_keys():
    sources = {named(path): path.read_text() for path in files(".py", ".lua", folders=SOURCES)}
    sources.pop(KEYS)
    found = {path: spelled_keys(path, source) for path, source in sources.items()}
    assert {path: spelled for path, spelled in found.items() if spelled} == {}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("a.py", 'key = f"{prefix}:{{{pool}}}:run:{run_id}"'),
        ("a.py", 'key = prefix + ":pools"'),
        ("a.py", 'key = tag + "stream:" + queue'),
        ("a.lua", "local key = tag .. ':holder:' .. holder"),
    ],
)
def test_a_spelled_key_is_seen(path, source):
    assert spelled_keys(path, source)


def test_the_key_table_of_the_docs_is_the_one_in_keys():
    from dispatcher import keys

    _, _, rest = (ROOT / "docs/data-model.md").read_text().partition("<!-- keys -->\n")
    table, end, _ = rest.partition("<!-- /keys -->")
    assert end
    assert table.strip() == keys.markdown_table().strip()


# --- Size and words


def docstring_lines(node: ast.AST) -> int:
    first = node.body[0]
    return first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0


def length(function: ast.AST) -> int:
    return function.end_lineno - function.lineno + 1 - docstring_lines(function)


def levels(node: ast.AST, level: int = 0) -> int:
    inner = [n for n in ast.iter_child_nodes(node) if not isinstance(n, (*DEFS, ast.ClassDef))]
    return max([level, *(levels(n, level + isinstance(n, BLOCKS)) for n in inner)])


def functions(tree: ast.AST) -> list[ast.AST]:
    return [node for node in ast.walk(tree) if isinstance(node, DEFS)]


def first_function(source: str) -> ast.AST:
    return functions(ast.parse(source))[0]


def test_no_file_is_longer_than_400_lines():
    paths = files(".py", folders=(*SOURCES, "tests", "bench"))
    lines = {named(path): path.read_text().count("\n") for path in paths}
    assert {name: count for name, count in lines.items() if count > MOST_FILE_LINES} == {}


def test_no_function_is_longer_than_40_lines():
    found = [(name, f.name, length(f)) for name, tree in python(*SOURCES) for f in functions(tree)]
    assert [row for row in found if row[2] > MOST_FUNCTION_LINES] == []


def test_a_function_is_as_long_as_what_follows_its_docstring():
    assert length(first_function('def f():\n    """A.\n\n    B.\n    """\n    a()\n    b()')) == 3


def test_no_function_is_nested_deeper_than_3_levels():
    found = [(name, f.name, levels(f)) for name, tree in python(*SOURCES) for f in functions(tree)]
    assert [row for row in found if row[2] > MOST_LEVELS] == []


def test_each_block_inside_a_block_is_a_level():
    source = "def f():\n if a:\n  for b in c:\n   with d:\n    while e:\n     g()"
    assert levels(first_function(source)) == 4


def overloaded(node: ast.AST) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)


def undocumented(tree: ast.AST) -> list[str]:
    """Public functions, classes and methods without a docstring."""
    found = []
    for node in tree.body:
        if isinstance(node, (*DEFS, ast.ClassDef)) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None and not overloaded(node):
                found.append(node.name)
            if isinstance(node, ast.ClassDef):
                found += [f"{node.name}.{name}" for name in undocumented(node)]
    return found


def test_every_public_name_has_a_docstring():
    found = {name: undocumented(tree) for name, tree in python(*SOURCES)}
    assert {name: names for name, names in found.items() if names} == {}


def test_a_public_method_without_a_docstring_is_seen():
    assert undocumented(ast.parse('class A:\n    """A."""\n    def b(self): ...')) == ["A.b"]


def test_nothing_is_marked_as_unfinished():
    paths = files(".py", ".lua", ".md", ".toml", ".yml", ".sh", "")
    assert [named(path) for path in paths if UNFINISHED.search(path.read_text())] == []


def test_a_mark_of_something_unfinished_is_seen():
    assert UNFINISHED.search("-- " + "TO" + "DO: later")


def without_help(makefile: str) -> list[str]:
    targets = re.findall(r"^([a-z][\w-]*):(?!=)(.*)$", makefile, re.MULTILINE)
    return [name for name, rest in targets if not re.search(r" ## \S", rest)]


def test_every_make_target_has_a_line_of_help():
    assert without_help((ROOT / "Makefile").read_text()) == []


def test_a_make_target_without_help_is_seen():
    assert without_help("BIN := x\ngood: ## help\nbad: good\n\techo\n") == ["bad"]
