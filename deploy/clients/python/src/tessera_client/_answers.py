"""Answers of the API as our types."""
from __future__ import annotations

from typing import Any, List

from .errors import StreamLost
from .types import Answer, Choice, Confidence, Load, ModelInfo, Piece, ServerInfo, ToolCall, Usage

_REASONS = {1: "stop", 2: "length", 3: "tool_calls", 4: "cancelled"}


def usage_of(usage: Any) -> Usage:
    return Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens,
                 cached_tokens=usage.cached_tokens, reasoning_tokens=usage.reasoning_tokens)


class Gatherer:
    """Joins the messages of a call, of a stream or a whole one, to an answer."""

    def __init__(self, num_choices: int) -> None:
        self.answer = Answer("", [Choice(index) for index in range(num_choices)], Usage())

    def add(self, message: Any) -> List[Piece]:
        self.answer.request_id = message.request_id or self.answer.request_id
        self.answer.usage = usage_of(message.usage)
        return [self._add_choice(delta) for delta in message.choices]

    def _add_choice(self, delta: Any) -> Piece:
        choice = self.answer.choices[delta.index]
        choice.text += delta.text
        choice.reasoning += delta.reasoning
        choice.token_ids.extend(delta.token_ids)
        for call in delta.tool_calls:
            self._add_call(choice, call)
        if delta.HasField("finish"):
            choice.finish_reason = _REASONS.get(delta.finish.reason, "unknown")
            if delta.finish.HasField("confidence"):
                found = delta.finish.confidence
                choice.confidence = Confidence(found.mean, found.lowest, found.tokens)
        return Piece(index=delta.index, text=delta.text, reasoning=delta.reasoning,
                     token_ids=tuple(delta.token_ids),
                     finish_reason=choice.finish_reason if delta.HasField("finish") else None,
                     usage=self.answer.usage)

    @staticmethod
    def _add_call(choice: Choice, call: Any) -> None:
        if call.index == len(choice.tool_calls):
            choice.tool_calls.append(ToolCall(call.id, call.name, call.arguments))
            return
        before = choice.tool_calls[call.index]
        choice.tool_calls[call.index] = ToolCall(before.id, before.name, before.arguments + call.arguments)

    def check_end(self) -> None:
        """Whatever the status: what has no finish was lost on the way."""
        if any(choice.finish_reason is None for choice in self.answer.choices):
            raise StreamLost("UNAVAILABLE", "the stream ended before its last piece")


def model_info(message: Any) -> ModelInfo:
    return ModelInfo(**{name: getattr(message, name) for name in ModelInfo.__annotations__})


def server_info(message: Any) -> ServerInfo:
    return ServerInfo(**{name: getattr(message, name) for name in ServerInfo.__annotations__})


def load(message: Any) -> Load:
    return Load(**{name: getattr(message, name) for name in Load.__annotations__})
