"""The ``gpuplan`` program."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from gpuplan import __version__
from gpuplan.cli.groups import CommandSpec, ProgramGroup

COMMANDS = {
    "map": CommandSpec("gpuplan.cli.map", "map_command", "Plan which layers go on which device (the main job)."),
    "pareto": CommandSpec("gpuplan.cli.pareto", "pareto_command", "The front over latency, bottleneck and devices."),
    "deploy": CommandSpec("gpuplan.cli.deploy", "deploy_command", "Plan replicas over a whole cluster."),
    "compare": CommandSpec("gpuplan.cli.compare", "compare_command", "Every solver and baseline on one instance."),
    "batch": CommandSpec("gpuplan.cli.batch", "batch_command", "Plan which requests run together, where and when."),
    "predict": CommandSpec(
        "gpuplan.cli.predict", "predict_command", "Learn output lengths from a history of requests."
    ),
    "iteration": CommandSpec(
        "gpuplan.cli.iteration", "iteration_command", "Parameters for engines that batch by iteration."
    ),
    "solve": CommandSpec("gpuplan.cli.solve", "solve_command", "Solve a problem file of plain numbers."),
    "verify": CommandSpec("gpuplan.cli.verify", "verify_command", "Recompute every number of a plan independently."),
    "export": CommandSpec("gpuplan.cli.export", "export_command", "Write a plan in the words of a runtime."),
    "topology": CommandSpec("gpuplan.cli.topology", "topology_group", "Show or convert what a cluster is made of."),
    "model": CommandSpec("gpuplan.cli.model", "model_group", "Show the layers, weights and KV cache of a model."),
    "profile": CommandSpec("gpuplan.cli.profile", "profile_group", "Show, compare, fit or measure cost sources."),
    "list": CommandSpec("gpuplan.cli.list", "list_command", "What ships and what is installed."),
}


HELP = """Plan how a large language model runs on real GPUs, with a proof of how good the plan is.

\b
A first plan:       gpuplan map llama-3.1-70b dgx-a100 -o plan.json
Your own machine:   nvidia-smi topo -m > topo.txt
                    gpuplan map config.json topo.txt --gpu a100-sxm4-80gb -o plan.json
Check it, run it:   gpuplan verify plan.json
                    gpuplan export plan.json --to vllm
"""  # click reads a line of one backspace as "keep these lines"


@click.command(
    "gpuplan",
    cls=ProgramGroup,
    specs=COMMANDS,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="gpuplan", message="%(prog)s %(version)s")
def cli() -> None:
    """Run the command that was named."""


def main() -> NoReturn:
    """Run the program; never returns."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 prints "?" instead of failing
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    cli()
    raise AssertionError("unreachable: the group exits")
