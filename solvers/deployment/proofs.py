"""Why a bound on deployments holds, by its kind, in a sentence for the certificate."""

from __future__ import annotations

from typing import Final

PROOFS: Final = {
    "packing of ceilings per device counts": "every choice of replicas packs their numbers of devices into those there "
    "are, and none is worth more than the ceiling of its devices",
    "packing of every replica there is": "every sequence of groups was tried with every cut that no other beats, and "
    "every choice of those replicas packs their devices into those there are",
    "fluid of layers over devices": "layers spread over devices like a fluid: every layer of every request runs "
    "somewhere, on devices that have the time and hold what is in flight",
    "prices of devices that no replica outweighs": "prices per device that no replica outweighs, so that together no "
    "replicas are worth more than all devices",
    "work of devices, each at its best": "the work of a request over the most work that each device does in a second, "
    "at the size and batch that suit it best",
}
