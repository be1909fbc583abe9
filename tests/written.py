"""The messages that the source writes: each expression given to an error, a note or a phase, as finished sentences.

Values are stand-ins, numbers from 70001. Names are followed to what they are assigned and to the arguments of every
call; of the alternatives of a message each one appears at least once, not each combination.
"""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "kvlab"
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if "language" not in path.parts]
STAND_IN = re.compile(r"700\d\d")
ERROR_FIELDS = ("expected", "found", "remedy")
FIRST = {  # the call -> which of its positional arguments are messages
    "progress": (0,),
    "_phase": (0,),
    "at": (0,),
    "Finding": (0, 2, 3),
    "Record": (0,),
}
NOTES = {"self.notes", "notes", "found"}  # lists that notes are appended to, in kvlab/align
CONFIG = PACKAGE / "train" / "config.py"


class Source:
    """All of kvlab, parsed: its functions and calls by name, its constants by module."""

    def __init__(self):
        self.trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
        self.functions, self.calls, self.scope, self.constants = {}, {}, {}, {}
        self.known = {}  # what an expression may say
        for tree in self.trees.values():
            for node in tree.body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    self.constants.setdefault(node.targets[0].id, []).append(node.value)
            self._visit(tree, None)

    def _visit(self, node, scope):
        self.scope[node] = scope
        if isinstance(node, ast.FunctionDef):
            self.functions.setdefault(node.name, []).append(node)
            scope = node
        if isinstance(node, ast.Call):
            self.calls.setdefault(called(node), []).append(node)
        for child in ast.iter_child_nodes(node):
            self._visit(child, scope)

    def messages(self):
        """(place, message) of all that is written."""
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                for value in self._given(path, node):
                    for text in self.texts(value):
                        yield f"{path.relative_to(PACKAGE)}:{value.lineno}", text

    def _given(self, path, node):
        if isinstance(node, ast.Call):
            name = called(node)
            yield from (keyword.value for keyword in node.keywords if keyword.arg in ERROR_FIELDS)
            yield from (node.args[place] for place in FIRST.get(name, ()) if place < len(node.args))
            if name == "append" and path.parent.name == "align" and ast.unparse(node.func.value) in NOTES:
                yield node.args[0]
            if name == "ValueError" and path == CONFIG:
                yield node.args[0]
        elif isinstance(node, ast.Dict):
            keys = [getattr(key, "value", None) for key in node.keys]
            yield from (value for key, value in zip(keys, node.values) if key in ERROR_FIELDS)

    def texts(self, node):
        """What an expression may say, its values numbered."""
        return [numbered(text) for text in self._texts(node)]

    def _texts(self, node):
        """Values are NUL characters."""
        if node not in self.known:
            self.known[node] = ["\0"]  # what comes back to itself is a value
            self.known[node] = list(dict.fromkeys(self._alternatives(node))) or ["\0"]
        return self.known[node]

    def _alternatives(self, node):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        if isinstance(node, ast.JoinedStr):
            return joined([self._texts(part) for part in node.values])
        if isinstance(node, ast.FormattedValue):
            return self._texts(node.value) if node.format_spec is None and node.conversion == -1 else []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            texts = joined([self._texts(node.left), self._texts(node.right)])
            return texts if any(re.search("[^\0]", text) for text in texts) else []  # a sum of numbers
        if isinstance(node, ast.IfExp):
            return self._texts(node.body) + self._texts(node.orelse)
        if isinstance(node, ast.BoolOp):
            return [text for value in node.values for text in self._texts(value)]
        if isinstance(node, ast.Name):
            return [text for value in self._values(node) for text in self._texts(value)]
        if isinstance(node, ast.Call) and len(self.functions.get(called(node), ())) == 1:
            returns = [n for n in ast.walk(self.functions[called(node)][0]) if isinstance(n, ast.Return) and n.value]
            texts = [text for n in returns for text in self._texts(n.value)]
            return texts if any(re.search(r"[a-z]{2}", text) for text in texts) else []
        return []

    def _values(self, name):
        """The expressions that a name may stand for where it is used."""
        scope = self.scope[name]
        while scope is not None:
            assigned = [value for node in ast.walk(scope) for value in assigned_to(name.id, node)]
            parameters = [argument.arg for argument in (*scope.args.args, *scope.args.kwonlyargs)]
            if name.id in parameters:
                assigned += self._arguments(scope, parameters, name.id)
            if assigned:
                return assigned
            scope = self.scope[scope]
        return self.constants.get(name.id, [])

    def _arguments(self, function, parameters, name):
        """What is given for a parameter, by all calls of a function of this name with so many parameters."""
        place = parameters.index(name) - (parameters[0] in ("self", "cls"))
        found = []
        homonyms = [other for other in self.functions[function.name] if len(other.args.args) == len(parameters)]
        for call in self.calls.get(function.name, []) if len(homonyms) == 1 else []:
            if len(call.args) + len(call.keywords) > len(parameters):
                continue  # of another function of this name
            found += [keyword.value for keyword in call.keywords if keyword.arg == name]
            if place < len(call.args) and not any(isinstance(a, ast.Starred) for a in call.args[: place + 1]):
                found.append(call.args[place])
        return found


def numbered(text):
    first, *others = text.split("\0")
    return first + "".join(f"{70001 + n}{part}" for n, part in enumerate(others))


def called(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def assigned_to(name, node):
    if isinstance(node, ast.Assign | ast.NamedExpr | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name) and target.id == name and node.value is not None:
                yield node.value
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts)
                yield from (value for part, value in pairs if isinstance(part, ast.Name) and part.id == name)


def joined(parts):
    """Each alternative of each part, the others at their first."""
    base = [options[0] for options in parts]
    texts = ["".join(base)]
    for place, options in enumerate(parts):
        texts += ["".join([*base[:place], option, *base[place + 1 :]]) for option in options[1:]]
    return texts
