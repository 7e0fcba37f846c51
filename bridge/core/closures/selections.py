"""New arrays and objects, made of what several expressions give.

JMESPath's specification, "MultiSelect List" and "MultiSelect Hash". Of null both make null.
"""

from __future__ import annotations

from bridge.core.closures.code import Code, Tree, any_fails


def multi_select_list(_: Tree, codes: list[Code]) -> Code:
    """`[a, b]`."""
    runs = [code.run for code in codes]
    return Code(lambda value: None if value is None else [run(value) for run in runs], any_fails(codes))


def multi_select_hash(node: Tree, codes: list[Code]) -> Code:
    """`{name: a, other: b}`. `codes` are of what the names stand for."""
    runs = [(pair["value"], code.run) for pair, code in zip(node["children"], codes, strict=True)]
    return Code(lambda value: None if value is None else {name: run(value) for name, run in runs}, any_fails(codes))
