"""A plan written down for engines that are not Python's: SQL with pgvector or sqlite-vec, and Vespa."""

from __future__ import annotations

import re
from typing import Protocol

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PGVECTOR = {"cosine": ("<=>", "vector_cosine_ops"), "dot": ("<#>", "vector_ip_ops"), "l2": ("<->", "vector_l2_ops")}
SQLITE_VEC = {"cosine": "vec_distance_cosine", "l2": "vec_distance_L2"}
VESPA = {
    "cosine": "cosine_similarity(query({q}), attribute({x}), x)",
    "dot": "sum(query({q}) * attribute({x}))",
    "l2": "-euclidean_distance(query({q}), attribute({x}), x)",
}
VESPA_METRICS = {"cosine": "angular", "dot": "dotproduct", "l2": "euclidean"}
MOST_PHASES = 3


class Plan(Protocol):
    """What is written down of a :class:`mrl.FunnelPlan`."""

    @property
    def dims(self) -> tuple[int, ...]: ...

    @property
    def shortlists(self) -> tuple[int, ...]: ...

    @property
    def metric(self) -> str: ...

    @property
    def width(self) -> int: ...


def to_sql(plan: Plan, table: str, *, column: str, key: str, parameter: str, dialect: str) -> str:
    """One query that is the funnel: every stage orders what the one inside of it has kept."""
    for name, value in (("table", table), ("column", column), ("key", key)):
        _check_identifier(name, value)
    if dialect not in ("pgvector", "sqlite-vec"):
        raise ValueError(f"dialect: expected 'pgvector' or 'sqlite-vec', got {dialect!r}; choose one")
    if dialect == "sqlite-vec" and plan.metric not in SQLITE_VEC:
        raise ValueError(f"metric: expected one of {tuple(SQLITE_VEC)} for sqlite-vec, got {plan.metric!r}")
    inner, lines = table, []
    for stage, (dim, kept) in enumerate(zip(plan.dims, plan.shortlists, strict=True), 1):
        last = stage == len(plan.dims)
        order = _order(plan, dim, column, parameter, dialect)
        columns = key if last else f"{key}, {column}"
        source = inner if stage == 1 else f"(\n{_indented(inner)}\n) AS stage_{stage - 1}"
        inner = f"SELECT {columns} FROM {source}\nORDER BY {order}\nLIMIT {kept}"
    if dialect == "pgvector":
        dim, operators = plan.dims[0], PGVECTOR[plan.metric][1]
        indexed = column if dim == plan.width else f"(subvector({column}, 1, {dim})::vector({dim}))"
        lines = [
            "-- The index makes the first stage approximate, and fast; without it the funnel is exact.",
            f"CREATE INDEX ON {table} USING hnsw ({indexed} {operators});",
            f"SET hnsw.ef_search = {min(1000, max(40, plan.shortlists[0]))};",
            "",
        ]
    return "\n".join([*lines, f"{inner};", ""])


def _order(plan: Plan, dim: int, column: str, parameter: str, dialect: str) -> str:
    whole = dim == plan.width
    if dialect == "sqlite-vec":
        sides = [x if whole else f"vec_slice({x}, 0, {dim})" for x in (column, parameter)]
        return f"{SQLITE_VEC[plan.metric]}({', '.join(sides)})"
    given = f"{parameter}::vector({plan.width})"
    sides = [x if whole else f"subvector({x}, 1, {dim})::vector({dim})" for x in (column, given)]
    return f" {PGVECTOR[plan.metric][0]} ".join(sides)


def to_vespa(plan: Plan, *, field: str, name: str) -> str:
    """Fields of the prefixes, and a rank profile whose phases are the stages."""
    for what, value in (("field", field), ("name", name)):
        _check_identifier(what, value)
    if len(plan.dims) > MOST_PHASES:
        raise ValueError(f"dims: expected at most {MOST_PHASES} stages, Vespa's phases, got {plan.dims}; plan fewer")
    names = [field if m == plan.width else f"{field}_{m}" for m in plan.dims]
    queries = [f"q_{m}" for m in plan.dims]
    lines = ["# in the document: prefixes are fed beside the vector, each normalised by itself for cosine"]
    for place, (m, x) in enumerate(zip(plan.dims, names, strict=True)):
        index = "attribute | index" if place == 0 else "attribute"
        lines += [f"field {x} type tensor<float>(x[{m}]) {{", f"    indexing: {index}"]
        lines += ["    attribute {", f"        distance-metric: {VESPA_METRICS[plan.metric]}", "    }"] * (place == 0)
        lines.append("}")
    phases = ["first-phase", "second-phase", "global-phase"]
    lines += ["", f"rank-profile {name} {{", "    inputs {"]
    lines += [f"        query({q}) tensor<float>(x[{m}])" for q, m in zip(queries, plan.dims, strict=True)]
    lines.append("    }")
    for place, (phase, x, q) in enumerate(zip(phases, names, queries, strict=False)):
        lines += [f"    {phase} {{"]
        lines += [f"        rerank-count: {plan.shortlists[place - 1]}"] * (place > 0)
        lines += [f"        expression: {VESPA[plan.metric].format(q=q, x=x)}", "    }"]
    lines += ["}", "", "# the query"]
    nearest = f"{{targetHits: {plan.shortlists[0]}}}nearestNeighbor({names[0]}, {queries[0]})"
    lines += [f"# yql: select * from sources * where {nearest}", f"# hits: {plan.shortlists[-1]}", ""]
    return "\n".join(lines)


def _check_identifier(name: str, value: str) -> None:
    if not isinstance(value, str) or not IDENTIFIER.fullmatch(value):
        raise ValueError(f"{name}: expected letters, digits and underscores, got {value!r}; choose a plain name")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
