"""Command that gives an account the key of an encrypted model, wrapped for it alone."""

import click
import trio

from contracts.bindings import access_vault, model_registry, participant_registry
from node.chain.owner_calls import (
    RefusedError,
    ask,
)
from node.models.encryption.keyring import KeyRingError
from node.models.encryption.keys import ContentKey, KeyId
from node.models.encryption.wrapping import (
    Recipient,
    RecipientError,
    account_recipient,
    node_recipient,
    peer_recipient,
    wrap_key,
)
from node.models.owner_keys import owned_key, published_key_id
from node.protocol.identifiers import Address, Cid, ModelId
from scripts.owner.options import ACCOUNT, Options, sending_options
from scripts.owner.registry import Registry, change_vault, open_registry

BARE_KEY_BYTES = 32
"""A content key before it is wrapped: whoever publishes that gives the model away."""


@click.command("wrap-key")
@click.argument("model_id")
@click.argument("account", type=ACCOUNT)
@click.option("--public-key", help="The account's public key, if it has neither a node nor an encryption key on chain.")
@click.option("--key-id", help="Id of the key to wrap.  [default: that of the current version]")
@click.option("--wrapped", help="The content key, wrapped already, as hex; nothing is wrapped here then.")
@sending_options
async def set_wrapped_key(
    options: Options,
    *,
    model_id: str,
    account: Address,
    public_key: str | None,
    key_id: str | None,
    wrapped: str | None,
) -> None:
    """Give an account the key of an encrypted model.

    It is encrypted for that account and deposited in the AccessVault. The account needs access first (`gate give`). Run
    this where the model was encrypted; the key goes to the node that the account has registered, to the encryption key
    it has published, or to the account itself with --public-key, which `quern vault public-key --account` prints.
    """
    given = None if wrapped is None else _wrapped_key(wrapped)
    async with open_registry(options) as registry:
        recipient = await _recipient(registry, account, public_key)
        deposit = given
        if deposit is None:
            key = await _content_key(options, registry, ModelId(model_id), key_id)
            deposit = wrap_key(key, ModelId(model_id), recipient)
        call = access_vault.set_wrapped_key(model_id, account, deposit)
        await change_vault(options, registry, f"deposit {account}'s key for {model_id}", call, model_id)


async def _recipient(registry: Registry, account: Address, public_key: str | None) -> Recipient:
    """Return whom to wrap for: what was given, else what the account has on chain."""
    try:
        if public_key is not None:
            return account_recipient(_hex(public_key, "--public-key"), account)
        published = await ask(registry.rpc, registry.addresses.access_vault, access_vault.encryption_key_of(account))
        if any(published):
            return node_recipient(published)
        peer_id = await ask(
            registry.rpc, registry.addresses.participant_registry, participant_registry.peer_id_of(account)
        )
        if peer_id:
            return peer_recipient(peer_id)
    except RecipientError as error:
        raise RefusedError(f"a key cannot be wrapped for {account}: {error}") from error
    raise RefusedError(
        f"{account} has no node registered and has published no encryption key: give --public-key, which its owner "
        "prints with `quern vault public-key --account`"
    )


async def _content_key(options: Options, registry: Registry, model_id: ModelId, key_id: str | None) -> ContentKey:
    if options.keys_dir is None or options.content_dir is None:
        raise click.UsageError(
            "give --config with the settings of the daemon that serves the model; its keys are there"
        )
    try:
        if key_id is None:
            known = await ask(registry.rpc, registry.addresses.model_registry, model_registry.get_model(model_id))
            wanted = await trio.to_thread.run_sync(published_key_id, options.content_dir, Cid(known.cid))
        else:
            wanted = KeyId(_hex(key_id, "--key-id"))
        return owned_key(options.keys_dir, model_id, wanted)
    except KeyRingError as error:
        raise RefusedError(str(error)) from error


def _wrapped_key(text: str) -> bytes:
    key = _hex(text, "--wrapped")
    if len(key) <= BARE_KEY_BYTES:
        raise click.UsageError(
            f"--wrapped has {len(key)} bytes, as a bare key has: it would be published for everybody to read. "
            "Leave it out, and the key is encrypted for the account"
        )
    return key


def _hex(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise click.UsageError(f"{option} is not hex") from error
