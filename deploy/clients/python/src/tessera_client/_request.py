"""Requests of the API from keywords."""
from __future__ import annotations

import json
from typing import Any, Dict, Literal, Mapping, Optional, Sequence, TypedDict, Union

from . import _schema
from .types import Message

Prompt = Union[str, Sequence[int], Sequence[Union[Message, Mapping[str, Any]]]]


class Options(TypedDict, total=False):
    """Keywords of generate and stream. What is not given is the server's or the model's default."""

    model: str
    request_id: str
    n: int
    max_tokens: int
    min_tokens: int
    stop: Union[str, Sequence[str]]
    ignore_eos: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    tools: Sequence[Mapping[str, Any]]  # OpenAI's form
    tool_choice: str  # "auto", "none", "required", or the name of a tool
    json_schema: Union[str, Mapping[str, Any]]  # of these four no more than one: what the answer looks like
    regex: str
    choice: Sequence[str]
    grammar: str  # GBNF
    thinking: Union[bool, Literal["auto"]]  # "auto": the server chooses by the question
    max_thinking_tokens: int
    min_answer_tokens: int  # of max_tokens, kept from the thinking
    confidence: bool  # say how sure the model was: Choice.confidence
    salt: str  # of the prefix cache
    priority: int


_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
             "frequency_penalty", "seed")
_STOPPING = ("max_tokens", "min_tokens", "ignore_eos")
_TOP = ("model", "request_id", "n", "priority")
_STRUCTURE = ("json_schema", "regex", "grammar")
_TOOL_CHOICES = {"auto": 1, "none": 2, "required": 3}
_TOOL_CHOICE_NAMED = 4
_KNOWN = set(Options.__annotations__)


def generate_request(prompt: Prompt, options: Options) -> Any:
    unknown = set(options) - _KNOWN
    if unknown:
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(sorted(_KNOWN))}")
    given: Dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    request = _schema.message("GenerateRequest")()
    _set_prompt(request, prompt)
    for target, names in ((request, _TOP), (request.sampling, _SAMPLING), (request.stopping, _STOPPING)):
        for name in names:
            if name in given:
                setattr(target, name, given[name])
    stop = given.get("stop", ())
    request.stopping.stop.extend([stop] if isinstance(stop, str) else stop)
    if "tools" in given:
        request.chat.tools.extend(json.dumps(tool, ensure_ascii=False) for tool in given["tools"])
    if "tool_choice" in given:
        _set_tool_choice(request.chat, given["tool_choice"])
    for name in _STRUCTURE:
        if name in given:
            value = given[name]
            setattr(request.constraints, name,
                    value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    if "choice" in given:
        request.constraints.choice.texts.extend(given["choice"])
    if "thinking" in given:
        # MODE_AUTO, MODE_THINK, MODE_NO_THINK
        request.reasoning.mode = 1 if given["thinking"] == "auto" else 2 if given["thinking"] else 3
    for name in ("max_thinking_tokens", "min_answer_tokens"):
        if name in given:
            setattr(request.reasoning, name, given[name])
    if "confidence" in given:
        request.response.confidence = given["confidence"]
    if "salt" in given:
        request.cache.salt = given["salt"]
    return request


def _set_tool_choice(chat: Any, choice: str) -> None:
    chat.tool_choice = _TOOL_CHOICES.get(choice, _TOOL_CHOICE_NAMED)
    if chat.tool_choice == _TOOL_CHOICE_NAMED:
        chat.tool_name = choice


def _set_prompt(request: Any, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = prompt
        return
    parts = list(prompt)
    if parts and all(isinstance(part, int) for part in parts):
        request.token_ids.ids.extend(parts)
        return
    request.chat.SetInParent()
    for part in parts:
        if isinstance(part, Message):
            _add_message(request.chat, part)
        elif isinstance(part, Mapping):
            request.chat.messages.add(**part)
        else:
            raise TypeError("a prompt is a text, token ids, or messages (Message or dict)")


def _add_message(chat: Any, message: Message) -> None:
    out = chat.messages.add(role=message.role, content=message.content, tool_call_id=message.tool_call_id)
    if message.reasoning:
        out.reasoning_content = message.reasoning
    for call in message.tool_calls:
        out.tool_calls.add(id=call.id, name=call.name, arguments=call.arguments)


def tokenize_request(prompt: Prompt, model: Optional[str]) -> Any:
    request = _schema.message("TokenizeRequest")(model=model or "")
    if isinstance(prompt, str):
        request.text = prompt
    else:
        whole = _schema.message("GenerateRequest")()
        _set_prompt(whole, prompt)
        request.chat.CopyFrom(whole.chat)
    return request
