"""The picture of one host: NVSwitch or mesh above its devices, PCIe below, then NICs and sockets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from gpuplan.topology.drawing_style import MUTED, ROLES, Palette, describe, label
from gpuplan.topology.graph import Component, Device, Link
from gpuplan.topology.svg import Canvas
from gpuplan.units import format_bandwidth, format_bytes

_PAD: Final = 14.0
_HEAD: Final = 40.0
_MOST_DRAWN: Final = 16
_BUS: Final = 24.0


@dataclass(slots=True)
class HostGraph:
    """What one host is made of; `links` only those inside it."""

    name: str
    devices: Sequence[Device]
    relays: Sequence[Component]
    links: Sequence[Link]
    copies: int = 1
    rack: str | None = None


@dataclass(slots=True)
class Bus:
    """Devices of which every two are joined alike, drawn as a bar; `row` counts from the devices."""

    members: list[str]
    link: Link
    row: int
    rest: bool = False


class HostPicture:
    """A host with its size; `draw` puts it on a canvas and says where its devices' tops and NICs' bottoms are.

    Parameters
    ----------
    graph
        The host.
    palette
        Strokes of links.
    compact
        Draw small devices, where there are many.
    """

    def __init__(self, graph: HostGraph, palette: Palette, compact: bool = False) -> None:
        self.graph, self.palette, self.compact = graph, palette, compact
        self._x: dict[str, float] = {}
        self.shown = list(self.graph.devices[:_MOST_DRAWN])
        self.names = {device.name for device in self.shown}
        self.by_role: dict[str, list[Component]] = {}
        for relay in self.graph.relays:
            self.by_role.setdefault(relay.role, []).append(relay)
        self.mixed = len({device.kind.name for device in self.graph.devices}) > 1
        self.capped = any(device.power_cap_w for device in self.graph.devices)
        self.device_width = 104.0 if self.mixed else 38.0 if self.compact else 66.0
        self.gap = 6.0 if self.compact and not self.mixed else 14.0
        self._merge_nics()
        self._sort_links()
        self._measure()

    # -------------------------------------------------------------------------------------------------- what is drawn

    def _sort_links(self) -> None:
        direct = [link for link in self.graph.links if link.a in self.names and link.b in self.names]
        fast = [link for link in direct if link.kind.startswith(("nvlink", "xgmi"))]
        slow = [link for link in direct if not link.kind.startswith(("nvlink", "xgmi"))]
        order = [device.name for device in self.shown]
        self.mesh = _one_clique(order, fast) if len(order) > 2 else None
        self.arcs = [] if self.mesh else fast
        self.buses = _buses(order, slow, {frozenset((link.a, link.b)) for link in fast})
        self.hanging = [] if self.buses else slow
        self.switch_links = self._to("nvswitch")
        self.tree_links = [link for link in self.graph.links if {link.a, link.b} & {part.name for part in self._tree()}]
        self.nic_links = _fastest(self._to("nic"))
        self.shared_nics = _all_alike(self._to("nic"), order, [part.name for part in self.by_role.get("nic", [])])

    def _merge_nics(self) -> None:
        """Draw NICs that hang alike from one place as one, where there are far more of them than devices."""
        nics = self.by_role.get("nic", [])
        self.merged: dict[str, list[str]] = {nic.name: [nic.name] for nic in nics}
        if len(nics) <= 1.5 * len(self.shown) or len(nics) < 9:
            return
        ends: dict[str, list[tuple[object, ...]]] = {nic.name: [] for nic in nics}
        for link in self.graph.links:
            for own, other in ((link.a, link.b), (link.b, link.a)):
                if own in ends:
                    ends[own].append((other, *_numbers(link)))
        groups: dict[tuple[tuple[object, ...], ...], list[str]] = {}
        for name, found in ends.items():
            groups.setdefault(tuple(found), []).append(name)
        self.merged = {names[0]: names for names in groups.values()}
        self.by_role["nic"] = [nic for nic in nics if nic.name in self.merged]
        gone = {name for names in groups.values() for name in names[1:]}
        self.graph.links = [link for link in self.graph.links if link.a not in gone and link.b not in gone]

    def _tree(self) -> list[Component]:
        return [*self.by_role.get("pcie_switch", []), *self.by_role.get("socket", [])]

    def _to(self, role: str) -> list[Link]:
        ends = {part.name for part in self.by_role.get(role, [])}
        return [
            link for link in self.graph.links
            if (link.a in ends and link.b in self.names) or (link.b in ends and link.a in self.names)
        ]  # fmt: skip

    # -------------------------------------------------------------------------------------------------------- measures

    def _measure(self) -> None:
        more = len(self.graph.devices) > len(self.shown)
        count = len(self.shown) + more
        devices = count * self.device_width + (count - 1) * self.gap
        nics = len(self.by_role.get("nic", []))
        self.nic_width = 34.0 if self.compact else 46.0
        self.nic_rows = 1 if nics <= max(len(self.shown), 1) * 1.5 else -(-nics // max(2 * len(self.shown), 1))
        per_row = -(-nics // self.nic_rows) if nics else 0
        inner = max(devices, per_row * (self.nic_width + 6.0) if self._tree() or not nics else 0.0, 190.0)
        self.width = inner + 2 * _PAD
        left = (self.width - devices) / 2.0
        for number, device in enumerate(self.shown):
            self._x[device.name] = left + number * (self.device_width + self.gap) + self.device_width / 2.0
        self.more_x = left + (count - 1) * (self.device_width + self.gap) if more else None
        self.device_height = 52.0 if (self.capped or self.mixed) and not self.compact else 40.0
        if self.mixed and self.capped:
            self.device_height = 62.0
        self._rows()

    def _rows(self) -> None:
        spans = [self._distance(link) for link in self.arcs]
        above = 0.0
        if self.by_role.get("nvswitch") or self.mesh:
            above = 46.0
        if spans:
            above = max(above, 18.0 + 11.0 * max(spans))
        self.device_y = _HEAD + above
        y = self.device_y + self.device_height
        self.bus_y = y + 16.0
        rows = 1 + max((bus.row for bus in self.buses), default=-1)
        y += rows * _BUS + (8.0 if rows else 0.0)
        if self.hanging:
            y += 18.0 + 11.0 * max(self._distance(link) for link in self.hanging)
        self.levels = self._switch_levels()
        self.level_y = []
        for _ in self.levels:
            y += 26.0
            self.level_y.append(y)
            y += 20.0
        nics = self.by_role.get("nic", [])
        y += 26.0 if nics else 0.0
        self.nic_y = y
        y += self.nic_rows * 24.0 if nics else 0.0
        sockets = self.by_role.get("socket", [])
        y += 26.0 if sockets else 0.0
        self.socket_y = y
        y += 24.0 if sockets else 0.0
        self.height = y + _PAD

    def _distance(self, link: Link) -> int:
        order = [device.name for device in self.shown]
        return abs(order.index(link.a) - order.index(link.b))

    def _switch_levels(self) -> list[list[str]]:
        """Return the PCIe switches by row, those next to the devices first."""
        switches = {part.name for part in self.by_role.get("pcie_switch", [])}
        sockets = {part.name for part in self.by_role.get("socket", [])}
        depth: dict[str, int] = dict.fromkeys(sockets, 0)
        frontier, levels = list(sockets), []
        while frontier:
            found = []
            for link in self.graph.links:
                for a, b in ((link.a, link.b), (link.b, link.a)):
                    if a in frontier and b in switches and b not in depth:
                        depth[b] = depth[a] + 1
                        found.append(b)
            if found:
                levels.append(found)
            frontier = found
        lost = [name for name in switches if name not in depth]
        return [*([lost] if lost else []), *levels[::-1]]

    # --------------------------------------------------------------------------------------------------------- drawing

    def draw(self, canvas: Canvas, x: float, y: float) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
        """Draw the host with its corner at (x, y); return x of devices' tops, and (x, y) of NICs' bottoms."""
        self._frame(canvas, x, y)
        self._above(canvas, x, y)
        self._below(canvas, x, y)
        for device in self.shown:
            self._device(canvas, device, x + self._x[device.name], y + self.device_y)
        if self.more_x is not None:
            rest = len(self.graph.devices) - len(self.shown)
            canvas.text(x + self.more_x + self.device_width / 2.0, y + self.device_y + 24, f"+ {rest}", fill=MUTED)
        nics = self._tree_and_nics(canvas, x, y)
        return {name: x + place for name, place in self._x.items()}, nics

    def _frame(self, canvas: Canvas, x: float, y: float) -> None:
        for step in range(min(self.graph.copies - 1, 2), 0, -1):
            canvas.box(x + 5.0 * step, y + 5.0 * step, self.width, self.height, fill="#f7f8fa", stroke="#b9c2cd",
                       radius=10.0, behind=True)  # fmt: skip
        canvas.box(x, y, self.width, self.height, fill="#fbfcfd", stroke="#9aa5b1", radius=10.0, behind=True)
        times = f" × {self.graph.copies}" if self.graph.copies > 1 else ""
        canvas.text(x + _PAD, y + 24, self.graph.name + times, size=13, anchor="start", weight="600",
                    halo="#fbfcfd")  # fmt: skip
        kinds: dict[str, int] = {}
        for device in self.graph.devices:
            kinds[device.kind.name] = kinds.get(device.kind.name, 0) + 1
        words = ", ".join(f"{count} × {kind}" if count > 1 else kind for kind, count in kinds.items())
        if not self.mixed:
            canvas.text(x + self.width - _PAD, y + 24, words, size=11, anchor="end", fill=MUTED, halo="#fbfcfd")

    def _device(self, canvas: Canvas, device: Device, x: float, y: float) -> None:
        fill, stroke = ROLES["device"]
        words = [f"{device.name}: {device.kind.name}", f"{format_bytes(device.available_bytes)} available"]
        words += [f"power cap {device.power_cap_w:g} W"] if device.power_cap_w else []
        canvas.box(x - self.device_width / 2.0, y, self.device_width, self.device_height, fill=fill, stroke=stroke,
                   title=", ".join(words))  # fmt: skip
        name = device.name.rpartition("/")[2]
        if self.compact and not self.mixed:
            canvas.text(x, y + 25, name.removeprefix("gpu"), size=12, weight="600")
            return
        canvas.text(x, y + 17, name, size=12, weight="600")
        lines = [device.kind.name] if self.mixed else []
        lines += [format_bytes(device.available_bytes)]
        lines += [f"{device.power_cap_w:g} W"] if device.power_cap_w else []
        for number, line in enumerate(lines):
            canvas.text(x, y + 31 + 13 * number, line, size=10, fill=MUTED)

    def _bar(self, canvas: Canvas, a: float, b: float, y: float, words: str, role: str, dash: str = "") -> None:
        fill, stroke = ROLES[role]
        canvas.box(a, y, b - a, 20.0, fill=fill, stroke=stroke, dash=dash)
        canvas.text((a + b) / 2.0, y + 14, words, size=10.5)

    def _above(self, canvas: Canvas, x: float, y: float) -> None:
        top = y + self.device_y
        for link, a, b in self._arched(self.arcs):
            stroke, height = self.palette.of(link), 12.0 + 11.0 * self._distance(link)
            canvas.arc(x + a, x + b, top, height, stroke.colour, stroke.width, describe(link))
        if self.mesh is not None:
            stroke = self.palette.of(self.mesh)
            for device in self.shown:
                place = x + self._x[device.name]
                canvas.line((place, top), (place, y + _HEAD + 20), stroke.colour, stroke.width, describe(self.mesh))
            words = f"full mesh: {describe(self.mesh)} a pair"
            self._bar(canvas, x + _PAD, x + self.width - _PAD, y + _HEAD, words, "nvswitch", "5 3")
        for switch in self.by_role.get("nvswitch", []):
            ends = [link for link in self.switch_links if switch.name in (link.a, link.b)]
            places = [x + self._x[link.a if link.a in self._x else link.b] for link in ends]
            if not places:
                continue
            half = self.device_width / 2.0
            for link, place in zip(ends, places, strict=True):
                stroke = self.palette.of(link)
                canvas.line((place, top), (place, y + _HEAD + 20), stroke.colour, stroke.width, describe(link))
            best = max(ends, key=lambda link: link.bandwidth_bytes_per_s)
            words = f"NVSwitch · {label(best)} · {format_bandwidth(best.bandwidth_bytes_per_s)} a device"
            self._bar(canvas, min(places) - half, max(places) + half, y + _HEAD, words, "nvswitch")

    def _below(self, canvas: Canvas, x: float, y: float) -> None:
        bottom = y + self.device_y + self.device_height
        for link, a, b in self._arched(self.hanging):
            stroke, height = self.palette.of(link), 10.0 + 11.0 * self._distance(link)
            canvas.arc(x + a, x + b, bottom, -height, stroke.colour, stroke.width, describe(link))
        for bus in self.buses:
            self._bus(canvas, bus, x, bottom, y + self.bus_y + bus.row * _BUS)

    def _arched(self, links: Sequence[Link]) -> list[tuple[Link, float, float]]:
        """Return arcs with their ends, side by side on each device, so that near arcs nest in far ones."""
        ends: dict[str, list[tuple[float, int]]] = {name: [] for name in self._x}
        sides = [sorted((link.a, link.b), key=lambda name: self._x[name]) for link in links]
        for number, (left, right) in enumerate(sides):
            # Ordered by where the other end lies, far right first: arcs of one device then do not cross.
            ends[left].append((-self._x[right], number))
            ends[right].append((-self._x[left], number))
        place: dict[tuple[str, int], float] = {}
        for name, found in ends.items():
            rightwards = sorted(entry for entry in found if -entry[0] > self._x[name])
            leftwards = sorted(entry for entry in found if -entry[0] < self._x[name])
            ordered = [number for _, number in leftwards] + [number for _, number in rightwards]
            step = min(10.0, (self.device_width - 10.0) / max(len(ordered), 1))
            for slot, number in enumerate(ordered):
                place[name, number] = self._x[name] + (slot - (len(ordered) - 1) / 2.0) * step
        arcs = [(link, place[a, n], place[b, n]) for n, (link, (a, b)) in enumerate(zip(links, sides, strict=True))]
        return sorted(arcs, key=lambda arc: arc[0].bandwidth_bytes_per_s)

    def _bus(self, canvas: Canvas, bus: Bus, x: float, bottom: float, row: float) -> None:
        stroke = self.palette.of(bus.link)
        places = sorted(x + self._x[name] + 7.0 * bus.row for name in bus.members)
        for place in places:
            canvas.line((place, bottom), (place, row), stroke.colour, stroke.width, describe(bus.link))
        data = f"M{places[0] - 3:.1f} {row:.1f} L{places[-1] + 3:.1f} {row:.1f}"
        canvas.path(data, stroke.colour, stroke.width + 1.6, title=describe(bus.link))
        words = ("other pairs: " if bus.rest else "") + f"{label(bus.link)} · " + format_bandwidth(
            bus.link.bandwidth_bytes_per_s
        )  # fmt: skip
        middle, room = (places[0] + places[-1]) / 2.0, 5.6 * len(words) + 8.0
        if room > places[-1] - places[0] - 12.0:  # a short bar has its name alone; the legend has the rest
            words = label(bus.link)
            room = 5.8 * len(words) + 8.0
        canvas.box(middle - room / 2.0, row - 7.0, room, 14.0, fill="#fbfcfd", stroke="none", radius=3.0)
        canvas.text(middle, row + 3.5, words, size=9.5, fill=stroke.colour, weight="600")

    # ----------------------------------------------------------------------------------------------- PCIe tree and NICs

    def _tree_and_nics(self, canvas: Canvas, x: float, y: float) -> dict[str, tuple[float, float]]:
        places: dict[str, tuple[float, float]] = {
            name: (place, self.device_y + self.device_height) for name, place in self._x.items()
        }
        for level, row in zip(self.levels, self.level_y, strict=True):
            self._row(canvas, level, row, places, x, y, 58.0, "pcie_switch")
        nics = [part.name for part in self.by_role.get("nic", [])]
        bottoms = self._nic_row(canvas, nics, places, x, y) if nics else {}
        sockets = [part.name for part in self.by_role.get("socket", [])]
        if sockets:
            self._row(canvas, sockets, self.socket_y, places, x, y, 120.0, "socket")
            self._between_sockets(canvas, sockets, places, x, y)
        for link in self.tree_links:
            if link.a in places and link.b in places and not {link.a, link.b} <= set(sockets):
                stroke = self.palette.of(link)
                (xa, ya), (xb, yb) = places[link.a], places[link.b]
                low, high = ((xa, ya), (xb, yb)) if ya < yb else ((xb, yb), (xa, ya))
                canvas.line((x + low[0], y + low[1]), (x + high[0], y + high[1]), stroke.colour, stroke.width,
                            describe(link))  # fmt: skip
        return bottoms

    def _row(
        self, canvas: Canvas, names: list[str], row: float, places: dict[str, tuple[float, float]], x: float, y: float,
        width: float, role: str,
    ) -> None:  # fmt: skip
        """Place components below what they are linked to, none over another, and draw them."""
        wanted = {name: self._below_of(name, places) for name in names}
        centres = _spread([wanted[name] for name in names], width + 8.0, _PAD + width / 2.0,
                          self.width - _PAD - width / 2.0)  # fmt: skip
        for name, centre in zip(names, centres, strict=True):
            fill, stroke = ROLES[role]
            canvas.box(x + centre - width / 2.0, y + row, width, 20.0, fill=fill, stroke=stroke, title=name)
            canvas.text(x + centre, y + row + 14, name.rpartition("/")[2], size=10)
            places[name] = (centre, row + 10.0)

    def _below_of(self, name: str, places: dict[str, tuple[float, float]]) -> float:
        above = [
            places[other][0]
            for link in self.graph.links
            for own, other in ((link.a, link.b), (link.b, link.a))
            if own == name and other in places
        ]
        return sum(above) / len(above) if above else self.width / 2.0

    def _nic_row(
        self, canvas: Canvas, nics: list[str], places: dict[str, tuple[float, float]], x: float, y: float
    ) -> dict[str, tuple[float, float]]:
        drawn = {*self.nic_links}
        near = {
            name: [places[other][0] for link in drawn | set(self.tree_links)
                   for own, other in ((link.a, link.b), (link.b, link.a)) if own == name and other in places]
            for name in nics
        }  # fmt: skip
        wanted = {name: sum(near[name]) / len(near[name]) if near[name] else self.width / 2.0 for name in nics}
        ordered = sorted(nics, key=lambda name: (wanted[name], nics.index(name)))
        bottoms: dict[str, tuple[float, float]] = {}
        spacing, half = self.nic_width + 6.0, self.nic_width / 2.0
        for row in range(self.nic_rows):
            chosen = ordered[row :: self.nic_rows]
            centres = _spread([wanted[name] for name in chosen], spacing, _PAD + half, self.width - _PAD - half)
            for name, centre in zip(chosen, centres, strict=True):
                fill, stroke = ROLES["nic"]
                top = self.nic_y + 24.0 * row
                canvas.box(x + centre - half, y + top, self.nic_width, 20.0, fill=fill, stroke=stroke,
                           title=", ".join(self.merged[name]))  # fmt: skip
                count = len(self.merged[name])
                short = f"{count} NICs" if count > 1 else name.rpartition("/")[2]
                canvas.text(x + centre, y + top + 14, short if len(short) <= 8 else short[:7] + "…",
                            size=8.5 if self.compact or len(short) > 6 else 10)  # fmt: skip
                places[name] = (centre, top)
                for same in self.merged[name]:
                    bottoms[same] = (x + centre, y + top + 20.0)
        if self.shared_nics is not None:
            self._nic_bus(canvas, self.shared_nics, nics, places, x, y)
        else:
            for link in self.nic_links:
                line = self.palette.of(link)
                (xa, ya), (xb, yb) = places[link.a], places[link.b]
                canvas.line((x + xa, y + ya), (x + xb, y + yb), line.colour, line.width, describe(link))
        return bottoms

    def _nic_bus(
        self, canvas: Canvas, link: Link, nics: list[str], places: dict[str, tuple[float, float]], x: float, y: float
    ) -> None:
        """Draw a bar between devices and NICs of which every two are joined alike."""
        stroke, row = self.palette.of(link), self.nic_y - 13.0
        xs = sorted([self._x[device.name] for device in self.shown] + [places[name][0] for name in nics])
        for device in self.shown:
            start = (x + self._x[device.name], y + self.device_y + self.device_height)
            canvas.line(start, (start[0], y + row), stroke.colour, stroke.width, describe(link))
        for name in nics:
            canvas.line((x + places[name][0], y + row), (x + places[name][0], y + self.nic_y), stroke.colour,
                        stroke.width, describe(link))  # fmt: skip
        data = f"M{x + xs[0] - 3:.1f} {y + row:.1f} L{x + xs[-1] + 3:.1f} {y + row:.1f}"
        canvas.path(data, stroke.colour, stroke.width + 1.6, title=describe(link))

    def _between_sockets(
        self, canvas: Canvas, sockets: list[str], places: dict[str, tuple[float, float]], x: float, y: float
    ) -> None:
        """Join neighbours in the row; every two sockets are joined alike."""
        between = [link for link in self.graph.links if link.a in sockets and link.b in sockets]
        if not between:
            return
        stroke = self.palette.of(between[0])
        ordered = sorted(places[name][0] for name in sockets)
        for a, b in pairwise(ordered):
            canvas.line((x + a, y + self.socket_y + 10), (x + b, y + self.socket_y + 10), stroke.colour, stroke.width,
                        describe(between[0]))  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- helpers


def _numbers(link: Link) -> tuple[str, str | None, float, float]:
    return link.kind, link.code, link.bandwidth_bytes_per_s, link.latency_s


def _one_clique(order: Sequence[str], links: Sequence[Link]) -> Link | None:
    """Return a link when `links` join every two of `order`, all alike."""
    full = len(order) * (len(order) - 1) // 2
    alike = len({_numbers(link) for link in links}) == 1
    return links[0] if len(links) == full and alike and full else None


def _buses(order: Sequence[str], links: Sequence[Link], fast: set[frozenset[str]]) -> list[Bus]:
    """Return bars for links that nest: the fastest within groups, slower ones between them; nothing where they do not.

    Pairs in `fast` have another, faster link and may be missing; then one kind of link must join all the rest.
    """
    if not links or len(order) < 3:
        return []
    kinds = sorted({_numbers(link) for link in links}, key=lambda numbers: -numbers[2])
    by_pair = {frozenset((link.a, link.b)): link for link in links}
    pairs = [frozenset((a, b)) for place, a in enumerate(order) for b in order[place + 1 :]]
    if fast:
        whole = all(pair in by_pair or pair in fast for pair in pairs)
        return [Bus(list(order), links[0], 0, rest=True)] if len(kinds) == 1 and whole else []
    group = {name: name for name in order}
    buses: list[Bus] = []
    for row, numbers in enumerate(kinds):
        joined = {pair for pair, link in by_pair.items() if _numbers(link) == numbers}
        for pair in joined:
            a, b = pair
            if group[a] != group[b]:
                old, new = group[b], group[a]
                group = {name: new if home == old else home for name, home in group.items()}
        for pair in pairs:
            a, b = pair
            linked = by_pair.get(pair)
            # Within a group every pair must have this link or a faster one: else the bars would say too much.
            if group[a] == group[b] and (linked is None or linked.bandwidth_bytes_per_s < numbers[2]):
                return []
        for home in dict.fromkeys(group.values()):
            members = [name for name in order if group[name] == home]
            inside = [by_pair[pair] for pair in joined if pair <= set(members)]
            if inside:
                buses.append(Bus(members, inside[0], row))
    return buses


def _fastest(links: Iterable[Link]) -> list[Link]:
    """Return of each device's links to NICs the fastest."""
    by_end: dict[str, list[Link]] = {}
    for link in links:
        device = link.a if "/gpu" in link.a else link.b
        by_end.setdefault(device, []).append(link)
    kept = []
    for group in by_end.values():
        best = max(link.bandwidth_bytes_per_s for link in group)
        kept += [link for link in group if link.bandwidth_bytes_per_s == best]
    return kept


def _all_alike(links: Sequence[Link], devices: Sequence[str], nics: Sequence[str]) -> Link | None:
    """Return a link when every device reaches every NIC alike and drawing each line would hide more than it shows."""
    full = len(links) == len(devices) * len(nics) and len({_numbers(link) for link in links}) == 1
    return links[0] if full and len(devices) > 1 else None


def _spread(wanted: Sequence[float], spacing: float, low: float, high: float) -> list[float]:
    """Return places near the wanted ones, in the given order sorted by wish, at least `spacing` apart within bounds."""
    order = sorted(range(len(wanted)), key=lambda number: (wanted[number], number))
    spacing = min(spacing, (high - low) / max(len(wanted) - 1, 1)) if len(wanted) > 1 else spacing
    places = [0.0] * len(wanted)
    at = -float("inf")
    for number in order:
        at = max(wanted[number], at + spacing, low)
        places[number] = at
    at = float("inf")
    for number in reversed(order):
        at = min(places[number], at - spacing, high)
        places[number] = max(at, low)
    shift = sum(wanted) / len(wanted) - sum(places) / len(places)
    shift = min(max(shift, low - min(places)), high - max(places))
    return [place + shift for place in places]
