"""Why a bound on deployments holds, by its kind, in a sentence for the certificate."""

from __future__ import annotations

from typing import Final

PROOFS: Final = {
    "packing of ceilings per device counts": "the best packing of ceilings, what no replica of so many devices "
    "exceeds, into the devices there are",
    "packing of every replica there is": "the best packing of every replica there is: every sequence of groups, with "
    "every cut that no other beats",
    "fluid of layers over devices": "layers spread over devices like a fluid: every layer of every request runs "
    "somewhere, on devices that have the time and hold what is in flight",
    "prices of devices that no replica outweighs": "prices per device that no replica outweighs, so that together no "
    "replicas are worth more than all devices",
    "work of devices, each at its best": "the work of a request over the most work that each device does in a second, "
    "at the size and batch that suit it best",
}
