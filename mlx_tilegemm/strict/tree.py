"""Rules of Metal that clang's C++ for OpenCL does not have, checked in the syntax tree."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from .finding import Finding
from .syntax import FUNCTIONS, Node

_WANTED = ", which Metal wants before 4.1: device, constant, threadgroup or thread"
_SPACES = re.compile(r"\b__(?:generic|global|local|constant|private)\b\s*")
_TEMPLATE_ARGUMENTS = re.compile(r"<[^<>]*>")
_ARRAY_BOUNDS = re.compile(r"\[[^][]*\]")

_REFUSED = {
    "LambdaExpr": ("lambda", "lambdas need Metal 3.2"),
    "GotoStmt": ("goto", "Metal has no goto"),
    "IndirectGotoStmt": ("goto", "Metal has no goto"),
    "LabelStmt": ("goto", "Metal has no labels"),
    "GCCAsmStmt": ("asm", "Metal has no asm"),
    "CXXNewExpr": ("new", "Metal has no new"),
    "CXXDeleteExpr": ("new", "Metal has no delete"),
    "CXXThrowExpr": ("exception", "Metal has no exceptions"),
    "CXXTryStmt": ("exception", "Metal has no exceptions"),
    "CXXDynamicCastExpr": ("dynamic-cast", "Metal has no dynamic_cast"),
    "CXXTypeidExpr": ("typeid", "Metal has no typeid"),
    "VAArgExpr": ("variadic", "Metal has no variadic functions"),
}
_CERTAIN = frozenset(
    (
        "GotoStmt",
        "IndirectGotoStmt",
        "CXXNewExpr",
        "CXXDeleteExpr",
        "CXXThrowExpr",
        "CXXTryStmt",
    )
)
_HOLDERS = frozenset(("VarDecl", "ParmVarDecl", "FieldDecl"))
_EXPLICIT_CASTS = frozenset(
    ("CStyleCastExpr", "CXXFunctionalCastExpr", "CXXReinterpretCastExpr", "CXXStaticCastExpr")
)
_FLOAT_CASTS = frozenset(("FloatingCast", "IntegralToFloating"))


def findings(nodes: list[Node]) -> Iterator[Finding]:
    """Yield what the rules find in the nodes of a text."""
    for node in nodes:
        if node.place and not (node.function and node.function.implicit):
            yield from _node_findings(node)
    yield from _recursion(nodes)
    yield from _space_overloads(nodes)
    yield from _threadgroup_objects(nodes)


def varying_constants(nodes: Iterable[Node]) -> frozenset[tuple[str, int, str]]:
    """File, line and name of the constants that read a parameter or a variable and call nothing."""
    reading, calling = set(), set()
    for node in nodes:
        constant = _constant_around(node)
        if constant is None or constant.place is None:
            continue
        key = (constant.place.file, constant.place.line, constant.name)
        if node.kind == "DeclRefExpr" and _is_variable(node.raw.get("referencedDecl", {})):
            reading.add(key)
        elif node.kind.endswith(("CallExpr", "ConstructExpr", "DependentScopeDeclRefExpr")):
            calling.add(key)
    return frozenset(reading - calling)


def _constant_around(node: Node) -> Node | None:
    """The constant local variable whose initialiser holds a node."""
    around = node.parent
    while around and around.kind.endswith(("Expr", "Operator")):
        around = around.parent
    if around and around.kind == "VarDecl" and around.function and "const " in around.type:
        return around
    return None


def _is_variable(declaration: dict[str, Any]) -> bool:
    kind = str(declaration.get("type", {}).get("qualType", ""))
    is_held = declaration.get("kind") in ("ParmVarDecl", "VarDecl")
    return is_held and (declaration["kind"] == "ParmVarDecl" or "const" not in kind)


def _node_findings(node: Node) -> Iterator[Finding]:
    if node.kind in _REFUSED:
        yield _finding(node, *_REFUSED[node.kind], certain=node.kind in _CERTAIN)
    elif node.kind in _HOLDERS:
        yield from _variable_findings(node)
    elif node.kind in FUNCTIONS and not node.implicit:
        yield from _function_findings(node)
    elif node.kind == "CXXRecordDecl" and (bases := node.raw.get("bases")):
        yield _finding(
            node,
            "derived-class",
            f"{node.name} is derived; Metal has no derived classes",
            certain=any(base.get("isVirtual") for base in bases),
        )
    elif node.kind == "ImplicitCastExpr":
        yield from _cast_findings(node)
    elif node.kind in _EXPLICIT_CASTS and _is_bare(node.type, node.plain_type):
        yield _finding(
            node,
            "address-space",
            f"a cast to {node.type} names no address space{_WANTED}",
            certain=True,
        )
    elif node.kind == "CompoundAssignOperator":
        yield from _compound_findings(node)


def _variable_findings(node: Node) -> Iterator[Finding]:
    storage = node.raw.get("storageClass")
    inside = node.function is not None
    if inside and node.kind == "VarDecl" and storage in ("static", "extern"):
        yield _finding(node, "static-local", f"{node.name} is {storage} inside a function")
    if storage == "register" or node.raw.get("tls"):
        yield _finding(
            node, "storage", f"{node.name} has a storage class Metal refuses", certain=True
        )
    if not node.implicit and not _inside_lambda(node) and _lacks_space(node.type, node.plain_type):
        what = "reference" if "&" in node.type.rpartition("*")[2] else "pointer"
        yield _finding(
            node,
            "address-space",
            f"{what} {node.name} names no address space{_WANTED}; its type is {node.type}",
            certain=_is_bare(node.type, node.plain_type),
        )


def _inside_lambda(node: Node) -> bool:
    while node.parent:
        node = node.parent
        if node.kind == "LambdaExpr":
            return True
    return False


def _lacks_space(*spellings: str) -> bool:
    return any("__generic" in text or _open_pointer(text) for text in spellings)


def _is_bare(*spellings: str) -> bool:
    """Whether a pointer to a known type names no address space at all.

    MLX has references to pointers that name that of the pointer's target alone.
    """
    return any("__generic" in re.split("[*&]", text, maxsplit=1)[0] for text in spellings)


def _open_pointer(text: str) -> bool:
    """Whether a pointer to a type that depends on a template argument names no address space."""
    text = _ARRAY_BOUNDS.sub("", text)
    while _TEMPLATE_ARGUMENTS.search(text):
        text = _TEMPLATE_ARGUMENTS.sub("", text)
    pointee, star, _ = re.sub(r"\(([*&]).*\)", r"\1", text).rpartition("*")
    if not star:
        pointee, star, _ = text.rpartition("&")
    if not star or "auto" in pointee:
        return False
    innermost = pointee.rpartition("*")[2]
    return not _SPACES.search(innermost)


def _function_findings(node: Node) -> Iterator[Finding]:
    bound = node.raw.get("storageClass") != "static" and not _inside_lambda(node)
    if bound and node.type.endswith("__generic"):
        yield _finding(
            node,
            "member-function",
            f"{node.name} names no address space for its object: Metal 4.1 makes that generic; "
            "write it after the parameters, for example 'thread'",
        )
    result = node.type.partition("(")[0]
    if _lacks_space(result):
        message = f"{node.name} returns {result.strip()} without an address space{_WANTED}"
        yield _finding(node, "address-space", message, certain=_is_bare(result))
    if "noexcept" in node.type:
        yield _finding(node, "noexcept", "Metal has no noexcept")
    if node.name == "main":
        yield _finding(node, "main", "no function may be called main")


def _cast_findings(node: Node) -> Iterator[Finding]:
    if node.raw.get("castKind") not in _FLOAT_CASTS or node.raw.get("isPartOfExplicitCast"):
        return
    source = _child_type(node)
    if _is_bfloat(node.type):
        yield _finding(node, "bfloat", f"{source} becomes bfloat without a cast")
    if _is_bfloat(source) and _SPACES.sub("", node.type) != "float":
        yield _finding(node, "bfloat", f"bfloat becomes {node.type} without a cast")
    parent = node.parent
    if parent and parent.kind == "ConditionalOperator" and node.raw["castKind"] == "FloatingCast":
        yield _finding(
            node,
            "mixed-conditional",
            f"the arms of the conditional are {source} and {node.type}; cast one of them",
        )


def _compound_findings(node: Node) -> Iterator[Finding]:
    """Find ``x += y`` whose sum has another type than the bfloat it becomes."""
    computed = str(node.raw.get("computeResultType", {}).get("qualType", ""))
    if _is_bfloat(node.type) and not _is_bfloat(computed):
        yield _finding(node, "bfloat", f"{computed} becomes bfloat without a cast")


def _is_bfloat(spelling: str) -> bool:
    return _SPACES.sub("", spelling).replace("const ", "") in ("bfloat", "bfloat16_t", "__bf16")


def _child_type(node: Node) -> str:
    children = node.raw.get("inner") or [{}]
    return str(children[0].get("type", {}).get("qualType", "a value"))


def _recursion(nodes: list[Node]) -> Iterator[Finding]:
    """Find functions that can reach themselves."""
    first = {n.id: n.raw["previousDecl"] for n in nodes if n.raw.get("previousDecl")}

    def canonical(identity: str) -> str:
        while identity in first:
            identity = first[identity]
        return identity

    functions = {canonical(n.id): n for n in nodes if n.kind in FUNCTIONS}
    calls: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        target = _called(node)
        if target and node.function:
            calls[canonical(node.function.id)].add(canonical(target))
    for identity, node in functions.items():
        if node.place and _reaches(identity, calls):
            yield _finding(node, "recursion", f"{node.name} can call itself", certain=True)


def _called(node: Node) -> str | None:
    if node.kind == "DeclRefExpr":
        target = node.raw.get("referencedDecl", {})
        return str(target.get("id")) if target.get("kind") in FUNCTIONS else None
    if node.kind == "MemberExpr":
        return str(node.raw.get("referencedMemberDecl"))
    return None


def _reaches(start: str, calls: dict[str, set[str]]) -> bool:
    seen: set[str] = set()
    pending = list(calls.get(start, ()))
    while pending:
        current = pending.pop()
        if current == start:
            return True
        if current not in seen:
            seen.add(current)
            pending.extend(calls.get(current, ()))
    return False


def _space_overloads(nodes: Iterable[Node]) -> Iterator[Finding]:
    """Find overloads that differ in address spaces alone: a CPU build cannot tell them apart."""
    seen: dict[tuple[str, str, str, str], str] = {}
    for node in nodes:
        if node.kind not in FUNCTIONS or node.implicit or not node.place or _instance(node):
            continue
        scope = node.parent.parent if _template(node) and node.parent else node.parent
        shape = (scope.id if scope else "", node.name, _pattern(node), _SPACES.sub("", node.type))
        spelled = seen.setdefault(shape, node.type)
        if spelled != node.type:
            yield _finding(
                node,
                "space-overload",
                f"{node.name} differs from an overload in address spaces alone",
            )


def _threadgroup_objects(nodes: Iterable[Node]) -> Iterator[Finding]:
    """Find objects in threadgroup memory whose class has a constructor: nothing would call it."""
    constructed: set[str] = set()
    for node in nodes:
        if node.kind == "CXXRecordDecl":
            constructor = node.raw.get("definitionData", {}).get("defaultCtor", {})
            if constructor.get("nonTrivial"):
                constructed.add(node.name)
        elif node.kind == "VarDecl" and node.place and node.type.startswith("__local "):
            kind = re.split(r"[\[<]", node.type.removeprefix("__local "))[0].strip()
            if kind in constructed:
                yield _finding(
                    node, "threadgroup-object", f"{kind} has a constructor, which is not called"
                )


def _template(node: Node) -> bool:
    return (
        bool(node.parent) and node.parent is not None and node.parent.kind == "FunctionTemplateDecl"
    )


def _pattern(node: Node) -> str:
    """Return the template parameters of a function template, as far as they tell it apart."""
    if not _template(node) or node.parent is None:
        return ""
    kinds = [
        (child.get("kind"), child.get("type", {}).get("qualType"))
        for child in node.parent.raw.get("inner", ())
        if str(child.get("kind")).endswith("ParmDecl")
    ]
    return repr(kinds)


def _instance(node: Node) -> bool:
    """Whether a function is an instantiation: its template was looked at already."""
    return any(child.get("kind") == "TemplateArgument" for child in node.raw.get("inner", ()))


def _finding(node: Node, rule: str, message: str, *, certain: bool = False) -> Finding:
    assert node.place is not None
    return Finding(
        file=node.place.file,
        line=node.place.line,
        column=node.place.column,
        rule=rule,
        message=message,
        certain=certain,
    )
