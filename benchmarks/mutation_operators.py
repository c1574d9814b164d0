"""The small changes of ``mutation.py``: what could be a slip of the hand, and still compiles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
PAIRS = [("min", "max"), ("any", "all"), ("minimum", "maximum"), ("argmin", "argmax"), ("floor", "ceil")]
NAMES = dict(PAIRS) | {second: first for first, second in PAIRS}


class Mutant(NamedTuple):
    """``before``, the bytes ``start`` to ``stop`` of a file, becomes ``after``; ``function`` is the line of its own."""

    file: str
    line: int
    start: int
    stop: int
    before: str
    after: str
    function: int

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.stop :]


def mutants_of(file: str, source: bytes) -> Iterator[Mutant]:
    """Every change to ``source``, in the order of its lines."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, function in walk(ast.parse(source), 0):
        for part, after in changes(node):
            start, stop = (
                starts[row - 1] + column
                for row, column in ((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset))
            )
            yield Mutant(file, part.lineno, start, stop, source[start:stop].decode(), after, function)


def walk(node: ast.AST, function: int) -> Iterator[tuple[ast.AST, int]]:
    """Expressions and statements with the line at which their function begins, as its code object says; 0 outside."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        # Decorators and defaults belong to what is around it.
        for outer in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            yield from walk(outer, function)
        function = min(part.lineno for part in (node, *node.decorator_list))
        for statement in node.body:
            yield from walk(statement, function)
        return
    if isinstance(node, ast.Lambda):  # a code object of its own; who makes it mostly calls it
        yield from walk(node.body, function)
        return
    if isinstance(node, (ast.stmt, ast.expr)):
        yield node, function
    if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)):
        return  # what errors say is for other tests
    if isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.unparse(node.annotation):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "ctx"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from walk(child, function)


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """What of ``node`` is changed, and to what."""
    if isinstance(node, (ast.If, ast.IfExp, ast.While)) and isinstance(node.test, (ast.Name, ast.Attribute, ast.Call)):
        yield node.test, f"(not {ast.unparse(node.test)})"
    for after in replacements(node):
        yield node, after


def replacements(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Compare():
            for i, operator in enumerate(node.ops):
                ops = [*node.ops[:i], COMPARISONS[type(operator)](), *node.ops[i + 1 :]]
                yield _text(ast.Compare(node.left, ops, node.comparators))
        case ast.BinOp() if type(node.op) in OPERATORS:
            yield _text(ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right))
        case ast.BoolOp():
            yield _text(ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield _text(node.operand)
        case ast.Constant(value=bool()):
            yield repr(not node.value)
        case ast.Constant(value=int()):
            yield from (str(node.value + 1), f"({node.value - 1})")
        case ast.Constant(value=float()):
            yield repr(2 * node.value if node.value else 1.0)
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            yield _text(ast.Call(ast.Name(NAMES[name]), node.args, node.keywords))
        case ast.Call(func=ast.Attribute(value=owner, attr=name)) if name in NAMES:
            yield _text(ast.Call(ast.Attribute(owner, NAMES[name]), node.args, node.keywords))
        case ast.AugAssign() | ast.Raise() | ast.Expr(value=ast.Call()):
            yield "pass"
        case ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
            yield "pass"
        case ast.Continue():
            yield "break"
        case ast.Break():
            yield "continue"


def _text(node: ast.expr) -> str:
    return f"({ast.unparse(node)})"
