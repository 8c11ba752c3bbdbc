"""Which files of a model are taken: patterns to include and to exclude. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*")
"""What a model needs. Pickled weights and code are not even downloaded unless they are asked for by name."""
PATTERNS_MAX = 64
PATTERN_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True)
class Selection:
    """Files that match one of `include` (all, if that is empty) and none of `exclude`; `*` also matches `/`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse more than the limits."""
        patterns = (*self.include, *self.exclude)
        if len(patterns) > PATTERNS_MAX or any(not 0 < len(item) <= PATTERN_CHARACTERS_MAX for item in patterns):
            raise ValueError(f"at most {PATTERNS_MAX} patterns of 1 to {PATTERN_CHARACTERS_MAX} characters")

    def takes(self, path: str) -> bool:
        """Whether the file at `path` is taken."""
        included = not self.include or any(fnmatchcase(path, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(path, pattern) for pattern in self.exclude)


def select(paths: Sequence[str], selection: Selection) -> list[str]:
    """Return those of `paths` that are taken, in their order."""
    return [path for path in paths if selection.takes(path)]
