"""Who takes part in a simulation: how many nodes follow which strategy, and how many honest ones come and go.

A population is a TOML file, or one of `populations/` by its name:

    cartel = "a third"      # of those who are not listed below, as many as stay below a third
    churning_per_mille = 200  # of honest nodes

    [nodes]
    other-model = 2         # strategies of netsim/adversaries.py; everyone else is honest
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from netsim.adversaries import STRATEGIES

POPULATIONS = Path(__file__).parent / "populations"
HONEST = "honest"
HONEST_MIN = 3
"""A gateway, and two to answer it."""


class PopulationError(ValueError):
    """A declaration that cannot be run."""


@dataclass(frozen=True, slots=True)
class Population:
    """A declaration."""

    name: str
    cheats: Mapping[str, int]
    """Nodes by strategy."""
    with_cartel: bool = False
    """Of all the others, as many as stay below a third are a cartel."""
    churning_per_mille: int = 0

    def strategies(self, nodes: int) -> tuple[str, ...]:
        """Return the strategy of each of `nodes` nodes: honest ones first. Raises PopulationError if they are few."""
        listed = [name for name, count in sorted(self.cheats.items()) for _ in range(count)]
        others = nodes - len(listed)
        cartel = max(0, (others - 1) // 3) if self.with_cartel else 0
        honest = others - cartel
        if honest < HONEST_MIN:
            raise PopulationError(f"{self.name}: {honest} of {nodes} nodes are honest; there have to be {HONEST_MIN}")
        return (*[HONEST] * honest, *["cartel"] * cartel, *listed)


def read_population(name: str) -> Population:
    """Read a file, or the population of that name. Raises PopulationError."""
    path = Path(name)
    path = path if path.suffix == ".toml" else POPULATIONS / f"{name}.toml"
    try:
        return parse_population(path.stem, path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(found.stem for found in POPULATIONS.glob("*.toml")))
        raise PopulationError(f"{name} is neither a file nor one of {known}: {error}") from error


def parse_population(name: str, text: str) -> Population:
    """Read a declaration. Raises PopulationError."""
    try:
        told = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PopulationError(f"{name}: {error}") from error
    unknown = told.keys() - {"cartel", "churning_per_mille", "nodes"}
    cheats, churning = told.get("nodes", {}), told.get("churning_per_mille", 0)
    if unknown or not isinstance(cheats, dict):
        raise PopulationError(f"{name}: nothing is known of {', '.join(sorted(unknown)) or 'such nodes'}")
    strange = sorted(cheats.keys() - STRATEGIES.keys())
    if strange:
        raise PopulationError(f"{name}: no strategy {', '.join(strange)}; there are {', '.join(sorted(STRATEGIES))}")
    if any(not isinstance(count, int) or count < 0 for count in (churning, *cheats.values())) or churning > 1000:
        raise PopulationError(f"{name}: nodes are counted in whole numbers, churning ones of a thousand")
    if told.get("cartel", "none") not in ("none", "a third"):
        raise PopulationError(f'{name}: a cartel is "a third" or "none"')
    return Population(name, cheats, told.get("cartel") == "a third", churning)
