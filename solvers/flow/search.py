"""Flow placement, the driver: picks the method by what binds, and answers with a certificate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from gpuplan.errors import UnsupportedError, UsageError
from gpuplan.plans.flow_solution import FlowSolution
from gpuplan.profiles.problems.flow import FlowProblem
from gpuplan.solvers.flow.baselines import BASELINES, rule, run_baseline
from gpuplan.solvers.flow.chains import dealt_out, short_chain
from gpuplan.solvers.flow.cover import CoverSearch, start
from gpuplan.solvers.flow.exact import search_exactly
from gpuplan.solvers.flow.incumbent import Incumbent
from gpuplan.solvers.flow.instance import instance_of
from gpuplan.solvers.flow.link_bounds import tightened
from gpuplan.solvers.flow.parts import part_of
from gpuplan.solvers.flow.regions import interleaved, links_bind, regions_of, search_regions
from gpuplan.solvers.flow.registry import FLOW_ENTRIES
from gpuplan.solvers.limits import Budget, Limits, refuse_memory
from gpuplan.solvers.result import Result

#: Solvers by name, with what they are.
FLOW_SOLVERS: Final[Mapping[str, str]] = MappingProxyType(
    {entry.name: f"{entry.kind}: {entry.doc}" for entry in FLOW_ENTRIES}
)
#: Links of a problem that a search lays out at most; larger ones are refused.
MOST_LINKS = 50_000_000
#: Bytes a search takes for each pair of nodes.
PAIR_BYTES = 64.0
#: Nodes up to which links that bind are searched without compiled code, so that no small problem waits for a compiler.
SMALL = 8
#: Efforts of the cover search before links that bind get their turn.
EFFORTS_BEFORE_REGIONS = 2
SHARE_BEFORE_REGIONS = 0.15
#: Shares of layers left to one node that covers with few hops are looked for with, and the budget for each.
SHARES_OF_SHORT_CHAINS = (0.6, 0.5, 0.4, 0.25, 0.1)
SHARE_OF_A_COVER = 0.15


def solve_flow(
    problem: FlowProblem,
    *,
    solver: str = "auto",
    limits: Limits | None = None,
    seed: int = 0,
    max_single_share: float | None = None,
) -> Result[FlowSolution]:
    """Place layers on nodes so that most tokens/s flow from source to sink.

    Parameters
    ----------
    problem
        The cluster; its `max_hops` is kept to.
    solver
        A name of `FLOW_SOLVERS`.
    limits
        Time, work and cancellation; the default is 60 s.
    seed
        Of every random choice; equal seeds and work limits give equal answers.
    max_single_share
        Largest share of the layers that may be held by one node alone (0: every layer has a second holder), or None.

    Returns
    -------
    Result
        ``optimal`` with bound and gap 0; ``feasible`` with an upper bound and the gap; ``infeasible`` with reasons when
        no placement passes tokens through all layers; ``no_solution`` when a limit came first.
        `report.bound_kind` says how the bound was proven.

    Raises
    ------
    UsageError
        For an unknown solver or a share outside 0 to 1.
    UnsupportedError
        For a solver that cannot take this problem.
    """
    _check(problem, solver, max_single_share)
    budget = Budget(limits or Limits())
    refuse_memory("a flow placement", PAIR_BYTES * problem.num_nodes**2, budget.limits)
    incumbent = Incumbent(problem, instance_of(problem), budget)
    if max_single_share is not None:
        incumbent.single_layers = math.floor(max_single_share * problem.num_layers + 1e-9)
    reasons = shortages(problem, incumbent.single_layers)
    if reasons:
        return incumbent.result(solver, seed, reasons)
    if solver in BASELINES:
        return run_baseline(solver, incumbent, seed)
    if solver == "flow-milp":
        from gpuplan.solvers.flow.milp import solve_milp

        return solve_milp(incumbent, seed)
    tight = tightened(problem)
    if tight is not problem:  # same flows, and bounds that know what the links of a node let through
        incumbent = Incumbent(tight, instance_of(tight), budget, single_layers=incumbent.single_layers)
        incumbent.notes.append("throughputs capped by what the links of a node carry")
    return _auto(incumbent, seed)


def shortages(problem: FlowProblem, single_layers: int | None = None) -> list[str]:
    """Return why no placement can pass tokens through all layers: sentences; none when nothing obvious is short.

    `single_layers` is the most layers that may be left to one node, or None.
    """
    table = problem.throughput_table()
    useful = np.where(table > 0.0, np.arange(table.shape[1]), 0).max(axis=1)[problem.node_kinds]
    reasons = []
    held = int(useful.sum())
    if held < problem.num_layers:
        short = problem.num_layers - held
        reasons.append(f"all nodes together hold at most {held} of {problem.num_layers} layers, {short} short")
    elif single_layers is not None and held < 2 * problem.num_layers - single_layers:
        needed = 2 * problem.num_layers - single_layers
        reasons.append(
            f"all nodes together hold at most {held} layers, {needed - held} short of two holders for all but"
            f" {single_layers} of {problem.num_layers} layers"
        )
    if problem.max_hops is not None:
        chain = int(np.sort(useful)[::-1][: problem.max_hops + 1].sum())
        if chain < problem.num_layers <= held:
            nodes = problem.max_hops + 1
            reasons.append(
                f"with at most {problem.max_hops} hops a chain has {nodes} nodes, which hold at most {chain} of"
                f" {problem.num_layers} layers; allow more hops"
            )
    for capacity, words in (
        (problem.source_tokens_per_s, "from the source"),
        (problem.sink_tokens_per_s, "to the sink"),
    ):
        if not capacity[useful > 0].any():
            reasons.append(f"no node that holds layers has a link {words}")
    if not reasons and not _connected(problem, useful > 0):
        reasons.append("no chain of links leads from the source to the sink")
    return reasons


def _connected(problem: FlowProblem, useful: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> bool:
    reached = (problem.source_tokens_per_s > 0.0) & useful
    while True:
        further = reached | ((problem.link_tokens_per_s[reached] > 0.0).any(axis=0) & useful)
        if (further == reached).all():
            return bool((reached & (problem.sink_tokens_per_s > 0.0)).any())
        reached = further


def _check(problem: FlowProblem, solver: str, share: float | None) -> None:
    if solver not in FLOW_SOLVERS:
        raise UsageError(f"expected a flow solver ({', '.join(FLOW_SOLVERS)}), got {solver!r}")
    if share is not None and not 0.0 <= share <= 1.0:
        raise UsageError(f"expected the share of layers on one node to be 0 to 1, got {share!r}")
    if share is not None and solver == "flow-milp":
        raise UnsupportedError("flow-milp cannot limit layers on one node; use auto, or drop that limit")
    if problem.num_nodes**2 > MOST_LINKS:
        raise UnsupportedError(
            f"flow placement handles up to {math.isqrt(MOST_LINKS)} nodes, got {problem.num_nodes}; plan parts of it"
        )


def _auto(incumbent: Incumbent, seed: int) -> Result[FlowSolution]:
    problem, instance = incumbent.problem, incumbent.instance
    ends = min(float(problem.source_tokens_per_s.sum()), float(problem.sink_tokens_per_s.sum()))
    incumbent.lower_bound_to(ends, "links of the source and the sink")
    top = instance.aggregate_bound()
    if problem.max_hops is not None:
        from gpuplan.solvers.flow.stages import hop_bound

        top = min(top, math.ceil(hop_bound(instance, problem.max_hops + 1)))
    master, prices = start(incumbent, max(top, 1))
    cover = CoverSearch(incumbent, master, prices)
    if problem.max_hops is not None:
        _with_few_hops(incumbent, cover, seed)
    elif links_bind(problem, incumbent.bound):
        _with_binding_links(incumbent, cover, seed)
    else:
        incumbent.notes.append("no link binds: covers are flows")
        cover.run()
    reasons = []
    if incumbent.solution is None and (cover.upper <= 0 or incumbent.bound <= 0.0):
        reasons.append("no placement within the limits passes any tokens: proven by search")
    if incumbent.solution is None and not reasons:
        reasons += _by_a_chain(incumbent)
        if not reasons:
            _by_a_rule(incumbent, seed)
    return incumbent.result("auto", seed, reasons)


def _by_a_rule(incumbent: Incumbent, seed: int) -> None:
    """Offer what rules have until there is some placement, the quickest first: a limit came before any other."""
    for name in ("swarm", "separate-pipelines", "homogeneous", "petals"):
        outcome, before = rule(name)(incumbent.problem, seed), incumbent.value
        if not isinstance(outcome, str) and incumbent.offer(outcome) > before:
            incumbent.notes.append(f"a limit came before the search had a placement: that of {name}")
        if incumbent.solution is not None:
            return


def _by_a_chain(incumbent: Incumbent) -> list[str]:
    """Take a single chain of nodes, the others beside them; return why nothing can flow where there is none."""
    problem = incumbent.problem
    chain = short_chain(problem)
    if chain and incumbent.offer(chain) + incumbent.offer(dealt_out(problem, chain)) > 0.0:
        incumbent.notes.append("a limit came before the search had a placement: the stages of a chain of nodes")
    hops = "" if problem.max_hops is None else f" of at most {problem.max_hops} hops"
    return [f"no chain of nodes{hops} holds all layers: proven by search"] if chain == [] else []


def _with_binding_links(incumbent: Incumbent, cover: CoverSearch, seed: int) -> None:
    regions = regions_of(incumbent.problem, incumbent.bound)
    incumbent.order = interleaved(incumbent.problem, regions)
    cover.run(EFFORTS_BEFORE_REGIONS, SHARE_BEFORE_REGIONS)
    if incumbent.closed or incumbent.budget.exhausted():
        return
    if incumbent.problem.num_nodes <= SMALL:
        incumbent.notes.append("links bind: branch and bound over placements")
        if search_exactly(incumbent):
            return
    search_regions(incumbent, regions, incumbent.place(cover.best), cover.upper, seed)


def _with_few_hops(incumbent: Incumbent, cover: CoverSearch, seed: int) -> None:
    from gpuplan.solvers.flow.stages import best_stages

    hops = incumbent.problem.max_hops
    assert hops is not None
    incumbent.notes.append(f"at most {hops} hops: covers whose flow keeps to them, and stages of equal ranges")
    cover.run(1)
    if not incumbent.closed:
        ranges = best_stages(cover.master, hops + 1, cover.upper, incumbent.budget)
        if ranges:
            incumbent.offer(incumbent.place(ranges))
    if incumbent.closed or (incumbent.problem.num_nodes <= SMALL and search_exactly(incumbent)):
        return
    _with_shared_layers(incumbent, cover.upper)
    if not incumbent.closed:
        cover.run(EFFORTS_BEFORE_REGIONS)
    if not incumbent.closed and links_bind(incumbent.problem, incumbent.bound):
        regions = regions_of(incumbent.problem, incumbent.bound)
        search_regions(incumbent, regions, incumbent.place(cover.best), cover.upper, seed)


def _with_shared_layers(incumbent: Incumbent, top: int) -> None:
    """Offer covers whose layers mostly have several holders: their chains are short."""
    problem = incumbent.problem
    for share in SHARES_OF_SHORT_CHAINS:
        single = math.floor(share * problem.num_layers)
        if incumbent.closed or incumbent.budget.exhausted():
            return
        known = incumbent.single_layers
        if (known is not None and known < single) or shortages(problem, single):
            continue
        budget = part_of(incumbent.budget, SHARE_OF_A_COVER)
        inner = Incumbent(problem, incumbent.instance, budget, single_layers=single)
        master, prices = start(inner, max(top, 1))
        if not prices.impossible(problem.num_layers):
            CoverSearch(inner, master, prices, covers_first=True).run(EFFORTS_BEFORE_REGIONS)
        incumbent.budget.spend(budget.work)
        if inner.solution is not None:
            incumbent.offer(inner.solution.placement)
