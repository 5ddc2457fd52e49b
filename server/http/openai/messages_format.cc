// Answers of Anthropic's Messages API.
#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/concat.h"
#include "server/http/openai/answer_format.h"
#include "server/http/openai/api_error.h"
#include "server/http/openai/api_fields.h"
#include "server/json_text.h"

namespace tessera {
namespace {

using jinja::Concat;

enum class BlockKind : uint8_t { kThinking, kText, kCall };

struct Block {
  BlockKind kind = BlockKind::kText;
  std::string text;  // of a call: its arguments
  std::string id;
  std::string name;
};

std::string BlockJson(const Block& block) {
  const std::string text = JsonQuoted(block.text);
  switch (block.kind) {
    case BlockKind::kThinking:
      return Concat("{\"type\":\"thinking\",\"thinking\":", text, ",\"signature\":\"\"}");
    case BlockKind::kText:
      return Concat("{\"type\":\"text\",\"text\":", text, "}");
    case BlockKind::kCall:
      break;
  }
  // The input of a call that was cut off is no object.
  const bool is_object = ParseApiBody(block.text).ok();
  return Concat("{\"type\":\"tool_use\",\"id\":", JsonQuoted(block.id),
                ",\"name\":", JsonQuoted(block.name), ",\"input\":", is_object ? block.text : "{}",
                "}");
}

// Cached tokens are counted apart, not among input_tokens.
std::string UsageJson(const v1::Usage& usage) {
  return Concat("{\"input_tokens\":", usage.prompt_tokens() - usage.cached_tokens(),
                ",\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":",
                usage.cached_tokens(), ",\"output_tokens\":", usage.completion_tokens(), "}");
}

// Both forms of the answer come from the same blocks; a stream also tells how they grow.
class MessagesFormat final : public AnswerFormat {
 public:
  explicit MessagesFormat(const AnswerFacts* facts) : facts_(*facts) {}

  std::string Whole(const std::vector<PromptOutput>& outputs) override {
    std::string ignored;
    Take(outputs.front(), &ignored);
    return MessageJson(outputs.front().response.usage());
  }

  void AppendEvents(size_t, const PromptOutput& output, std::string* events) override {
    Begin(output.response.usage(), events);
    Take(output, events);
  }

  void AppendEnd(const v1::Usage& usage, std::string* events) override {
    Begin(usage, events);
    CloseBlock(events);
    AppendNamed("message_delta",
                Concat("\"delta\":{", StopMembers(), "},\"usage\":", UsageJson(usage)), events);
    AppendNamed("message_stop", "", events);
  }

  void AppendFailure(const HttpError& error, std::string* events) override {
    events->append("event: error\n");
    AppendEvent(MessagesErrorJson(error), events);
  }

 private:
  std::string_view StopReason() const {
    if (finish_.reason() == v1::Finish::REASON_LENGTH) return "max_tokens";
    // A call that the request asked for by name ends like a text elsewhere.
    const bool has_calls = std::any_of(blocks_.begin(), blocks_.end(), [](const Block& block) {
      return block.kind == BlockKind::kCall;
    });
    if (has_calls) return "tool_use";
    return finish_.has_stop() ? "stop_sequence" : "end_turn";
  }

  std::string StopMembers() const {
    if (!has_finish_) return "\"stop_reason\":null,\"stop_sequence\":null";
    return Concat("\"stop_reason\":\"", StopReason(), "\",\"stop_sequence\":",
                  finish_.has_stop() ? JsonQuoted(finish_.stop()) : "null");
  }

  std::string MessageJson(const v1::Usage& usage) const {
    std::string content;
    for (const Block& block : blocks_) {
      content += Concat(content.empty() ? "" : ",", BlockJson(block));
    }
    return Concat(
        "{\"id\":", JsonQuoted(facts_.id),
        ",\"type\":\"message\",\"role\":\"assistant\",\"model\":", JsonQuoted(facts_.model),
        ",\"content\":[", content, "],", StopMembers(), ",\"usage\":", UsageJson(usage), "}");
  }

  static void AppendNamed(std::string_view type, const std::string& members, std::string* events) {
    events->append(Concat("event: ", type, "\n"));
    AppendEvent(Concat("{\"type\":\"", type, "\"", members.empty() ? "" : ",", members, "}"),
                events);
  }

  void Begin(const v1::Usage& usage, std::string* events) {
    if (std::exchange(has_begun_, true)) return;
    AppendNamed("message_start", Concat("\"message\":", MessageJson(usage)), events);
  }

  void Take(const PromptOutput& output, std::string* events) {
    for (const v1::Choice& choice : output.response.choices()) {
      if (!choice.reasoning().empty()) Grow(BlockKind::kThinking, choice.reasoning(), events);
      if (!choice.text().empty()) Grow(BlockKind::kText, choice.text(), events);
      for (const v1::ToolCall& call : choice.tool_calls()) TakeCall(call, events);
      if (!choice.has_finish()) continue;
      has_finish_ = true;
      finish_ = choice.finish();
    }
  }

  void TakeCall(const v1::ToolCall& call, std::string* events) {
    if (!facts_.request->parallel_tool_calls && call.index() > 0) return;
    if (!call.id().empty()) {
      OpenBlock({.kind = BlockKind::kCall, .id = call.id(), .name = call.name()}, events);
    }
    if (!call.arguments().empty()) Append(call.arguments(), events);
  }

  void Grow(BlockKind kind, const std::string& text, std::string* events) {
    if (!is_open_ || blocks_.back().kind != kind) OpenBlock({.kind = kind}, events);
    Append(text, events);
  }

  std::string Place() const { return Concat("\"index\":", blocks_.size() - 1); }

  void OpenBlock(Block block, std::string* events) {
    CloseBlock(events);
    is_open_ = true;
    blocks_.push_back(std::move(block));
    AppendNamed("content_block_start",
                Concat(Place(), ",\"content_block\":", BlockJson(blocks_.back())), events);
  }

  void Append(const std::string& text, std::string* events) {
    Block& block = blocks_.back();
    block.text += text;
    const std::string_view delta =
        block.kind == BlockKind::kThinking ? "{\"type\":\"thinking_delta\",\"thinking\":"
        : block.kind == BlockKind::kText   ? "{\"type\":\"text_delta\",\"text\":"
                                           : "{\"type\":\"input_json_delta\",\"partial_json\":";
    AppendNamed("content_block_delta", Concat(Place(), ",\"delta\":", delta, JsonQuoted(text), "}"),
                events);
  }

  void CloseBlock(std::string* events) {
    if (std::exchange(is_open_, false)) AppendNamed("content_block_stop", Place(), events);
  }

  const AnswerFacts& facts_;
  std::vector<Block> blocks_;
  bool is_open_ = false;  // the last block grows
  bool has_begun_ = false;
  bool has_finish_ = false;
  v1::Finish finish_;
};

}  // namespace

std::unique_ptr<AnswerFormat> NewMessagesFormat(const AnswerFacts* facts) {
  return std::make_unique<MessagesFormat>(facts);
}

}  // namespace tessera
