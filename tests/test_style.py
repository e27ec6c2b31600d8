"""The style of the code, where a program can check it: docstrings, functions, names and attributes of the package."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from scripting import ROOT

PACKAGE = ROOT / "partrain"

Function = ast.FunctionDef | ast.AsyncFunctionDef

# A docstring that begins like this continues the name, the file or an unspoken question.
UNSPOKEN = {"what", "of", "that", "those", "how", "which", "where", "who", "so"}
PREPOSITIONS = {"as", "at", "by", "for", "from", "if", "in", "on", "to", "when", "with", "within"}
# A function's begins with a verb, so with none of these.
NO_VERB = UNSPOKEN | PREPOSITIONS | {"a", "all", "an", "each", "every", "it", "its", "more", "no", "not", "one", "only"}
NO_VERB |= {"the", "these", "this", "two", "whether"}
# A class's begins with a noun, and its article or number where it has one.
NO_NOUN = NO_VERB - {"a", "an", "one", "the", "two"}

SCREEN = 25  # lines of code; more need a reason
LONGEST = 40  # no reason is good enough for more


class Source:
    """A file of Python code, parsed."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.lines = name, text.splitlines()
        self.tree = ast.parse(text)
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments = [token.start[0] for token in tokens if token.type == tokenize.COMMENT]
        self.comment_lines = {line for line in comments if self.lines[line - 1].lstrip().startswith("#")}

    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    def classes(self) -> list[ast.ClassDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]


def read_sources() -> list[Source]:
    paths: list[Path] = sorted(PACKAGE.rglob("*.py"))
    return [Source(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in paths]


SOURCES = read_sources()
CLASSES = {node.name: node for source in SOURCES for node in source.classes()}

BAD = Source(
    "bad.py",
    '''
"""What comes first."""


def spread(codes):
    """The codes, laid out."""


class Late:
    """Where it goes wrong."""

    def begin(self):
        spread = 1
        self.attribute = spread
'''
    + "        pass\n" * SCREEN,
)


def unspoken_docstrings(source: Source) -> Iterator[str]:
    """Yield docstrings of functions without a verb first, of classes without a noun, of modules that leave a question."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Module | ast.ClassDef | Function) or (docstring := ast.get_docstring(node)) is None:
            continue
        word = docstring.split()[0].strip("`.,:;").lower()
        if isinstance(node, Function):
            is_wrong = word in NO_VERB or not docstring[0].isalpha()
        else:
            is_wrong = word in (NO_NOUN if isinstance(node, ast.ClassDef) else UNSPOKEN)
        if is_wrong:
            yield f"{source.name}: {docstring.splitlines()[0]}"


def lines_of_code(function: Function, source: Source) -> int:
    """Return the lines of `function` but for its signature, docstrings, comments and blank lines."""
    left_out = set(source.comment_lines)
    for statement in ast.walk(function):  # its own docstring, and those of attributes
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            left_out |= set(range(statement.lineno, (statement.end_lineno or 0) + 1))
    body = range(function.body[0].lineno, (function.end_lineno or 0) + 1)
    return sum(line not in left_out and bool(source.lines[line - 1].strip()) for line in body)


def long_functions(source: Source) -> Iterator[str]:
    """Yield functions longer than a screen without a comment "# Long: why" above, or longer than any reason allows."""
    for function in source.functions():
        above = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)]) - 1
        has_reason = above in source.comment_lines and source.lines[above - 1].lstrip().startswith("# Long:")
        count = lines_of_code(function, source)
        if count > (LONGEST if has_reason else SCREEN):
            yield f"{source.name}: {function.name} has {count} lines"


def hidden_functions(source: Source) -> Iterator[str]:
    """Yield local names that hide a function, a class or an import of their module."""
    module_names = {node.name for node in source.tree.body if isinstance(node, Function | ast.ClassDef)}
    for node in source.tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module_names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    for function in source.functions():
        arguments = function.args
        names = {argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
        stored = [node for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        for name in sorted((names | {node.id for node in stored}) & module_names):
            yield f"{source.name}: {name} in {function.name}"


def assigned(function: Function) -> set[str]:
    """Return the attributes of `self` that `function` assigns."""
    stored = [
        node for node in ast.walk(function) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    ]
    return {node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id == "self"}


def declared(owner: ast.ClassDef) -> set[str]:
    """Return the attributes that `owner` or a base of it declares, assigns in `__init__` or makes a property."""
    names: set[str] = set()
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        if isinstance(node, Function) and node.name in ("__init__", "__post_init__"):
            names |= assigned(node)
        if isinstance(node, Function) and node.decorator_list:
            names.add(node.name)
    bases = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in owner.bases]
    return names.union(*(declared(CLASSES[base]) for base in bases if base in CLASSES and base != owner.name))


def late_attributes(source: Source) -> Iterator[str]:
    """Yield attributes that a method other than `__init__` makes."""
    for owner in source.classes():
        for method in owner.body:
            if isinstance(method, Function):
                late = sorted(assigned(method) - declared(owner))
                yield from (f"{source.name}: {owner.name}.{name} in {method.name}" for name in late)


def test_docstrings_begin_as_sentences_do() -> None:
    assert [wrong for source in SOURCES for wrong in unspoken_docstrings(source)] == []
    assert len(list(unspoken_docstrings(BAD))) == 3


def test_functions_fit_on_a_screen() -> None:
    assert [wrong for source in SOURCES for wrong in long_functions(source)] == []
    assert list(long_functions(BAD)) == [f"bad.py: begin has {SCREEN + 2} lines"]


def test_no_local_name_hides_a_function() -> None:
    assert [wrong for source in SOURCES for wrong in hidden_functions(source)] == []
    assert list(hidden_functions(BAD)) == ["bad.py: spread in begin"]


def test_attributes_are_made_in_init() -> None:
    assert [wrong for source in SOURCES for wrong in late_attributes(source)] == []
    assert list(late_attributes(BAD)) == ["bad.py: Late.attribute in begin"]
