"""How hard the large engine tries: its ladder of efforts, widths and threads (no compiled code here)."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Bits of one word of a search key; the sign bit serves, too, since keys are only told apart and sorted.
KEY_BITS = 64
#: Bits of the widest keys, of several words, that end a search exactly.
WIDE_BITS = 256


@dataclass(frozen=True, slots=True)
class Effort:
    """One rung of the ladder: subgradient steps, then a search.

    width
        Labels kept per level; None keeps all (exhaustive), 0 does not search.
    """

    steps: int
    width: int | None


#: Subgradient steps on all plans together, before they are split by first group.
JOINT_STEPS = 400
LADDER = (Effort(150, 0), Effort(0, 100), Effort(800, 1_000), Effort(800, 10_000), Effort(0, None))
#: With few labels the search costs less than good multipliers, and a short ladder does.
SHORT_JOINT_STEPS = 10
SHORT_LADDER = (Effort(3, 0), Effort(0, None))
FEW_LABELS = 5_000.0
#: A quick look whether any plan exists, where none is known.
PROBE_LADDER = (Effort(150, 0), Effort(100, 100), Effort(200, 1_000))
#: The solver ``beam``.
BEAM_LADDER = LADDER[:3]


@dataclass(slots=True)
class Trace:
    """What the large engine did, in words.

    `notes` are sentences for the report; `proof` says how the bound of the last core was proven (empty: by the plain
    relaxation and the labels it prunes), and `kind` names its sort where that is another than this engine's own.
    """

    notes: list[str] = field(default_factory=list)
    proof: str = ""
    kind: str = ""

    def note(self, sentence: str) -> None:
        """Add a sentence, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the large engine.

    ladder
        Efforts to climb, or None to choose by the size of the core.
    key_bits, wide_bits
        Widest key of a core that is searched at once; widest key of what is left of a reduced one.
    word_bits
        Bits of one word of a key.
    joint_steps
        Subgradient steps on all plans together, or None to choose by the size of the core.
    trace
        Filled while it runs.
    """

    threads: int = 1
    ladder: tuple[Effort, ...] | None = None
    key_bits: int = KEY_BITS
    joint_steps: int | None = None
    trace: Trace = field(default_factory=Trace, compare=False)
    wide_bits: int = WIDE_BITS
    word_bits: int = KEY_BITS
