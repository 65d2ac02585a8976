"""A picture of a topology as SVG: hosts as boxes, what is in them, the fabric between them, a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gpuplan.topology.drawing_host import HostGraph, HostPicture
from gpuplan.topology.drawing_style import MUTED, ROLES, Palette, describe, label
from gpuplan.topology.graph import Component, Link, Topology
from gpuplan.topology.svg import Canvas
from gpuplan.units import format_bandwidth, format_seconds

_MARGIN: Final = 28.0
_GAP: Final = 26.0
_TRUNK: Final = 46.0
_WIDEST: Final = 1640.0
#: More hosts than this are drawn once for each design, with how many there are.
_MOST_HOSTS: Final = 16
_MOST_DESIGNS: Final = 8
_MOST_SWITCHES: Final = 24
_ROLE_WORDS: Final = (
    ("device", "device"), ("nvswitch", "NVSwitch"), ("pcie_switch", "PCIe switch"), ("socket", "socket"),
    ("nic", "NIC"), ("network_switch", "network switch"),
)  # fmt: skip


def draw(topology: Topology) -> str:
    """Return a picture of `topology` as an SVG document.

    Hosts are boxes with their devices, NVSwitches, PCIe switches, sockets and NICs; links are coloured by bandwidth,
    and a legend names every kind. Links between PCIe devices that nest (all pairs under a switch, then between
    switches) are drawn as bars, a device's links to NICs only where they are its fastest. More than 16 hosts are drawn
    once for each design, with their number.
    """
    return _Page(topology).render()


class _Page:
    """The whole picture."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.canvas = Canvas()
        self.palette = Palette(topology.links)
        self.drawn: set[str] = set()
        self.host_of = {part.name: part.host for part in topology.components}
        self.host_of |= {device.name: device.host for device in topology.devices}
        self.hubs = [part for part in topology.components if part.role != "device" and part.host is None]
        graphs = self._graphs()
        compact = len(graphs) > 2 and max(len(graph.devices) for graph in graphs) > 4
        self.pictures = [HostPicture(graph, self.palette, compact) for graph in graphs]
        self.all_shown = len(graphs) == len(topology.hosts)

    # ----------------------------------------------------------------------------------------------------------- hosts

    def _graphs(self) -> list[HostGraph]:
        inside: dict[str, list[Link]] = {host: [] for host in self.topology.hosts}
        for link in self.topology.links:
            host = self.host_of[link.a]
            if host is not None and host == self.host_of[link.b] and host in inside:
                inside[host].append(link)
        relays: dict[str, list[Component]] = {host: [] for host in self.topology.hosts}
        for part in self.topology.components:
            if part.role != "device" and part.host in relays:
                relays[part.host].append(part)
        graphs = {host: HostGraph(host, [], relays[host], inside[host]) for host in self.topology.hosts}
        for device in self.topology.devices:
            graph = graphs[device.host]
            graph.devices = [*graph.devices, device] if len(graph.devices) < 4096 else graph.devices
            graph.rack = device.rack
        hosts = list(graphs.values())
        return hosts if len(hosts) <= _MOST_HOSTS else _designs(hosts)

    # ---------------------------------------------------------------------------------------------------------- layout

    def render(self) -> str:
        """Return the document."""
        rows = self._host_rows()
        top_hubs = [hub for hub in self.hubs if hub.role == "nvswitch"]
        fabric = [hub for hub in self.hubs if hub.role != "nvswitch"]
        left = _MARGIN + (_TRUNK if fabric and len(rows) > 1 else 0.0)
        widest = max(sum(picture.width for picture in row) + _GAP * (len(row) - 1) for row in rows)
        width = max(widest + left + _MARGIN, 620.0)
        y = self._header(width)
        rail_ys: list[float] = []
        nics: dict[str, tuple[float, float]] = {}
        for row in rows:
            room = width - left - _MARGIN - (widest if len(rows) > 1 else _row_width(row))
            y, nics_of_row = self._row(row, left + room / 2.0, y, top_hubs)
            nics |= nics_of_row
            if fabric and any(self._uplinks(nics_of_row)):
                y = self._rail(nics_of_row, y, rail_ys)
            y += _GAP
        if fabric:
            y = self._fabric(fabric, rail_ys, left, width, y)
        y = self._legend(width, y)
        hosts, count = len(self.topology.hosts), self.topology.num_devices
        what = f"{count} device{'s' * (count != 1)} on {hosts} host{'s' * (hosts != 1)}"
        return self.canvas.document(width, y + _MARGIN / 2.0, self.topology.name, what)

    def _host_rows(self) -> list[list[HostPicture]]:
        """Return the hosts by row: racks one below the other where there are many hosts, rows of about equal length."""
        by_rack = len(self.pictures) > 4 and self.all_shown
        groups: list[list[HostPicture]] = []
        for picture in self.pictures:
            if not groups or (by_rack and groups[-1][-1].graph.rack != picture.graph.rack):
                groups.append([])
            groups[-1].append(picture)
        rows: list[list[HostPicture]] = []
        for group in groups:
            most = max(int((_WIDEST + _GAP) // (max(picture.width for picture in group) + _GAP)), 1)
            per_row = -(-len(group) // -(-len(group) // most))
            rows += [group[start : start + per_row] for start in range(0, len(group), per_row)]
        return rows

    def _header(self, width: float) -> float:
        topology, y = self.topology, _MARGIN + 10.0
        self.canvas.text(_MARGIN, y, topology.name, size=20, anchor="start", weight="600")
        hosts, racks = len(topology.hosts), len({device.rack for device in topology.devices if device.rack})
        words = [f"{topology.num_devices} device{'s' * (topology.num_devices != 1)}"]
        words += [f"{hosts} host{'s' * (hosts != 1)}"] + ([f"{racks} rack{'s' * (racks != 1)}"] if racks else [])
        self.canvas.text(_MARGIN, y + 20, " · ".join(words), size=12, anchor="start", fill=MUTED)
        return y + 42.0

    def _row(
        self, row: Sequence[HostPicture], x: float, y: float, top_hubs: Sequence[Component]
    ) -> tuple[float, dict[str, tuple[float, float]]]:
        racks = list(dict.fromkeys(picture.graph.rack for picture in row))
        framed = self.all_shown and any(racks)
        if framed:
            y += 22.0
        hubs = [hub for hub in top_hubs if self._reached(hub, row)]
        start = y
        y += 44.0 * bool(hubs)
        tops: dict[str, tuple[float, float]] = {}
        nics: dict[str, tuple[float, float]] = {}
        bottom = y
        at = x
        spans: dict[str | None, tuple[float, float]] = {}
        for picture in row:
            devices, bottoms = picture.draw(self.canvas, at, y)
            self.drawn |= {picture.graph.name}
            tops |= {name: (place, y + picture.device_y) for name, place in devices.items()}
            nics |= bottoms
            first = spans.get(picture.graph.rack, (at, at))[0]
            spans[picture.graph.rack] = (first, at + picture.width)
            at += picture.width + _GAP
            bottom = max(bottom, y + picture.height + 10.0 * (picture.graph.copies > 1))
        for hub in hubs:
            self._top_hub(hub, tops, start)
        if framed:
            for rack, (a, b) in spans.items():
                if rack:
                    self.canvas.back.insert(0, _frame(a - 11.0, start - 24.0, b - a + 22.0, bottom - start + 34.0))
                    self.canvas.text(a, start - 8.0, rack, size=11.5, anchor="start", weight="600", fill=MUTED)
            bottom += 10.0
        return bottom, nics

    def _reached(self, hub: Component, row: Sequence[HostPicture]) -> bool:
        shown = {device.name for picture in row for device in picture.shown}
        return any(
            hub.name in (link.a, link.b) and (link.a in shown or link.b in shown) for link in self.topology.links
        )

    def _top_hub(self, hub: Component, tops: dict[str, tuple[float, float]], y: float) -> None:
        ends = [
            (link, tops[other])
            for link in self.topology.links
            for own, other in ((link.a, link.b), (link.b, link.a))
            if own == hub.name and other in tops
        ]
        low, high = min(place[0] for _, place in ends) - 20.0, max(place[0] for _, place in ends) + 20.0
        link = ends[0][0]
        rate = format_bandwidth(link.bandwidth_bytes_per_s)
        racks = sum(other.role == "nvswitch" for other in self.hubs)
        name = hub.name if self.all_shown or racks == 1 else f"each of {racks} racks"
        words = f"{name}: NVLink between hosts · {label(link)} · {rate} a device"
        half = max((high - low) / 2.0, 3.3 * len(words) + 10.0)
        low, high = (low + high) / 2.0 - half, (low + high) / 2.0 + half
        for link, place in ends:
            stroke = self.palette.of(link)
            self.canvas.line(place, (place[0], y + 20.0), stroke.colour, stroke.width, describe(link))
        fill, edge = ROLES["nvswitch"]
        self.canvas.box(low, y, high - low, 22.0, fill=fill, stroke=edge, title=hub.name)
        self.canvas.text((low + high) / 2.0, y + 15, words, size=11)

    # ---------------------------------------------------------------------------------------------------------- fabric

    def _uplinks(self, nics: dict[str, tuple[float, float]]) -> list[tuple[str, str, Link]]:
        """Return (nic or device, hub, link) for everything of a row that has a link to a hub of the fabric."""
        hubs = {hub.name for hub in self.hubs if hub.role != "nvswitch"}
        return [
            (own, other, link)
            for link in self.topology.links
            for own, other in ((link.a, link.b), (link.b, link.a))
            if own in nics and other in hubs
        ]

    def _rail(self, nics: dict[str, tuple[float, float]], y: float, rails: list[float]) -> float:
        """Draw what hangs below a row of hosts: its leaf switches, or a line to the network."""
        ups = self._uplinks(nics)
        parents = self._parents()
        leaves = list(dict.fromkeys(hub for _, hub, _ in ups))
        every = [hub.name for hub in self.hubs if hub.role != "nvswitch" and self._is_leaf(hub.name)]
        if len(leaves) == 1 and leaves[0] not in parents:
            rail = y + 22.0
            stroke = self.palette.of(ups[0][2])
            for nic, _, link in ups:
                place = nics[nic]
                self.canvas.line(place, (place[0], rail), stroke.colour, stroke.width, describe(link))
            xs = [nics[nic][0] for nic, _, _ in ups]
            rails.append(rail)
            self._rail_line(min(xs), max(xs), rail, ups[0][2])
            return rail
        top = y + 30.0
        for leaf in leaves:
            own = [(nics[nic], link) for nic, hub, link in ups if hub == leaf]
            middle = sum(place[0] for place, _ in own) / len(own)
            words, second = leaf, f"to {parents[leaf][0]}" if leaf in parents else ""
            if not self.all_shown and len(every) > 1:
                words, second = f"{len(every)} leaf switches", f"{every[0]} … {every[-1]}"
            half = max(62.0, 3.6 * max(len(words), len(second)) + 12.0)
            for place, link in own:
                stroke = self.palette.of(link)
                self.canvas.line(place, (middle, top), stroke.colour, stroke.width, describe(link))
            self._switch(words, middle - half, top, 2 * half, second)
            if leaf in parents:
                stroke = self.palette.of(parents[leaf][1])
                self.canvas.line((middle, top + 32.0), (middle, top + 50.0), stroke.colour, stroke.width)
        if any(leaf in parents for leaf in leaves):
            link = next(parents[leaf][1] for leaf in leaves if leaf in parents)
            xs = [
                sum(nics[n][0] for n, h, _ in ups if h == leaf) / sum(h == leaf for _, h, _ in ups) for leaf in leaves
            ]
            rails.append(top + 50.0)
            self._rail_line(min(xs), max(xs), top + 50.0, link)
            return top + 50.0
        return top + 32.0

    def _rail_line(self, a: float, b: float, y: float, link: Link) -> None:
        stroke = self.palette.of(link)
        self.canvas.path(f"M{a - 2:.1f} {y:.1f} L{b + 2:.1f} {y:.1f}", stroke.colour, stroke.width + 1.6,
                         title=describe(link))  # fmt: skip
        self.last_rail = (a, b, link)

    def _parents(self) -> dict[str, tuple[str, Link]]:
        """Return the switch above each switch of the fabric, as its links are written (below, above)."""
        hubs = {hub.name for hub in self.hubs}
        return {link.a: (link.b, link) for link in self.topology.links if link.a in hubs and link.b in hubs}

    def _switch(self, name: str, x: float, y: float, width: float, second: str = "") -> None:
        fill, edge = ROLES["network_switch"]
        self.canvas.box(x, y, width, 32.0 if second else 24.0, fill=fill, stroke=edge, title=name)
        self.canvas.text(x + width / 2.0, y + (14 if second else 16), name, size=11, weight="600")
        if second:
            self.canvas.text(x + width / 2.0, y + 26, second, size=9.5, fill=MUTED)

    def _fabric(self, fabric: Sequence[Component], rails: list[float], left: float, width: float, y: float) -> float:
        """Draw the switches above the leaves (or the one network) and join the rails to them."""
        parents = self._parents()
        upper = [hub.name for hub in fabric if not self._is_leaf(hub.name) or hub.name not in parents]
        depth = {name: _depth(name, parents) for name in upper}
        levels = [
            [name for name in upper if depth[name] == level] for level in sorted(set(depth.values()), reverse=True)
        ]
        middle = left + (width - left - _MARGIN) / 2.0
        if not rails:
            return y
        y = max(y, rails[-1] + 18.0)
        previous: dict[str, float] = {}
        for number, names in enumerate(levels):
            box = min(
                240.0 if len(levels) == 1 else 130.0, (width - left - _MARGIN) / max(min(len(names), 12), 1) - 10.0
            )
            shown = names if len(names) <= _MOST_SWITCHES and box > 50.0 else names[:1]
            if len(shown) < len(names):
                box = 240.0
            step = box + 10.0
            start = middle - step * (len(shown) - 1) / 2.0
            places = {name: start + step * place for place, name in enumerate(shown)}
            for name, place in places.items():
                words = name if len(shown) == len(names) else f"{names[0]} … {names[-1]} ({len(names)} switches)"
                second = self._fabric_words() if number == len(levels) - 1 else ""
                self._switch(words, place - box / 2.0, y, box, second)
            for below, place in previous.items():
                if below in parents and parents[below][0] in places:
                    stroke = self.palette.of(parents[below][1])
                    end = (places[parents[below][0]], y)
                    self.canvas.line((place, y - 34.0), end, stroke.colour, stroke.width, describe(parents[below][1]))
            if number == 0:
                self._join_rails(rails, left, places, y)
            previous = places
            y += 58.0 if number < len(levels) - 1 else 42.0
        return y

    def _is_leaf(self, name: str) -> bool:
        """Return whether a host is joined to this switch."""
        hubs = {hub.name for hub in self.hubs}
        return any(
            name in (link.a, link.b) and not {link.a, link.b} <= hubs for link in self.topology.links
        )  # fmt: skip

    def _fabric_words(self) -> str:
        hubs = {hub.name for hub in self.hubs if hub.role != "nvswitch"}
        for link in self.topology.links:
            if (link.a in hubs) != (link.b in hubs):
                return f"{link.kind} · {format_bandwidth(link.bandwidth_bytes_per_s)}"
        return ""

    def _join_rails(self, rails: list[float], left: float, places: dict[str, float], y: float) -> None:
        a, b, link = self.last_rail
        stroke = self.palette.of(link)
        for place in places.values():
            at = min(max(place, a), b)
            self.canvas.line((at, rails[-1]), (place, y), stroke.colour, stroke.width + 0.8, describe(link))
        for rail in rails[:-1]:
            trunk = left - _TRUNK / 1.5
            data = f"M{a:.1f} {rail:.1f} L{trunk:.1f} {rail:.1f} L{trunk:.1f} {rails[-1]:.1f} L{a:.1f} {rails[-1]:.1f}"
            self.canvas.path(data, stroke.colour, stroke.width + 1.6, title=describe(link))

    # ---------------------------------------------------------------------------------------------------------- legend

    def _legend(self, width: float, y: float) -> float:
        kinds: dict[tuple[str, float], list[Link]] = {}
        for link in self.topology.links:
            kinds.setdefault((label(link), link.bandwidth_bytes_per_s), []).append(link)
        entries = sorted(kinds.items(), key=lambda item: (-item[0][1], item[0][0]))
        y += 16.0
        self.canvas.path(f"M{_MARGIN} {y:.1f} L{width - _MARGIN:.1f} {y:.1f}", "#d5dbe2", 1.0)
        y += 20.0
        x = _MARGIN
        for (name, rate), links in entries[:20]:
            latencies = sorted({link.latency_s for link in links})
            low, high = format_seconds(latencies[0]), format_seconds(latencies[-1])
            words = f"{name} · {format_bandwidth(rate)} · {low if low == high else f'{low} to {high}'}"
            room = 44.0 + 6.3 * len(words)
            if x + room > width - _MARGIN and x > _MARGIN:
                x, y = _MARGIN, y + 19.0
            stroke = self.palette.of(links[0])
            self.canvas.path(f"M{x:.1f} {y - 4:.1f} L{x + 26:.1f} {y - 4:.1f}", stroke.colour, stroke.width + 0.8)
            self.canvas.text(x + 32, y, words, size=11, anchor="start")
            x += room
        y, x = y + 22.0, _MARGIN
        present = {part.role for part in self.topology.components}
        for role, words in _ROLE_WORDS:
            if role in present:
                fill, edge = ROLES[role]
                self.canvas.box(x, y - 10.0, 16.0, 12.0, fill=fill, stroke=edge, radius=3.0)
                self.canvas.text(x + 22, y, words, size=11, anchor="start")
                x += 40.0 + 6.3 * len(words)
        words = "memory a plan may use; bandwidth one way; latency of one link"
        if x + 330.0 > width - _MARGIN:
            y += 18.0
        self.canvas.text(width - _MARGIN, y, words, size=10, anchor="end", fill=MUTED)
        return y + 6.0


def _row_width(row: Sequence[HostPicture]) -> float:
    return sum(picture.width for picture in row) + _GAP * (len(row) - 1)


def _frame(x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="14" fill="none"'
        ' stroke="#c3ccd6" stroke-dasharray="6 4"/>'
    )


def _depth(name: str, parents: dict[str, tuple[str, Link]]) -> int:
    steps = 0
    while name in parents and steps < 64:
        name, steps = parents[name][0], steps + 1
    return steps


def _designs(hosts: Sequence[HostGraph]) -> list[HostGraph]:
    """Return one host of each design with how many there are, the most frequent first."""
    found: dict[object, HostGraph] = {}
    for host in hosts:
        start = len(host.name)
        key = (
            tuple((device.kind.name, device.available_bytes, device.power_cap_w) for device in host.devices),
            tuple((link.a[start:], link.b[start:], link.kind, link.bandwidth_bytes_per_s) for link in host.links),
            tuple(part.name[start:] for part in host.relays),
        )
        if key in found:
            found[key].copies += 1
        else:
            found[key] = host
    return sorted(found.values(), key=lambda host: -host.copies)[:_MOST_DESIGNS]
