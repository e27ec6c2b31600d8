"""The style of the code, where a program can check it: docstrings, the length of functions, where attributes are born."""

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache

import pytest
from scripting import ROOT

FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "partrain").rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef

# a docstring that begins like this continues the name, the file or an unspoken question
UNSPOKEN = {"what", "of", "that", "those", "how", "which", "where", "who", "so"}
# a function's begins with a verb, so with none of these
NO_VERB = UNSPOKEN | {"the", "a", "an", "its", "all", "each", "every", "whether", "as", "in", "on", "at", "for", "from"}
NO_VERB |= {
    "to",
    "with",
    "within",
    "by",
    "this",
    "it",
    "these",
    "if",
    "when",
    "one",
    "two",
    "more",
    "only",
    "no",
    "not",
}
# a class's begins with a noun, and its article or number where it has one
NO_NOUN = NO_VERB - {"the", "a", "an", "one", "two"}

SCREEN = 25  # lines of code; more need a reason
LONGEST = 40  # no reason is good enough for more


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def first_word(docstring: str) -> str:
    return docstring.split()[0].strip("`.,:;").lower()


@pytest.mark.parametrize("file", FILES)
def test_docstrings_begin_as_sentences_do(file: str) -> None:
    """Those of functions with a verb, those of classes with a noun, and none with a word that leaves a question open."""
    wrong = []
    for node in ast.walk(tree_of(file)):
        if not isinstance(node, ast.Module | ast.ClassDef | FUNCTION):
            continue
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue
        word = first_word(docstring)
        if isinstance(node, ast.Module):
            is_wrong = word in UNSPOKEN
        elif isinstance(node, ast.ClassDef):
            is_wrong = word in NO_NOUN
        else:
            is_wrong = word in NO_VERB or docstring[0] in "`([{0123456789"
        if is_wrong:
            wrong.append(docstring.splitlines()[0])
    assert wrong == []


def comment_lines(source: str) -> set[int]:
    """The numbers of lines that hold a comment and nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = source.splitlines()
    return {t.start[0] for t in tokens if t.type == tokenize.COMMENT and lines[t.start[0] - 1].lstrip().startswith("#")}


def lines_of_code(function: Function, source: str, comments: set[int]) -> int:
    """Lines of `function` but for its signature, docstrings, comments and blank lines."""
    first, last = function.body[0].lineno, function.end_lineno or function.lineno
    left_out = set(comments)
    for statement in ast.walk(function):  # its own docstring, and those of attributes
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            left_out |= set(range(statement.lineno, (statement.end_lineno or 0) + 1))
    lines = source.splitlines()
    return sum(number not in left_out and bool(lines[number - 1].strip()) for number in range(first, last + 1))


@pytest.mark.parametrize("file", FILES)
def test_functions_fit_on_a_screen(file: str) -> None:
    """A longer one has a comment above it that begins with "Long:" and says why."""
    source = (ROOT / file).read_text(encoding="utf-8")
    comments, lines = comment_lines(source), source.splitlines()
    too_long = []
    for node in ast.walk(tree_of(file)):
        if not isinstance(node, FUNCTION):
            continue
        count = lines_of_code(node, source, comments)
        above = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
        has_reason = above in comments and lines[above - 1].lstrip().startswith("# Long:")
        if count > (LONGEST if has_reason else SCREEN):
            too_long.append(f"{node.name}: {count}")
    assert too_long == []


def assigned(function: ast.AST) -> Iterator[str]:
    """Names of attributes of `self` that are assigned within `function`."""
    for node in ast.walk(function):
        is_stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if is_stored and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


@cache
def classes() -> dict[str, ast.ClassDef]:
    return {node.name: node for file in FILES for node in ast.walk(tree_of(file)) if isinstance(node, ast.ClassDef)}


def born(owner: ast.ClassDef) -> set[str]:
    """Attributes that `owner` or a class that it inherits from declares, or assigns in `__init__`."""
    names: set[str] = set()
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        if isinstance(node, FUNCTION) and node.name in ("__init__", "__post_init__"):
            names |= set(assigned(node))
        if isinstance(node, FUNCTION) and node.decorator_list:
            names.add(node.name)  # a property with a setter
    for base in owner.bases:
        name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
        if name in classes() and name != owner.name:
            names |= born(classes()[name])
    return names


@pytest.mark.parametrize("file", FILES)
def test_attributes_are_born_in_init(file: str) -> None:
    late = []
    for owner in ast.walk(tree_of(file)):
        if not isinstance(owner, ast.ClassDef):
            continue
        for method in owner.body:
            if isinstance(method, FUNCTION):
                late += [
                    f"{owner.name}.{name} in {method.name}" for name in assigned(method) if name not in born(owner)
                ]
    assert late == []


def test_the_checks_find_what_they_are_for() -> None:
    source = '''
class Late:
    """Where it goes wrong."""

    def begin(self) -> None:
        """What comes first."""
        self.attribute = 1
'''
    tree = ast.parse(source)
    owner = tree.body[0]
    assert isinstance(owner, ast.ClassDef)
    method = owner.body[1]
    assert isinstance(method, ast.FunctionDef)
    assert set(assigned(method)) - born(owner) == {"attribute"}
    assert first_word(ast.get_docstring(owner) or "") in UNSPOKEN
    assert first_word(ast.get_docstring(method) or "") in NO_VERB
    assert lines_of_code(method, source, comment_lines(source)) == 1
