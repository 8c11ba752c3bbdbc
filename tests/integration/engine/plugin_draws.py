"""Reads batches of draws as JSON, chooses by the plug-in, writes the tokens: runs in the engine's environment.

`plugin_draws.py PLUGIN_DIRECTORY`: on standard input a list of batches, each a list of rows as in sampling.json. Ends
with an error if logits that are no numbers end it.
"""

import json
import sys

import numpy as np


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    # The line above says where it is.
    from quern_draws import Chooser, Draw, DrawTable  # noqa: PLC0415

    def table_of(rows: list[dict[str, int]]) -> object:
        names = ("topK", "topPMilli", "minPMilli")
        return DrawTable(
            [Draw(row["seed"], max(10, row["temperatureMilli"]), *(row[name] for name in names)) for row in rows]
        )

    chooser = Chooser()
    answers = []
    for rows in json.loads(sys.stdin.read()):
        logits = np.array([row["logits"] for row in rows], np.float32)
        positions = np.array([row["position"] for row in rows])
        answers.append(chooser.choose(logits, table_of(rows), positions).tolist())
        for broken in (np.nan, np.inf, -np.inf):
            spoilt = logits.copy()
            spoilt[0], spoilt[-1, 3] = broken, broken
            others = slice(1, len(rows) - 1)
            assert chooser.choose(spoilt, table_of(rows), positions).tolist()[others] == answers[-1][others]
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
