"""What few can judge, epoch after epoch: no trick of a cartel takes the tenth from the honest who serve rare models."""

from collections.abc import Callable, Iterable, Mapping, Set

import pytest

from node.protocol.findings import ThinWeight
from node.protocol.identifiers import Address, EpochNumber, ModelId, NodeId
from node.protocol.judges import Judges
from node.protocol.nonces import BATCH_NONCES_MAX
from node.protocol.outcomes import node_outcomes
from node.protocol.records import PocCommit
from tests.builders import NODE, account, bundle_of
from tests.unit.protocol.test_outcomes import RULE, batch, vote

COMMON, RARE, FAKE = ModelId("common"), ModelId("rare"), ModelId("fake")
MACHINE = 100_000
HONEST, HOSTS = range(1, 8), (10, 11)
DUST = 30
Claims = dict[tuple[int, ModelId, str], int]


class Network:
    """Members and what they have with each model, from one epoch to the next."""

    def __init__(self, shares: Mapping[tuple[int, ModelId], int]) -> None:
        self.shares = dict(shares)
        self._epoch = EpochNumber(4)
        self._remembered: tuple[ThinWeight, ...] = ()

    def step(
        self,
        claims: Claims,
        able: Callable[[int, ModelId], bool],
        *,
        serving: Mapping[tuple[int, ModelId], int] | None = None,
        silent: Set[int] = frozenset(),
    ) -> None:
        """Let an epoch pass in which each member finds all batches valid of models that it is able to judge."""
        serving = serving or {}
        batches = [batch(n, count, model_id=m, node_id=NodeId(node)) for (n, m, node), count in claims.items()]
        batches.sort(key=lambda commit: (commit.participant.lower(), commit.node_id))
        weights = self._weights()
        proven: dict[ModelId, dict[Address, int]] = {}
        for (n, m), weight in self.shares.items():
            proven.setdefault(m, {})[account(n)] = weight
        declared = {
            m: {account(n): w for n, w in weights.items() if able(n, m)}
            for m in {model_id for _, model_id, _ in claims}
        }
        found = node_outcomes(
            self._epoch,
            {(commit.participant, commit.node_id): commit for commit in batches},
            {
                account(n): bundle_of(n, *(vote(commit) for commit in batches if _judges(n, commit, able)))
                for n in weights
                if n not in silent
            },
            {account(n): weight for n, weight in weights.items()},
            {(commit.participant, commit.node_id): RULE for commit in batches},
            Judges(proven, declared),
            (),
            {(account(n), m): weight for (n, m), weight in serving.items()},
            self._remembered,
        )
        numbers = {account(n): n for n in range(1, 60)}
        self.shares = dict(serving)
        for outcome in found.nodes:
            if outcome.weight:
                share = numbers[outcome.participant], outcome.model_id
                self.shares[share] = self.shares.get(share, 0) + outcome.weight
        self._remembered, self._epoch = found.thin_weights, EpochNumber(self._epoch + 1)

    def percent(self, members: Iterable[int]) -> float:
        """How much of all the weight `members` have."""
        weights = self._weights()
        return 100 * sum(weights.get(n, 0) for n in members) / sum(weights.values())

    def _weights(self) -> dict[int, int]:
        weights: dict[int, int] = {}
        for (n, _), weight in self.shares.items():
            weights[n] = weights.get(n, 0) + weight
        return weights


def _judges(number: int, commit: PocCommit, able: Callable[[int, ModelId], bool]) -> bool:
    return commit.participant != account(number) and able(number, commit.model_id)


def beside_honest_hosts(cartel: Set[int], mining: Callable[[int], int], faking: Callable[[int], Set[int]]) -> Network:
    """Seven with a common model, a pair of hosts of a rare one, and a cartel that has one machine with the common one
    and makes up nonces of a model of its own. By epoch, `mining` says whose the machine is, `faking` who claims.
    """
    network = Network(
        {
            **{(n, COMMON): MACHINE for n in HONEST},
            **{(n, RARE): MACHINE // 4 for n in HOSTS},
            (mining(0), COMMON): MACHINE,
            (DUST, COMMON): 50,
        }
    )

    def able(number: int, model_id: ModelId) -> bool:
        return number in {COMMON: {*HONEST, *cartel, DUST}, RARE: set(HOSTS), FAKE: {*cartel, DUST}}[model_id]

    for epoch in range(1, 25):
        claims: Claims = {(n, COMMON, NODE): MACHINE for n in (*HONEST, mining(epoch))}
        claims |= {(n, RARE, NODE): MACHINE // 4 for n in HOSTS} | {(DUST, COMMON, NODE): 50}
        claims |= {(n, FAKE, f"x{i}"): BATCH_NONCES_MAX for n in faking(epoch) for i in range(2)}
        network.step(claims, able)
    return network


@pytest.mark.parametrize("accounts", [2, 3, 4])
def test_accounts_that_hand_one_machine_on_get_no_more_of_the_tenth_than_one_without_weight(accounts: int) -> None:
    cartel = range(20, 20 + accounts)
    apart = beside_honest_hosts(set(cartel), lambda _: 20, lambda _: {21})
    hopping = beside_honest_hosts(
        set(cartel),
        lambda epoch: cartel[epoch % accounts],
        lambda epoch: {n for n in cartel if n != cartel[epoch % accounts]},
    )
    assert apart.percent(HOSTS) == pytest.approx(5.0, abs=0.01)
    assert hopping.percent(HOSTS) == pytest.approx(apart.percent(HOSTS), abs=0.01)
    assert hopping.percent(cartel) == pytest.approx(apart.percent(cartel), abs=0.01)


def test_nor_do_accounts_of_which_one_mined_a_little_of_the_fakes_to_be_remembered() -> None:
    cartel = {20, 21}
    hopping = beside_honest_hosts(cartel, lambda epoch: 20 + epoch // 10 % 2, lambda _: cartel)
    assert hopping.percent(HOSTS) == pytest.approx(5.0, abs=0.01)


@pytest.mark.parametrize("fakers", [1, 3])
def test_growth_by_judges_crowds_nobody_out_of_what_it_had(fakers: int) -> None:
    """Two and more vouch for each other, and a ninth of what they have is backed anew in each epoch."""
    cartel = set(range(20, 21 + fakers))
    network = beside_honest_hosts(cartel, lambda _: 20, lambda _: cartel - {20})
    assert network.percent(HOSTS) == pytest.approx(5.0, abs=0.01)


def test_accounts_that_take_turns_with_fakes_get_nothing_back_for_it() -> None:
    """Each of them had the tenth once; in a bad epoch, in which few of the common batches are judged, all claim it."""

    def after(faking: Callable[[int], Set[int]]) -> float:
        cartel = set(range(20, 30))
        network = Network({**{(n, COMMON): MACHINE for n in HONEST}, (20, FAKE): 20_000, (21, FAKE): 20_000})

        def able(number: int, model_id: ModelId) -> bool:
            return (number in cartel) is (model_id == FAKE)

        for epoch in range(12):
            mining = HONEST[: 4 if epoch == 10 else None]
            claims: Claims = {(n, COMMON, NODE): MACHINE for n in mining}
            claims |= {(n, FAKE, f"x{i}"): BATCH_NONCES_MAX for n in faking(epoch) for i in range(8)}
            network.step(claims, able)
        return network.percent(cartel)

    steady = after(lambda _: {20, 21})
    turning = after(lambda epoch: {20 + epoch} if epoch < 10 else set(range(20, 30)))
    assert turning <= steady + 0.5


@pytest.mark.parametrize("sizes", [[1] * 10, [1] * 3, [3, 1, 1]], ids=["ten equals", "three equals", "a heavy one"])
@pytest.mark.parametrize("do_honest_serve", [True, False])
def test_fakes_that_serve_are_within_the_tenth(sizes: list[int], *, do_honest_serve: bool) -> None:
    """Half of what a cartel's nodes have may serve and be kept; it was beside the pool, and 18 % in all."""
    honest = dict(enumerate((size * MACHINE for size in sizes), 1))
    cartel, nodes = (20, 21), 16
    network = Network({**{(n, COMMON): w for n, w in honest.items()}, **{(n, FAKE): 20_000 for n in cartel}})

    def able(number: int, model_id: ModelId) -> bool:
        return (number in honest) is (model_id == COMMON)

    for epoch in range(12):
        serving = {(n, m): w // 2 for (n, m), w in network.shares.items() if epoch and (m == FAKE or do_honest_serve)}
        claims: Claims = {(n, COMMON, NODE): w - serving.get((n, COMMON), 0) for n, w in honest.items()}
        claims |= {(n, FAKE, f"x{i}"): BATCH_NONCES_MAX for n in cartel for i in range(nodes)}
        network.step(claims, able, serving=serving)
        assert network.percent(cartel) <= 10


def test_what_was_lost_comes_back_although_a_cartel_claims_and_took_its_place() -> None:
    """Of a pair of hosts neither is judged in one epoch, for both have no link; and are back in the next."""
    cartel = {20, 21}
    network = beside_honest_hosts(cartel, lambda _: 20, lambda _: {21})

    def able(number: int, model_id: ModelId) -> bool:
        return number in {COMMON: {*HONEST, *cartel, DUST}, RARE: {*HOSTS, DUST}, FAKE: {*cartel, DUST}}[model_id]

    claims: Claims = {(n, COMMON, NODE): MACHINE for n in (*HONEST, 20)} | {(DUST, COMMON, NODE): 50}
    claims |= {(21, FAKE, f"x{i}"): BATCH_NONCES_MAX for i in range(2)}
    rare: Claims = {(n, RARE, NODE): MACHINE // 4 for n in HOSTS}
    network.step(claims, able)
    assert network.percent(HOSTS) == 0
    network.step(claims | rare, able)
    assert network.percent(HOSTS) > 3


@pytest.mark.parametrize("is_squatted", [True, False])
def test_who_filled_the_tenth_first_keeps_no_later_model_out(*, is_squatted: bool) -> None:
    """A faker and a friend of dust had all of it for four epochs, before a pair came to a rare model."""
    network = Network({**{(n, COMMON): MACHINE for n in (*HONEST, *HOSTS)}, (DUST, COMMON): 50})

    def able(number: int, model_id: ModelId) -> bool:
        return number in {COMMON: {*HONEST, *HOSTS, DUST}, RARE: set(HOSTS), FAKE: {20, DUST}}[model_id]

    for epoch in range(12):
        claims: Claims = {(n, COMMON, NODE): MACHINE for n in HONEST} | {(DUST, COMMON, NODE): 50}
        claims |= {(n, COMMON if epoch < 4 else RARE, NODE): MACHINE // 2 for n in HOSTS}
        if is_squatted:
            claims |= {(20, FAKE, f"x{i}"): BATCH_NONCES_MAX for i in range(2)}
        network.step(claims, able)
    assert network.percent(HOSTS) == pytest.approx(5 if is_squatted else 10, abs=0.01)
    assert network.percent({20}) == pytest.approx(5 if is_squatted else 0, abs=0.01)


def test_a_squatter_has_one_part_of_the_tenth_for_each_model_that_nobody_runs() -> None:
    network = Network({**{(n, COMMON): MACHINE for n in HONEST}, **{(n, RARE): 20_000 for n in HOSTS}})
    empty = [ModelId(f"empty-{i}") for i in range(4)]

    def able(number: int, model_id: ModelId) -> bool:
        return (number in HONEST) if model_id == COMMON else (number in HOSTS) is (model_id == RARE)

    for _ in range(6):
        claims: Claims = {(n, COMMON, NODE): MACHINE for n in HONEST} | {(n, RARE, NODE): MACHINE for n in HOSTS}
        claims |= {(20, m, f"x{m}"): BATCH_NONCES_MAX for m in empty}
        claims |= {(21, m, f"y{m}"): BATCH_NONCES_MAX for m in empty}
        network.step(claims, able)
    assert network.percent(HOSTS) == pytest.approx(10 / (1 + len(empty)), abs=0.5)


def test_fakes_that_serve_are_of_their_model_s_part() -> None:
    """They took off the pool before it was shared: two thirds were theirs beside honest hosts that do not serve."""
    shares = {**{(n, COMMON): MACHINE for n in HONEST}, **{(n, RARE): 40_000 for n in HOSTS}}
    network = Network({**shares, (20, FAKE): 1000, (21, FAKE): 1000})

    def able(number: int, model_id: ModelId) -> bool:
        return number in {COMMON: HONEST, RARE: HOSTS, FAKE: (20, 21)}[model_id]

    for _ in range(8):
        serving = {(n, FAKE): network.shares.get((n, FAKE), 0) // 2 for n in (20, 21)}
        claims: Claims = {(n, COMMON, NODE): MACHINE for n in HONEST} | {(n, RARE, NODE): MACHINE for n in HOSTS}
        claims |= {(n, FAKE, f"x{i}"): BATCH_NONCES_MAX for n in (20, 21) for i in range(2)}
        network.step(claims, able, serving=serving)
    assert network.percent(HOSTS) == pytest.approx(5, abs=0.01)
    assert network.percent({20, 21}) == pytest.approx(5, abs=0.01)


def test_who_comes_to_a_rare_model_shares_the_full_tenth_with_those_who_have_it() -> None:
    network = Network({**{(n, COMMON): MACHINE for n in HONEST}, **{(n, RARE): 40_000 for n in HOSTS}})

    def able(number: int, model_id: ModelId) -> bool:
        return number in ({*HOSTS, 12} if model_id == RARE else HONEST)

    for epoch in range(20):
        hosts = HOSTS if epoch < 4 else (*HOSTS, 12)
        claims: Claims = {(n, COMMON, NODE): MACHINE for n in HONEST} | {(n, RARE, NODE): MACHINE for n in hosts}
        network.step(claims, able)
        if epoch == 4:
            assert network.percent({12}) > 0.5
    assert network.percent({12}) > 3
    assert network.percent({*HOSTS, 12}) == pytest.approx(10, abs=0.01)


def pair_models(number: int) -> ModelId:
    return ModelId(f"m{(number - 1) // 2}")


@pytest.mark.parametrize("pairs", [3, 4, 8])
def test_pairs_that_turn_to_another_rare_model_keep_their_weight_and_have_it_once(pairs: int) -> None:
    """Where nothing is widely judged: it was a ninth, and never again more. They mine the old model again later on."""
    model_of = {n: pair_models(n) for n in range(1, 2 * pairs + 1)}
    network = Network(dict.fromkeys(model_of.items(), MACHINE))

    def able(number: int, model_id: ModelId) -> bool:
        return model_id in (model_of[number], pair_models(number))

    for epoch in range(8):
        if epoch in (1, 2):
            model_of |= {n: ModelId(f"new-{epoch}") for n in (2 * epoch - 1, 2 * epoch)}
        network.step({(n, m, NODE): MACHINE for n, m in model_of.items()}, able)
        assert set(network.shares.values()) == {MACHINE}
    turned = range(1, 5)
    claims: Claims = {(n, m, NODE): MACHINE for n, m in model_of.items()}
    network.step(claims | {(n, pair_models(n), "again"): MACHINE for n in turned}, able)
    assert network.percent({1}) <= 100 / (2 * pairs) * 10 / 9


@pytest.mark.parametrize(("is_handed_on", "epochs"), [(False, 31), (True, 18)])
def test_where_nothing_is_widely_judged_colluders_grow_to_a_third_no_faster(*, is_handed_on: bool, epochs: int) -> None:
    """From 1 % of fakes, and a machine of 1 % with a rare model: in each account that it is handed to, it leaves weight
    that moves to fakes."""
    honest, cartel, old = range(1, 13), range(20, 53), pair_models(1)
    share = len(honest) * MACHINE // 98
    shares = {(n, pair_models(n)): MACHINE for n in honest} | {(22, old): share}
    network = Network(shares | {(20, FAKE): share // 2, (21, FAKE): share // 2})

    def able(number: int, model_id: ModelId) -> bool:
        return (
            model_id == FAKE
            if number in (20, 21)
            else model_id in ((FAKE, old) if number > 21 else (pair_models(number),))
        )

    for epoch in range(1, epochs):
        miner = 22 + (epoch % 30 if is_handed_on else 0)
        claims: Claims = {(n, pair_models(n), NODE): MACHINE for n in honest} | {(miner, old, NODE): share}
        claims |= {(n, FAKE, "x"): BATCH_NONCES_MAX for n in (cartel if is_handed_on else (20, 21)) if n != miner}
        network.step(claims, able)
        assert 3 * network.percent(cartel) < 100


def test_fakes_of_a_member_that_comes_to_a_third_by_its_tenth_do_not_take_the_network() -> None:
    """It has 26.2 % of the widely judged work, and with the tenth a third of all: by the word of a friend of dust its
    fakes counted in full then, 98 % in one epoch. (Those of its friend do by its own: it is a third of the others.)"""
    machine = 7 * MACHINE * 262 // 738
    network = Network({**{(n, COMMON): MACHINE for n in HONEST}, (20, COMMON): machine, (DUST, COMMON): 50})

    def able(number: int, model_id: ModelId) -> bool:
        return number in ({*HONEST, 20, DUST} if model_id == COMMON else {20, DUST})

    for _ in range(16):
        claims: Claims = {(n, COMMON, NODE): MACHINE for n in HONEST} | {(20, COMMON, NODE): machine}
        claims |= {(DUST, COMMON, "dust"): 50} | {(20, FAKE, f"x{i}"): BATCH_NONCES_MAX for i in range(40)}
        network.step(claims, able)
    assert network.percent({20}) == pytest.approx(33.58, abs=0.01)


@pytest.mark.parametrize("weights", [(60, 15, 25), (50, 24, 26), (40, 28, 32), (90, 4, 6), (55, 12, 33), (34, 33, 33)])
def test_an_honest_heavy_member_keeps_its_weight_in_each_epoch_beside_others_that_say_nothing(
    weights: tuple[int, int, int],
) -> None:
    """The last of three is a cartel that says nothing."""
    network = Network({(n, COMMON): weight * 1000 for n, weight in enumerate(weights, 1)})
    for _ in range(8):
        network.step(
            {(n, COMMON, NODE): weight * 1000 for n, weight in enumerate(weights, 1)}, lambda *_: True, silent={3}
        )
        assert network.shares[1, COMMON] == weights[0] * 1000


def test_who_comes_to_a_third_by_honest_work_grows_on() -> None:
    network = Network({(n, COMMON): MACHINE for n in HONEST})
    for tenths in range(10, 60, 2):
        machine = MACHINE * tenths // 10
        network.step(
            {(n, COMMON, NODE): machine if n == 1 else MACHINE for n in HONEST}, lambda *_: True, silent={6, 7}
        )
        assert network.shares[1, COMMON] == machine
