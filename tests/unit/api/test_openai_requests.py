"""What users send: taken as OpenAI means it, or refused with the name of the parameter; nothing breaks the reader."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from node.api.openai.bodies import BODY_BYTES_MAX, parse_body
from node.api.openai.chat_request import ChatParameters
from node.api.openai.completion_request import CompletionParameters
from node.api.openai.embedding_request import EmbeddingParameters
from node.api.openai.faults import ApiError
from node.api.openai.parameters import IGNORED
from node.protocol.sampling import SamplingParameters

MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def chat(**fields: Any) -> ChatParameters:
    body = {"model": "tiny", "messages": MESSAGES, **fields}
    return parse_body(ChatParameters, json.dumps(body).encode(), IGNORED)


def refusal(body: bytes, schema: Any = ChatParameters) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_body(schema, body, IGNORED).requests()
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [*MESSAGES, {"role": "robot", "content": "x"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": "x", "nmae": "y"}]}, "messages[0].nmae"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"n": True}, "n"),
        ({"temperature": 9}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -1}, "seed"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
        ),
        ({"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"modalities": ["audio"]}, "modalities[0]"),
        ({"functions": []}, "functions"),
        ({"best_of": 1}, "best_of"),
        ({"guided_json": {}}, "guided_json"),
        ({"quern": {"colour": 1}}, "quern.colour"),
        ({"made_up": 1}, "made_up"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    fault = refusal(json.dumps({"model": "tiny", "messages": MESSAGES, **fields}).encode())
    assert (fault.status, fault.kind, fault.param) == (400, "invalid_request_error", param)
    assert param.split("[", maxsplit=1)[0].split(".", maxsplit=1)[0] in fault.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b"\xff\xfe",
        b'{"model": "a", "model": "b", "messages": []}',
        b'{"model": "tiny", "messages": [{"role": "user", "role": "system", "content": "x"}]}',
        b'{"temperature": NaN}',
        b'{"temperature": 1e999}',
        b'{"temperature": -Infinity}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"[" * 400_000,
        b'{"a":' * 100_000,
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
def test_what_is_not_json_or_is_ambiguous_is_refused(body: bytes) -> None:
    assert refusal(body).status == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": ["x"] * 40, "n": 2}, "n"),
        ({"prompt": [1], "echo": True}, "echo"),
        ({"prompt": "x", "echo": True, "logprobs": 1}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({}, "prompt"),
    ],
)
def test_completions_refuse_by_name_too(fields: dict[str, Any], param: str) -> None:
    fault = refusal(json.dumps({"model": "tiny", **fields}).encode(), CompletionParameters)
    assert fault.param is not None
    assert fault.param.startswith(param.split("[", maxsplit=1)[0])


@pytest.mark.parametrize("value", ["", [], [""], [[]], [1, -1], 5, {"a": 1}, ["x"] * 3000])
def test_embeddings_refuse_by_name_too(value: object) -> None:
    body = json.dumps({"model": "tiny", "input": value}).encode()
    with pytest.raises(ApiError) as caught:
        parse_body(EmbeddingParameters, body, IGNORED).inputs()
    assert caught.value.param is not None
    assert caught.value.param.startswith("input")


def test_what_does_not_change_the_answer_is_let_pass() -> None:
    parameters = chat(user="me", metadata={"a": "b"}, store=True, service_tier="auto", n=None, tools=None, stop=None)
    (request,) = parameters.requests()
    assert request.sampling == SamplingParameters()
    assert request.stop == ()


def test_roles_and_parts_arrive_as_the_network_has_them() -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}]},
        {"role": "assistant", "content": None, "refusal": "I will not."},
    ]
    (request,) = chat(messages=messages).requests()
    assert [(turn.role, turn.content) for turn in request.prompt.turns] == [
        ("system", "Be short."),
        ("assistant", "I will not."),
    ]


def test_a_body_of_many_faults_is_refused_for_a_few() -> None:
    """No list of a stranger makes as many errors as it has entries."""
    many = BODY_BYTES_MAX // 8
    bodies = [
        (CompletionParameters, {"model": "tiny", "prompt": [*range(many // 4), "x"]}),
        (CompletionParameters, {"model": "tiny", "prompt": [-1] * many}),
        (CompletionParameters, {"model": "tiny", "prompt": [[-1]] * (many // 2)}),
        (EmbeddingParameters, {"model": "tiny", "input": [-1] * many}),
        (ChatParameters, {"model": "tiny", "messages": [1] * many}),
        (ChatParameters, {"model": "tiny", "messages": [{"role": "user", "content": [1] * many}]}),
        (ChatParameters, {"model": "tiny", "messages": [{"role": "user", "content": [1] * 1000}] * 256}),
        (ChatParameters, {"model": "tiny", "messages": [{"role": "user", **{f"x{n}": n for n in range(many // 4)}}]}),
        (ChatParameters, {"model": "tiny", "messages": MESSAGES, "tools": [1] * many}),
        (
            ChatParameters,
            {"model": "tiny", "messages": MESSAGES, "logit_bias": {str(n): "x" for n in range(many // 4)}},
        ),
        (ChatParameters, {"model": "tiny", "messages": MESSAGES, **{f"x{n}": n for n in range(many // 4)}}),
    ]
    for schema, body in bodies:
        written = json.dumps(body).encode()
        fault = refusal(written, schema)
        assert len(json.dumps(fault.body())) < 8192
        assert not isinstance(fault.__cause__, ValidationError) or fault.__cause__.error_count() < 1000


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KNOWN = [*ChatParameters.model_fields, *CompletionParameters.model_fields, "input", "encoding_format", "user"]
LIKELY = st.sampled_from(
    [MESSAGES, "tiny", [TOOL], "auto", "required", {"type": "json_object"}, [1, 2], ["a"], True, 1, 0.5, {"1": 1}, "x"]
)


@given(
    st.sampled_from([ChatParameters, CompletionParameters, EmbeddingParameters]),
    st.dictionaries(st.sampled_from(KNOWN), JSON_VALUES | LIKELY, max_size=8),
    st.booleans(),
)
def test_any_json_is_taken_or_refused_in_order(schema: Any, fields: dict[str, Any], has_base: bool) -> None:
    base = {"model": "tiny", "messages": MESSAGES} if schema is ChatParameters else {"model": "tiny", "prompt": "x"}
    body = json.dumps({**(base if has_base else {}), **fields}).encode()
    try:
        parameters = parse_body(schema, body, IGNORED)
        if isinstance(parameters, EmbeddingParameters):
            parameters.inputs()
        else:
            parameters.requests()
    except ApiError as fault:
        assert 400 <= fault.status < 500
        assert fault.message
        json.dumps(fault.body(), allow_nan=False)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_order(body: bytes) -> None:
    assert refusal(body).status == 400
