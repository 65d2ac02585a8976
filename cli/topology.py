"""``gpuplan topology``: what a cluster is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpuplan.cli.errors import ExitCode
from gpuplan.cli.groups import SuggestingGroup
from gpuplan.cli.options import TopologyOptions, format_option, output_option, topology_options
from gpuplan.cli.output import Output, check_writable, write_text
from gpuplan.cli.values import Whole
from gpuplan.errors import UsageError

if TYPE_CHECKING:
    from gpuplan.topology import Topology


@click.group("topology", cls=SuggestingGroup)
def topology_group() -> None:
    """Show, convert or draw what a cluster is made of."""


@topology_group.command("show")
@click.argument("cluster")
@topology_options
@format_option
def show(cluster: str, where: TopologyOptions, form: str) -> int:
    """Show the devices, links, islands and exchangeable devices of CLUSTER."""
    from gpuplan.cli.inputs import read_topology
    from gpuplan.topology import topology_report

    output = Output(data=form == "json")
    topology = read_topology(cluster, where, output)
    report = topology_report(topology)
    if output.data:
        output.document(report)
        return ExitCode.DONE
    from gpuplan.cli.topology_view import topology_view

    output.show(*topology_view(topology.name, report))
    return ExitCode.DONE


@topology_group.command("convert")
@click.argument("source")
@output_option("The cluster file to write: YAML, or JSON when it ends in .json.", required=True)
@click.option("--hosts", type=Whole(), help="Repeat the host this many times.")
@click.option("--fabric", metavar="NAME", help="The network between the hosts.")
@topology_options
def convert(source: str, output_path: Path, hosts: int | None, fabric: str | None, where: TopologyOptions) -> int:
    """Read SOURCE and write it as a gpuplan cluster file; --hosts N --fabric NAME joins N copies by a network."""
    from gpuplan.cli.inputs import read_topology

    output = Output(data=False)
    check_writable(output_path)
    if (hosts or 1) > 1 and fabric is None:
        raise UsageError("--hosts needs --fabric NAME, the network that joins the hosts")
    if fabric is not None and (hosts or 1) < 2:
        raise UsageError("--fabric needs --hosts N with N of at least 2, the hosts it joins")
    topology = read_topology(source, where, output)
    if hosts is not None and fabric is not None:
        from gpuplan.topology import replicate

        topology = replicate(topology, hosts, fabric)
    write_text(output_path, _text(topology, output_path))
    output.show(f"wrote {output_path}: {topology.num_devices} devices on {len(topology.hosts)} host(s)")
    return ExitCode.DONE


@topology_group.command("draw")
@click.argument("cluster")
@output_option("The picture to write, an SVG file.", required=True)
@topology_options
def draw(cluster: str, output_path: Path, where: TopologyOptions) -> int:
    """Draw CLUSTER: hosts, devices, switches and NICs as boxes, links coloured by bandwidth, with a legend."""
    from gpuplan.cli.inputs import read_topology
    from gpuplan.topology import draw as picture

    output = Output(data=False)
    if output_path.suffix.lower() != ".svg":
        raise UsageError(f"expected a file that ends in .svg, got {output_path.name!r}; the picture is SVG")
    check_writable(output_path)
    topology = read_topology(cluster, where, output)
    write_text(output_path, picture(topology))
    output.show(f"wrote {output_path}: {topology.num_devices} devices on {len(topology.hosts)} host(s)")
    return ExitCode.DONE


def _text(topology: Topology, path: Path) -> str:
    from gpuplan.cli.output import to_json
    from gpuplan.topology import topology_to_dict

    document = topology_to_dict(topology)
    if path.suffix.lower() == ".json":
        return to_json(document)
    import yaml

    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
