"""What goes in and what comes out."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional, Tuple


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for; `arguments` is JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """A turn of a conversation. `role`: system, user, assistant or tool."""

    role: str
    content: str = ""
    reasoning: str = ""
    tool_calls: Tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


def system(content: str) -> Message:
    return Message("system", content)


def user(content: str) -> Message:
    return Message("user", content)


def assistant(content: str) -> Message:
    return Message("assistant", content)


def tool_result(call: ToolCall, content: str) -> Message:
    """What a tool that the model called came to."""
    return Message("tool", content, tool_call_id=call.id)


@dataclass(frozen=True)
class Usage:
    """Tokens. `cached_tokens` of the prompt were in the prefix cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Confidence:
    """Probabilities of the answer's tokens under the model."""

    mean: float
    lowest: float
    tokens: int


@dataclass
class Choice:
    """One of the `n` answers. `finish_reason`: "stop", "length", "tool_calls", None while it runs."""

    index: int
    text: str = ""
    reasoning: str = ""
    tool_calls: List[ToolCall] = field(default_factory=list)
    token_ids: List[int] = field(default_factory=list)
    finish_reason: Optional[str] = None
    confidence: Optional[Confidence] = None  # where it was asked for, at the end

    @property
    def message(self) -> Message:
        """This answer as a turn of the conversation that goes on."""
        return Message("assistant", self.text, self.reasoning, tuple(self.tool_calls))


@dataclass
class Answer:
    """All choices; the properties are those of the first."""

    request_id: str
    choices: List[Choice]
    usage: Usage

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def reasoning(self) -> str:
        return self.choices[0].reasoning

    @property
    def tool_calls(self) -> List[ToolCall]:
        return self.choices[0].tool_calls

    @property
    def finish_reason(self) -> Optional[str]:
        return self.choices[0].finish_reason

    @property
    def message(self) -> Message:
        return self.choices[0].message


@dataclass(frozen=True)
class Piece:
    """What is new of choice `index`. `usage` counts from the start of the request."""

    index: int
    text: str
    reasoning: str
    token_ids: Tuple[int, ...]
    finish_reason: Optional[str]
    usage: Usage


@dataclass(frozen=True)
class ModelInfo:
    name: str
    architecture: str
    vocab_size: int
    max_model_len: int
    num_parameters: int
    has_chat_template: bool
    supports_reasoning: bool


@dataclass(frozen=True)
class ServerInfo:
    version: str
    backend: str
    ready: bool
    uptime_seconds: float
    max_concurrent_requests: int


@dataclass(frozen=True)
class Load:
    num_running: int
    num_waiting: int
    num_waiting_tokens: int
    kv_blocks_total: int
    kv_blocks_used: int
    active_requests: int
