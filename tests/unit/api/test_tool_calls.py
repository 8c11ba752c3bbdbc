"""Calls in a model's text: the same whatever pieces it comes in, and nothing that strangers write breaks them."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.api.openai.call_formats import CALLS_MAX, CallFormat, CallSyntax, ToolCall, format_of
from node.api.openai.call_reader import HELD_CHARACTERS_MAX, CallReader, Piece
from node.api.openai.json_extent import DEPTH_MAX, Extent, JsonExtent
from tests.builders import model

NAMES = frozenset({"f", "g"})
DETECTED = CallSyntax(CallFormat.DETECTED, NAMES)
F = ToolCall("f", '{"a":1}')


def read(text: str, syntax: CallSyntax = DETECTED, cuts: list[int] | None = None) -> list[Piece]:
    """All that a reader tells of `text`, cut at `cuts`, with neighbouring texts joined."""
    reader = CallReader(syntax)
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts or ())})
    pieces = [piece for start, end in itertools.pairwise(places) for piece in reader.feed(text[start:end])]
    pieces += reader.finish()
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plain <b>text</b>", ["plain <b>text</b>"]),
        ("", []),
        (" \n", [" \n"]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', [F]),
        ('Well.\n\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n', ["Well.", F, "\n"]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', [F]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [F]),
        (
            '<tool_call>{"name": "f", "arguments": {"t": "</tool_call>"}}</tool_call>',
            [ToolCall("f", '{"t":"</tool_call>"}')],
        ),
        ('<tool_call>{"name": "unheard-of"}</tool_call>', [ToolCall("unheard-of", "{}")]),
        ('{"name": "f", "parameters": {"a": 1}}', [F]),
        ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "g"}', [F, ToolCall("g", "{}")]),
        (
            '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
            [F, ToolCall("g", "{}")],
        ),
        ('[{"name": "f", "arguments": {"a": 1}}]', [F]),
        ('[TOOL_CALLS]f{"a":1}[TOOL_CALLS]g[ARGS]{}', [F, ToolCall("g", "{}")]),
    ],
)
def test_each_format_is_understood(text: str, told: list[Piece]) -> None:
    assert read(text) == told


def test_of_demanded_calls_that_are_cut_off_the_whole_ones_are_told() -> None:
    demanded = CallSyntax(CallFormat.LIST, NAMES)
    assert read('[{"name": "f", "parameters": {"a": 1}}, {"name": "g", "para', demanded) == [F]
    assert read('[{"name": "f", "parameters": {"a"', demanded) == ['[{"name": "f", "parameters": {"a"']


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>weather in Ávila</tool_call>",
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": 3}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "f"} and more</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": ',
        '{"name": "unheard-of", "parameters": {}}',
        '{"answer": 42}',
        "[1] says so, [2] does not",
        "[TOOL_CALLS] none",
        "<|python_tag|>print(1)",
        "<tool_call>" + "[" * 10_000,
        "[TOOL_CALLS]" + "n" * 10_000 + "{}",
    ],
)
def test_what_is_no_call_stays_text_to_the_letter(text: str) -> None:
    assert read(text) == [text]


WRITTEN = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(
            [
                "<tool_call>",
                "</tool_call>",
                "[TOOL_CALLS]",
                "[ARGS]",
                "<|python_tag|>",
                '{"name": "f", "arguments": {"a": "}"}}',
                '{"name":"g","parameters":{"b":[1,{"c":"\\""}]}}',
                "[",
                "]",
                "{",
                "}",
                '"',
                "\\",
                ",",
                ";",
                " \n",
                "f",
            ]
        ),
    ),
    max_size=14,
).map("".join)
SYNTAXES = st.sampled_from(
    [*(CallSyntax(form, NAMES, "f") for form in CallFormat), CallSyntax(CallFormat.DETECTED, NAMES, calls_max=1)]
)


@example('[{"name": "f", "arguments": {"a": "}"}}00', [], CallSyntax(CallFormat.LIST, NAMES, "f"))
@given(WRITTEN, st.lists(st.integers(0, 500), max_size=12), SYNTAXES)
def test_pieces_make_no_difference(text: str, cuts: list[int], syntax: CallSyntax) -> None:
    assert read(text, syntax, cuts) == read(text, syntax) == read(text, syntax, list(range(len(text))))


@given(WRITTEN, SYNTAXES)
def test_calls_are_sound_and_text_is_never_invented(text: str, syntax: CallSyntax) -> None:
    told = read(text, syntax)
    for piece in told:
        if isinstance(piece, ToolCall):
            assert isinstance(json.loads(piece.arguments), dict)
            assert piece.name
    rest = iter(text)  # what is shown is part of what was written, in its order
    assert all(character in rest for piece in told if isinstance(piece, str) for character in piece)
    if not any(isinstance(piece, ToolCall) for piece in told):
        assert "".join(piece for piece in told if isinstance(piece, str)) == text


def test_text_that_can_be_no_call_is_told_at_once() -> None:
    reader = CallReader(DETECTED)
    assert reader.feed("Stones") == ["Stones"]
    assert reader.feed(" grind <to") == [" grind"]
    assert reader.feed("ps> flour") == [" <tops> flour"]


def test_a_call_without_an_end_is_let_go_before_it_fills_the_memory() -> None:
    reader = CallReader(DETECTED)
    told = 0
    for _ in range(200):
        told += sum(len(piece) for piece in reader.feed('<tool_call>{"name": "f", "x": "' + "y" * 1000) if piece)
    assert told >= 200 * 1000 - HELD_CHARACTERS_MAX


def test_calls_without_number_are_not_told_without_number() -> None:
    one = '<tool_call>{"name": "f"}</tool_call>'
    told = read(one * 1000)
    assert sum(isinstance(piece, ToolCall) for piece in told) == CALLS_MAX


def test_the_registration_says_the_format_where_it_does() -> None:
    assert format_of(model()) is CallFormat.DETECTED
    for arguments in (("--tool-call-parser", "mistral"), ("--tool-call-parser=mistral",)):
        assert format_of(replace(model(), model_args=arguments)) is CallFormat.MISTRAL
    assert format_of(replace(model(), model_args=("--tool-call-parser", "strange"))) is CallFormat.DETECTED


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4), st.text(max_size=5), st.integers(1, 7))
def test_the_extent_of_an_object_is_the_object(value: dict[str, object], after: str, size: int) -> None:
    written = json.dumps(value)
    text = written + after
    extent = JsonExtent()
    for start in range(0, len(text), size):
        if extent.feed(text[start : start + size]) is Extent.CLOSED:
            break
    assert (extent.state, extent.end) == (Extent.CLOSED, len(written))


def test_depth_is_bounded() -> None:
    assert JsonExtent().feed("[" * DEPTH_MAX) is Extent.OPEN
    assert JsonExtent().feed("[" * (DEPTH_MAX + 1)) is Extent.BROKEN
