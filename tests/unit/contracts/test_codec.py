"""Calls, logs and reverts by name: exact in what is sent, and reverts told in words."""

import pytest
from eth_abi.abi import encode as oracle_encode
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from contracts import abi
from contracts.codec import decode_log, decode_result, describe_revert, encode_call

ACCOUNT = "0x5B38Da6a701c568545dCfcB03FcB875f56beddC4"


def revert(signature: str, *values: object) -> bytes:
    return keccak(signature.encode())[:4] + oracle_encode(abi.argument_types(signature), values)


def test_a_custom_error_is_told_with_its_values() -> None:
    data = revert("InsufficientCollateral(uint256,uint256)", 5, 3)
    assert describe_revert(data, "execution reverted") == "InsufficientCollateral: wanted 5, available 3"


def test_an_error_without_values_is_told_by_its_name() -> None:
    assert describe_revert(revert("AmountZero()"), "execution reverted") == "AmountZero"


def test_an_errors_enum_is_told_by_its_member() -> None:
    data = revert("WrongStage(uint64,uint64,uint8)", 4, 5, 1)
    assert describe_revert(data, "") == "WrongStage: wanted epoch 4, current epoch 5, current stage GENERATE"


def test_an_errors_bytes_are_told_in_hex_and_its_lists_item_by_item() -> None:
    assert describe_revert(revert("ResultVoid(bytes32)", bytes(31) + b"\1"), "").endswith("00000001")
    assert describe_revert(revert("InvalidModels(string[])", ["a", "b"]), "") == "InvalidModels: model ids [a, b]"


def test_require_with_a_text_is_told_by_the_text() -> None:
    assert describe_revert(revert("Error(string)", "out of luck"), "execution reverted") == "out of luck"


def test_a_panic_is_told_with_its_meaning() -> None:
    assert describe_revert(revert("Panic(uint256)", 0x11), "") == "Panic 0x11: arithmetic overflow or underflow"
    assert describe_revert(revert("Panic(uint256)", 0x99), "") == "Panic 0x99"


def test_an_unknown_error_keeps_the_endpoints_message_and_names_the_selector() -> None:
    assert describe_revert(bytes.fromhex("deadbeef"), "execution reverted") == (
        "execution reverted (unknown error 0xdeadbeef)"
    )


@given(st.binary(max_size=3))
def test_data_too_short_for_an_error_leaves_the_endpoints_message(data: bytes) -> None:
    assert describe_revert(data, "execution reverted") == "execution reverted"


@given(
    st.sampled_from(["Error(string)", "Panic(uint256)", "InvalidModels(string[])", "WrongStage(uint64,uint64,uint8)"]),
    st.binary(max_size=200),
)
def test_malformed_error_data_never_raises(signature: str, garbage: bytes) -> None:
    assert describe_revert(keccak(signature.encode())[:4] + garbage, "execution reverted")


def test_a_name_that_means_several_functions_is_refused() -> None:
    with pytest.raises(ValueError, match="several"):
        encode_call("InferenceCoordinator", "submitPrompt", ["cid", "model"])
    assert encode_call("InferenceCoordinator", "submitPrompt(string,string)", ["cid", "model"])


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(KeyError, match="PaymentChannels has no function fly"):
        encode_call("PaymentChannels", "fly", [])


@given(st.binary(max_size=40).filter(lambda root: len(root) != 32))
def test_a_hash_of_the_wrong_length_is_refused_not_padded(root: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        encode_call("PaymentChannels", "redeem", [ACCOUNT, ACCOUNT, 1, root, b""])


@pytest.mark.parametrize("amount", [-1, 2**256, 1.5, "1", None])
def test_an_amount_that_does_not_fit_is_refused(amount: object) -> None:
    with pytest.raises(ValueError, match="uint256"):
        encode_call("PaymentChannels", "deposit", [ACCOUNT, amount])


@pytest.mark.parametrize("account", [ACCOUNT.replace("B", "b"), ACCOUNT.lower(), ACCOUNT[:-2], "", None, bytes(20)])
def test_an_address_with_a_wrong_checksum_or_none_is_refused(account: object) -> None:
    with pytest.raises(ValueError, match="checksummed address"):
        encode_call("PaymentChannels", "deposit", [account, 1])


def test_too_few_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"deposit\(address,uint256\) takes 2 values, got 1"):
        encode_call("PaymentChannels", "deposit", [ACCOUNT])


def test_addresses_come_back_checksummed() -> None:
    (decoded,) = decode_result("PaymentChannels", "token", oracle_encode(["address"], [ACCOUNT.lower()]))
    assert decoded == ACCOUNT


def test_a_log_is_decoded_by_name_without_its_hashed_arguments() -> None:
    topics = [
        keccak(b"ModelDeactivated(string,address)"),
        keccak(b"tiny"),
        oracle_encode(["address"], [ACCOUNT]),
    ]
    log = decode_log("ModelRegistry", topics, b"")
    assert (log.name, dict(log.arguments)) == ("ModelDeactivated", {"owner": ACCOUNT})
    with pytest.raises(ValueError, match="expected 2 indexed"):
        decode_log("ModelRegistry", topics[:2], b"")
    with pytest.raises(ValueError, match="not an event"):
        decode_log("ModelRegistry", [bytes(32)], b"")
