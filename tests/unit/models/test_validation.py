"""Validation refuses what could run code or could not be served, and says which file and what to do."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from node.models.encryption.keyring import KeyRing
from node.models.encryption.sealing import seal_directory
from node.models.validation import ModelInvalidError, validate_model
from node.protocol.identifiers import ModelId

ONE_TENSOR = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
INDEX = "model.safetensors.index.json"


def write_safetensors(path: Path, *, cut: int = 0, header: Mapping[str, object] = ONE_TENSOR) -> None:
    encoded = json.dumps(header).encode()
    data = len(encoded).to_bytes(8, "little") + encoded + bytes(24)
    path.write_bytes(data[: len(data) - cut])


def named(tensor: str) -> dict[str, object]:
    return {tensor: ONE_TENSOR["w"]}


def index_of(model: Path, weight_map: object) -> None:
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def two_parts(model: Path) -> None:
    """Make the weights two files with an index."""
    (model / "model.safetensors").unlink()
    write_safetensors(model / "model-00001-of-00002.safetensors", header=named("a"))
    write_safetensors(model / "model-00002-of-00002.safetensors", header=named("b"))
    index_of(model, {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})


def config_of(model: Path, **more: object) -> None:
    (model / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **more}))


def tokenizer_of(model: Path, **values: object) -> None:
    (model / "tokenizer_config.json").write_text(json.dumps(values))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512})
    )
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    write_safetensors(tmp_path / "model.safetensors")
    return tmp_path


def test_a_whole_model_passes(model: Path) -> None:
    facts = validate_model(model)
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.context_length == 512
    assert (facts.weight_bytes, facts.files, facts.generates, facts.pickled) == (24, 4, True, ())


def test_a_model_in_parts_passes_and_so_do_weights_in_subdirectories(model: Path) -> None:
    two_parts(model)
    (model / "2_Dense").mkdir()
    write_safetensors(model / "2_Dense" / "model.safetensors", header=named("a"))
    assert validate_model(model).weight_bytes == 72


def spoil_second_part(model: Path, header: Mapping[str, object]) -> None:
    two_parts(model)
    write_safetensors(model / "model-00002-of-00002.safetensors", header=header)


def without_part(model: Path, *, with_index: bool) -> None:
    two_parts(model)
    (model / "model-00002-of-00002.safetensors").unlink()
    if not with_index:
        (model / INDEX).unlink()


def nested(model: Path) -> None:
    (model / "original").mkdir()
    (model / "original" / "part.safetensors").write_bytes(b"\xff" * 40)


def without_index(model: Path) -> None:
    two_parts(model)
    (model / INDEX).unlink()


def stranger(model: Path) -> None:
    two_parts(model)
    write_safetensors(model / "consolidated.safetensors", header=named("c"))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        # configuration
        (lambda m: (m / "config.json").unlink(), "config.json is missing"),
        (lambda m: (m / "config.json").write_text("["), "config.json is not JSON"),
        (lambda m: (m / "config.json").write_text(""), "config.json is empty"),
        (lambda m: (m / "config.json").write_text("[]"), "config.json is not a JSON object"),
        (lambda m: (m / "config.json").write_text("[" * 100_000), "config.json is not JSON"),
        (lambda m: (m / "config.json").write_text('{"a": 1, "a": 2}'), "the key 'a' stands twice"),
        (lambda m: config_of(m, auto_map={}), "auto_map"),
        (lambda m: (m / "config.json").write_text("{}"), "no architectures"),
        (lambda m: config_of(m, architectures="LlamaForCausalLM"), "no architectures"),
        (lambda m: config_of(m, architectures=[3]), "no architectures"),
        (lambda m: (m / "generation_config.json").write_text('{"a":'), "generation_config.json is not JSON"),
        # what could run, what is not whole
        (lambda m: (m / "pytorch_model.bin").write_bytes(b"x"), "pytorch_model.bin: pickled weights"),
        (lambda m: (m / "WEIGHTS.PTH").write_bytes(b"x"), "WEIGHTS.PTH: pickled weights"),
        (lambda m: (m / ".hidden.pkl").write_bytes(b"x"), "hidden.pkl: pickled weights"),
        (lambda m: (m / "modeling.py").write_bytes(b"x"), "modeling.py: code"),
        (lambda m: (m / "model.safetensors.incomplete").write_bytes(b"x"), "a download that was cut off"),
        (lambda m: (m / "link").symlink_to("/etc/passwd"), "link is a symbolic link"),
        (lambda m: (m / "encrypted-model.json").write_text("{}"), "the model is encrypted"),
        # tokenizer
        (lambda m: (m / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda m: (m / "tokenizer.json").write_text("version https://git-lfs"), "tokenizer.json is not JSON"),
        (lambda m: (m / "tokenizer_config.json").unlink(), "tokenizer_config.json is missing"),
        (tokenizer_of, "no chat_template"),
        (lambda m: tokenizer_of(m, chat_template=5), "neither a text nor a list"),
        (lambda m: tokenizer_of(m, chat_template=""), "neither a text nor a list"),
        (lambda m: tokenizer_of(m, chat_template=[]), "neither a text nor a list"),
        (lambda m: tokenizer_of(m, chat_template=[{"name": "x"}]), "neither a text nor a list"),
        (lambda m: tokenizer_of(m, chat_template=[{"template": "x"}]), "neither a text nor a list"),
        (lambda m: tokenizer_of(m, chat_template=[{"name": "x", "template": ["y"]}]), "neither a text nor a list"),
        (lambda m: tokenizer_of(m, chat_template="x", auto_map={}), "tokenizer_config.json has auto_map"),
        (lambda m: (m / "chat_template.jinja").write_text(" \n"), "chat_template.jinja is empty"),
        (lambda m: (m / "chat_template.jinja").write_bytes(b"\xff\xfe"), "chat_template.jinja is not UTF-8"),
        # weights
        (lambda m: (m / "model.safetensors").unlink(), "no \\*.safetensors"),
        (lambda m: (m / "model.safetensors").write_bytes(b""), "model.safetensors is empty"),
        (lambda m: (m / "model.safetensors").write_bytes(b"version https://git-lfs.github"), "git lfs pull"),
        (lambda m: (m / "model.safetensors").write_bytes(b"\xff" * 40), "cut off"),
        (lambda m: write_safetensors(m / "model.safetensors", cut=3), "model.safetensors has .* cut off"),
        (lambda m: write_safetensors(m / "model.safetensors", header={}), "holds no tensors"),
        (nested, "original/part.safetensors is not a safetensors file"),
        # all together
        (lambda m: index_of(m, {"w": "../x.safetensors"}), "not in the directory"),
        (lambda m: index_of(m, {"w": "model.safetensors", "v": "model.safetensors"}), "'v' is in model.safetensors"),
        (lambda m: index_of(m, {"w": 7}), "names 7"),
        (lambda m: index_of(m, []), "no weight_map"),
        (lambda m: index_of(m, {}), "no weight_map"),
        (lambda m: (m / INDEX).write_text('{"weight_map": {"w": "model.safetensors", "w": "x"}}'), "stands twice"),
        (lambda m: spoil_second_part(m, named("a")), "'a' is in model-00001-of-00002.safetensors and in model-00002"),
        (lambda m: spoil_second_part(m, named("c")), "'b' is in model-00002-of-00002.safetensors, but no file has it"),
        (
            lambda m: (two_parts(m), index_of(m, {"a": "model-00002-of-00002.safetensors"})),
            "'a' is in model-00002-of-00002.safetensors, but it is in model-00001",
        ),
        (
            lambda m: (two_parts(m), index_of(m, {"a": "model-00001-of-00002.safetensors"})),
            "does not have 'b' of model-00002",
        ),
        (stranger, "does not have 'c' of consolidated"),
        (lambda m: without_part(m, with_index=True), "model-00002-of-00002.safetensors is missing"),
        (lambda m: without_part(m, with_index=False), "model-00002-of-00002.safetensors is missing"),
        (without_index, "model.safetensors.index.json is missing"),
    ],
)
def test_what_is_wrong_is_named(model: Path, spoil: Callable[[Path], object], named: str) -> None:
    spoil(model)
    with pytest.raises(ModelInvalidError, match=named):
        validate_model(model)


@pytest.mark.parametrize("template", ["{{ messages }}", [{"name": "default", "template": "{{ messages }}"}]])
def test_every_form_of_chat_template_passes(model: Path, template: object) -> None:
    tokenizer_of(model, chat_template=template)
    index_of(model, {"w": "model.safetensors"})
    validate_model(model)


def test_a_chat_template_in_a_file_of_its_own_passes(model: Path) -> None:
    tokenizer_of(model)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert validate_model(model).generates


@pytest.mark.parametrize(
    ("architecture", "generates"),
    [
        ("LlamaForCausalLM", True),
        ("GPT2LMHeadModel", True),
        ("Qwen2VLForConditionalGeneration", True),
        ("SomethingNew", True),
        ("BertModel", False),
        ("XLMRobertaForSequenceClassification", False),
        ("MistralModel", False),
    ],
)
def test_models_that_answer_need_a_chat_template_and_models_that_embed_do_not(
    model: Path, architecture: str, generates: bool
) -> None:
    config_of(model, architectures=[architecture])
    assert validate_model(model).generates is generates
    tokenizer_of(model)
    if generates:
        with pytest.raises(ModelInvalidError, match="chat_template"):
            validate_model(model)
    else:
        validate_model(model)


def test_an_embedding_model_is_known_by_its_mark_whatever_its_architecture(model: Path) -> None:
    (model / "modules.json").write_text("[]")
    tokenizer_of(model)
    assert not validate_model(model).generates


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"n_positions": 7}, 7),
        ({"text_config": {"max_position_embeddings": 9}}, 9),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": -1}, None),
        ({"max_position_embeddings": 2**40}, None),
        ({"max_position_embeddings": 1.5}, None),
        ({"time_step_limit": float("inf")}, None),
    ],
)
def test_the_context_length_is_what_the_configuration_says_or_nothing(
    model: Path, config: dict[str, object], length: int | None
) -> None:
    config_of(model, **config)
    assert validate_model(model).context_length == length


def test_an_owner_may_ask_for_pickled_weights_and_they_are_marked_but_code_stays_refused(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"x")
    assert validate_model(model, allow_pickle=True).pickled == ("pytorch_model.bin",)
    (model / "model.safetensors").unlink()
    assert validate_model(model, allow_pickle=True).weight_bytes == 0
    (model / "modeling.py").write_bytes(b"x")
    with pytest.raises(ModelInvalidError, match=r"modeling\.py: code"):
        validate_model(model, allow_pickle=True)


def test_what_a_downloader_keeps_for_itself_is_no_fault(model: Path) -> None:
    (model / ".cache" / "huggingface").mkdir(parents=True)
    (model / ".cache" / "huggingface" / "x.incomplete").write_bytes(b"x")
    validate_model(model)


def test_an_encrypted_model_is_checked_as_far_as_that_goes_without_its_key(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("owner")
    sealed = seal_directory(model, folder / "staging", KeyRing(folder / "keys"), ModelId("x")).directory
    facts = validate_model(sealed.path, encrypted=True)
    assert (facts.architecture, facts.files) == ("", 6)
    with pytest.raises(ModelInvalidError, match="its record on chain has to say so"):
        validate_model(sealed.path)
    with pytest.raises(ModelInvalidError, match="no encrypted model"):
        validate_model(model, encrypted=True)
    sealed.containers[0].unlink()
    with pytest.raises(ModelInvalidError, match=r"00000\.sealed is missing"):
        validate_model(sealed.path, encrypted=True)
