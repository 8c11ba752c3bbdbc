"""What the contracts have to reach, and what makes measuring them repeatable. All numbers of the gates stand here."""

LINE_COVERAGE_PERCENT_MIN = 97.0
"""Of all lines of src/ together: what is not run in a test is not known to work, and contracts cannot be repaired."""

COVERAGE_OPTIONS: tuple[str, ...] = ()
"""For `forge coverage`, which compiles without the optimizer. `--ir-minimum` is for "stack too deep" only: it measures
lines less exactly."""

FUZZ_SEED = "0x51756572"
"""As in foundry.toml: other random inputs cost other gas."""

FUZZ_THREADS = 1
"""With more, how the inputs are shared out depends on the machine's cores, and with it the gas of fuzz tests."""

FUZZ_DICTIONARY_PERCENT = 0
"""Share of fuzz inputs taken from constants in the sources: with any, a new contract would change the gas of all fuzz
tests. For measuring gas only; the tests themselves use forge's own share."""

FORGE_SECONDS_MAX = 900
"""Longer means that forge hangs; the slowest gate takes about half a minute."""
