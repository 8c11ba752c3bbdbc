"""Looks after published models and their gates.

\b
What reads needs only the chain; what changes something needs the account that owns the ModelRegistry, or for a gate the
account that proposed the model. Where that is another one (a timelock), nothing is sent: the call is printed, to be
proposed, and the exit code is 3. Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 to be proposed.

\b
Examples:
  owner_tools.py list --config ~/.quern/quern.toml
  owner_tools.py history tiny --rpc http://127.0.0.1:8545 --deployment deployment.json
  owner_tools.py update tiny bafy… --dry-run
  owner_tools.py gate set tiny --pay-token 0x… --price 2.5 --access-days 30
"""

import click

from scripts.owner.gate import gate
from scripts.owner.models import calibrate, deactivate, export, get, history, list_models, register, set_spec, update
from scripts.owner.parameters import parameters
from scripts.owner.wrapped_keys import set_wrapped_key


@click.group(help=__doc__, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Command line."""


for command in (list_models, get, history, register, update, deactivate, set_spec, calibrate, export, parameters, gate):
    main.add_command(command)
gate.add_command(set_wrapped_key)


if __name__ == "__main__":
    main()
