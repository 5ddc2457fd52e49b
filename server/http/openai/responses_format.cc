#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/concat.h"
#include "server/http/openai/answer_format.h"
#include "server/json_text.h"

namespace tessera {
namespace {

using jinja::Concat;

enum class ItemKind : uint8_t { kReasoning, kMessage, kCall };

// A part of the answer.
struct Item {
  ItemKind kind = ItemKind::kMessage;
  std::string id;
  std::string text;  // of a call: its arguments
  std::string call_id;
  std::string name;
  std::string logprobs;  // JSON objects with commas between them
};

std::string TextPart(const Item& item) {
  if (item.kind == ItemKind::kReasoning) {
    return Concat("{\"type\":\"reasoning_text\",\"text\":", JsonQuoted(item.text), "}");
  }
  return Concat("{\"type\":\"output_text\",\"text\":", JsonQuoted(item.text),
                ",\"annotations\":[],\"logprobs\":[", item.logprobs, "]}");
}

std::string ItemJson(const Item& item, std::string_view status, bool with_content) {
  const std::string content = with_content ? TextPart(item) : std::string();
  switch (item.kind) {
    case ItemKind::kReasoning:
      return Concat("{\"type\":\"reasoning\",\"id\":\"", item.id, "\",\"summary\":[],\"content\":[",
                    content, "],\"status\":\"", status, "\"}");
    case ItemKind::kMessage:
      return Concat("{\"type\":\"message\",\"id\":\"", item.id,
                    "\",\"role\":\"assistant\",\"status\":\"", status, "\",\"content\":[", content,
                    "]}");
    case ItemKind::kCall:
      break;
  }
  return Concat("{\"type\":\"function_call\",\"id\":\"", item.id,
                "\",\"call_id\":", JsonQuoted(item.call_id), ",\"name\":", JsonQuoted(item.name),
                ",\"arguments\":", with_content ? JsonQuoted(item.text) : "\"\"", ",\"status\":\"",
                status, "\"}");
}

// Both forms of the answer come from the same items; a stream also tells how they grow.
class ResponsesFormat final : public AnswerFormat {
 public:
  explicit ResponsesFormat(const AnswerFacts* facts) : facts_(*facts) {}

  std::string Whole(const std::vector<PromptOutput>& outputs) override {
    std::string ignored;
    Take(outputs.front(), &ignored);
    CloseItem(&ignored);
    return ResponseJson(EndStatus(), &outputs.front().response.usage());
  }

  void AppendEvents(size_t, const PromptOutput& output, std::string* events) override {
    Begin(events);
    Take(output, events);
  }

  void AppendEnd(const v1::Usage& usage, std::string* events) override {
    Begin(events);
    CloseItem(events);
    AppendNamed(Concat("response.", EndStatus()),
                Concat("\"response\":", ResponseJson(EndStatus(), &usage)), events);
  }

  void AppendFailure(const HttpError& error, std::string* events) override {
    Begin(events);
    error_ = Concat("{\"code\":\"server_error\",\"message\":", JsonQuoted(error.message), "}");
    AppendNamed("response.failed", Concat("\"response\":", ResponseJson("failed", nullptr)),
                events);
  }

 private:
  std::string_view EndStatus() const { return is_cut_ ? "incomplete" : "completed"; }

  std::string ResponseJson(std::string_view status, const v1::Usage* usage) const {
    std::string output;
    const bool is_done = status != "in_progress";
    for (size_t i = 0; is_done && i < items_.size(); ++i) {
      // What was cut is the last item.
      const bool is_part = i + 1 == items_.size() && status != "completed";
      output += Concat(i == 0 ? "" : ",",
                       ItemJson(items_[i], is_part ? "incomplete" : "completed", true));
    }
    std::string json =
        Concat("{\"id\":", JsonQuoted(facts_.id),
               ",\"object\":\"response\",\"created_at\":", facts_.created, ",\"status\":\"", status,
               "\",\"error\":", error_, ",\"incomplete_details\":",
               status == "incomplete" ? "{\"reason\":\"max_output_tokens\"}" : "null",
               ",\"model\":", JsonQuoted(facts_.model), ",\"output\":[", output, "]",
               facts_.request->echoed, ",\"usage\":");
    if (usage == nullptr) return json + "null}";
    return Concat(json, "{\"input_tokens\":", usage->prompt_tokens(),
                  ",\"input_tokens_details\":{\"cached_tokens\":", usage->cached_tokens(),
                  "},\"output_tokens\":", usage->completion_tokens(),
                  ",\"output_tokens_details\":{\"reasoning_tokens\":", usage->reasoning_tokens(),
                  "},\"total_tokens\":", usage->prompt_tokens() + usage->completion_tokens(), "}}");
  }

  void AppendNamed(std::string_view type, const std::string& members, std::string* events) {
    events->append(Concat("event: ", type, "\n"));
    AppendEvent(
        Concat("{\"type\":\"", type, "\",\"sequence_number\":", sequence_++, ",", members, "}"),
        events);
  }

  void Begin(std::string* events) {
    if (has_begun_) return;
    has_begun_ = true;
    const std::string response = Concat("\"response\":", ResponseJson("in_progress", nullptr));
    AppendNamed("response.created", response, events);
    AppendNamed("response.in_progress", response, events);
  }

  void Take(const PromptOutput& output, std::string* events) {
    for (const v1::Choice& choice : output.response.choices()) {
      AddLogprobs(choice);
      if (!choice.reasoning().empty() && facts_.request->include_reasoning) {
        Grow(ItemKind::kReasoning, choice.reasoning(), events);
      }
      if (!choice.text().empty()) Grow(ItemKind::kMessage, choice.text(), events);
      for (const v1::ToolCall& call : choice.tool_calls()) TakeCall(call, events);
      is_cut_ = choice.has_finish() && choice.finish().reason() == v1::Finish::REASON_LENGTH;
    }
  }

  // They are of all tokens, those of the reasoning included.
  void AddLogprobs(const v1::Choice& choice) {
    if (choice.logprobs_size() == 0) return;
    constexpr std::string_view kOpen = "{\"content\":[";
    std::string json;
    AppendChatLogprobs(facts_, choice.logprobs(), &json);
    logprobs_ += Concat(logprobs_.empty() ? "" : ",",
                        json.substr(kOpen.size(), json.size() - kOpen.size() - 2));
  }

  void TakeCall(const v1::ToolCall& call, std::string* events) {
    if (!facts_.request->parallel_tool_calls && call.index() > 0) return;
    if (!call.id().empty()) {
      OpenItem({.kind = ItemKind::kCall, .call_id = call.id(), .name = call.name()}, events);
    }
    if (!call.arguments().empty()) Append(call.arguments(), events);
  }

  void Grow(ItemKind kind, const std::string& text, std::string* events) {
    if (!is_open_ || items_.back().kind != kind) OpenItem({.kind = kind}, events);
    Append(text, events);
  }

  std::string Place() const {
    return Concat("\"item_id\":\"", items_.back().id, "\",\"output_index\":", items_.size() - 1);
  }

  void OpenItem(Item item, std::string* events) {
    CloseItem(events);
    is_open_ = true;
    const std::string_view prefix = item.kind == ItemKind::kReasoning ? "rs_"
                                    : item.kind == ItemKind::kMessage ? "msg_"
                                                                      : "fc_";
    item.id = Concat(prefix, facts_.id, "_", items_.size());
    items_.push_back(std::move(item));
    AppendNamed("response.output_item.added",
                Concat("\"output_index\":", items_.size() - 1,
                       ",\"item\":", ItemJson(items_.back(), "in_progress", false)),
                events);
    if (items_.back().kind == ItemKind::kCall) return;
    AppendNamed("response.content_part.added",
                Concat(Place(), ",\"content_index\":0,\"part\":", TextPart(items_.back())), events);
  }

  void Append(const std::string& text, std::string* events) {
    Item& item = items_.back();
    item.text += text;
    const std::string delta = Concat(",\"delta\":", JsonQuoted(text));
    switch (item.kind) {
      case ItemKind::kReasoning:
        return AppendNamed("response.reasoning_text.delta",
                           Concat(Place(), ",\"content_index\":0", delta), events);
      case ItemKind::kMessage:
        return AppendNamed("response.output_text.delta",
                           Concat(Place(), ",\"content_index\":0", delta, ",\"logprobs\":[]"),
                           events);
      case ItemKind::kCall:
        return AppendNamed("response.function_call_arguments.delta", Concat(Place(), delta),
                           events);
    }
  }

  void CloseItem(std::string* events) {
    if (!std::exchange(is_open_, false)) return;
    Item& item = items_.back();
    if (item.kind == ItemKind::kMessage) item.logprobs = std::exchange(logprobs_, {});
    const std::string text = JsonQuoted(item.text);
    if (item.kind == ItemKind::kCall) {
      AppendNamed("response.function_call_arguments.done",
                  Concat(Place(), ",\"name\":", JsonQuoted(item.name), ",\"arguments\":", text),
                  events);
    } else {
      const bool is_message = item.kind == ItemKind::kMessage;
      AppendNamed(
          is_message ? "response.output_text.done" : "response.reasoning_text.done",
          Concat(Place(), ",\"content_index\":0,\"text\":", text,
                 is_message ? Concat(",\"logprobs\":[", item.logprobs, "]") : std::string()),
          events);
      AppendNamed("response.content_part.done",
                  Concat(Place(), ",\"content_index\":0,\"part\":", TextPart(item)), events);
    }
    AppendNamed("response.output_item.done",
                Concat("\"output_index\":", items_.size() - 1,
                       ",\"item\":", ItemJson(item, is_cut_ ? "incomplete" : "completed", true)),
                events);
  }

  const AnswerFacts& facts_;
  std::vector<Item> items_;
  bool is_open_ = false;  // the last item grows
  bool is_cut_ = false;
  bool has_begun_ = false;
  int64_t sequence_ = 0;
  std::string logprobs_;  // of tokens whose message is not closed
  std::string error_ = "null";
};

}  // namespace

std::unique_ptr<AnswerFormat> NewResponsesFormat(const AnswerFacts* facts) {
  return std::make_unique<ResponsesFormat>(facts);
}

}  // namespace tessera
