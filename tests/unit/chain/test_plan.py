"""Plans: the example of the operators' guide is one, and what is wrong with another is told by its key."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from node.chain.plan import PlanError, cost_of_fraud, read_plan
from tests.builders import account

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "operators.md"


def example() -> dict[str, Any]:
    """The plan in the guide, with addresses in place of its dots."""
    found = re.search(r"```json\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    numbers = iter(range(1, 100))
    text = re.sub(r"0x…", lambda _: account(next(numbers)), found.group(1))
    plan: dict[str, Any] = json.loads(text)
    return plan


def written(folder: Path, plan: object) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    return path


def test_the_guides_example_is_a_plan(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, example()))
    assert plan.governance is not None
    assert plan.token_cap == 10_000_000 * 10**18
    assert len(plan.genesis_group) == 3
    assert plan.fraud_penalty.per_mille == 1000
    assert cost_of_fraud(plan).startswith("Fraud costs 500 tokens")


def test_what_the_guide_says_may_be_left_out_may_be(tmp_path: Path) -> None:
    whole = example()
    kept = ("token_cap", "token_supply", "treasury", "genesis_group", "parameters", "min_collateral")
    plan = read_plan(written(tmp_path, {key: whole[key] for key in kept}))
    assert plan.governance is None
    assert plan.vesting_seconds == 0


def test_the_collateral_that_deters_must_be_named_and_a_plan_without_any_is_warned_of(tmp_path: Path) -> None:
    plan = example()
    del plan["min_collateral"]
    with pytest.raises(PlanError, match="min_collateral"):
        read_plan(written(tmp_path, plan))
    for change in ({"min_collateral": "0"}, {"fraud_penalty": {"per_mille": 0, "barred_epochs": 30}}):
        assert cost_of_fraud(read_plan(written(tmp_path, {**example(), **change}))).startswith("Warning")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"token_cap": 10_000_000}, "token_cap"),
        ({"treasury": "0x1234"}, "treasury"),
        ({"genesis_group": {}}, "genesis_group"),
        ({"genesis_group": {account(1): 0}}, "genesis_group"),
        ({"min_colateral": "1"}, "min_colateral"),
        ({"min_collateral": 500}, "min_collateral"),
        ({"fraud_penalty": {"per_mille": 1001, "barred_epochs": 0}}, "fraud_penalty.per_mille"),
        ({"verdict_blocks": 7200 * 14}, "forgotten"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(PlanError, match=re.escape(told)):
        read_plan(written(tmp_path, {**example(), **change}))


def test_stages_out_of_order_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    plan = example()
    plan["parameters"]["form_offset"] = plan["parameters"]["load_offset"]
    with pytest.raises(PlanError, match="increase"):
        read_plan(written(tmp_path, plan))
    with pytest.raises(PlanError, match="not a plan"):
        read_plan(tmp_path / "absent.json")
    (tmp_path / "plan.json").write_text("{", encoding="utf-8")
    with pytest.raises(PlanError, match="not a plan"):
        read_plan(tmp_path / "plan.json")
