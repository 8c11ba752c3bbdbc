"""What an operator can do about each reason of lost pay or points; about which there is nothing to be done, and why."""

LOOK_AT_VOTES = "`quern poc EPOCH` shows who voted. If this node did not: its log of that stage says why."
SAME_ENGINE = (
    "This machine computes other numbers than those that judged it: see `quern nodes` for the engine's version, "
    "`quern model verify` for damaged files, and whether the model is calibrated for your hardware (`quern models`): "
    "if not, ask its owner to measure it (docs/calibration.md)."
)

REMEDIES = {
    "no-result": LOOK_AT_VOTES + " If all did, `quern why-differ EPOCH --peer ACCOUNT` shows where results differ.",
    "result-void": "`quern poc EPOCH` says what was wrong with it, and who objected.",
    "no-batch": "The ML node was not ready, or its transaction came too late: see `quern nodes`, and the log from "
    "GENERATE on.",
    "throughput": "It was drawn to serve instead of mining: was it ready all that time? See `quern nodes` and the log.",
    "coverage": "Serve the models named below with nodes of your own, or go without the bonus.",
    "fraud": "See `quern audit EPOCH` and `quern poc EPOCH` for the evidence.",
    "narrowly-proven": "See `quern audit EPOCH`. The engine draws otherwise than those that judged it: "
    "`quern model verify` finds damaged files, and `quern conformance` tells whether it keeps to the rule.",
    "not-counted": "`quern chain collateral` shows what is missing, or until when the account is barred.",
    "rejected": SAME_ENGINE,
    "mismatches": SAME_ENGINE,
    "cumulated-mismatches": SAME_ENGINE,
    "too-small": SAME_ENGINE + " Larger batches bear more differences.",
    "nonces-differ": SAME_ENGINE,
    "too-many-nonces": "This daemon commits a million at most: does another program commit with this account's key? "
    "Whoever makes more registers another ML node for them.",
    "copied": "See `quern poc EPOCH`. If the batch was computed here, report it.",
    "wrong-size": "The vectors on this disk are not what was committed: `quern content verify` finds damage.",
    "root-mismatch": "The vectors on this disk are not what was committed: `quern content verify` finds damage.",
    "nobody-could-judge": "Too few in the group serve this model. It is paid once others do.",
    "judges-split": "`quern poc EPOCH --batch ACCOUNT/NODE` shows who found it wrong. If they run other hardware than "
    "this node, the model has to be calibrated for both kinds (`quern models`); if the same, see `quern nodes` for the "
    "engine's version, and `quern model verify` for damaged files.",
    "few-judges": "Too few in the group serve this model. All of it counts once others do.",
    "file-withheld": "Others could not fetch the file of the batch: `quern network` tells whether peers reach you.",
    "narrowly-rejected": SAME_ENGINE,
    "too-few-to-reject": SAME_ENGINE + " If it is right, more judge it once more members serve this model.",
    "model-not-registered": "See `quern models`: is the model active, and did the node register before GENERATE began?",
    "audit-failed": "See `quern audit EPOCH`; `quern conformance` tells whether a server draws tokens by the rule.",
    "batch-rejected": SAME_ENGINE,
    "slow": "Fewer requests at once (`concurrency` of the ML node) are answered faster.",
    "absent": "`quern network` shows whether peers reach this node.",
    "withheld": "The daemon has to run, and be reached, in the epoch after it answered: see `quern network`.",
    "no-votes": "See `quern alerts list` and the log of VALIDATE: was the chain reached, and is there gas money?",
    "not-computed": "`quern score` says how often. Once: were votes and engine of one version and one model? See "
    "`quern nodes` and `quern model verify`. Again and again: this hardware differs too much from that of the others; "
    "serve a model with it that they do not.",
    "evidence-differs": "Votes and evidence are made together, so this daemon as it is published does not do that: "
    "does another program, or a second daemon, vote with this account's key? If not, report it.",
    "evidence-withheld": "The daemon has to run, and be reached, in the epoch after it voted: see `quern network`.",
    "unjudged": "Judging took too long: is the engine busy with requests? See `quern nodes`.",
    "unaudited": "Auditing took too long: is the engine busy with requests? See `quern nodes`.",
}
"""By code of unpaid.REASONS or scores.REASONS; EPOCH stands for the number of the epoch it is about."""

WITHOUT_REMEDY = {
    "no-nonces": "The contract takes no commitment to nothing, so no batch is ever told so.",
    "undecided": "Every undecided batch has a reason of its own, and that is what is shown.",
}
"""The reasons that no operator meets, and why not."""
