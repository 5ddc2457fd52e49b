#include <cstddef>
#include <set>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "server/http/openai/answer_format.h"
#include "server/json_text.h"

namespace tessera {
namespace {

using jinja::Concat;

class ChatFormat final : public AnswerFormat {
 public:
  explicit ChatFormat(const AnswerFacts* facts) : facts_(*facts) {}

  std::string Whole(const std::vector<PromptOutput>& outputs) override {
    const v1::GenerateResponse& response = outputs.front().response;
    std::string json;
    AppendAnswerHead(facts_, "chat.completion", &json);
    json += ",\"choices\":[";
    for (int i = 0; i < response.choices_size(); ++i) {
      if (i > 0) json += ",";
      AppendChoice(response.choices(i), &json);
    }
    json += "],\"usage\":";
    AppendUsage(response.usage(), &json);
    AppendPromptMembers(outputs.front(), &json);
    return json + "}";
  }

  void AppendEvents(size_t, const PromptOutput& output, std::string* events) override {
    for (const v1::Choice& choice : output.response.choices()) {
      Event event{.choice = &choice, .usage = &output.response.usage()};
      if (begun_.insert(choice.index()).second) {
        event.prompt = begun_.size() == 1 ? &output : nullptr;
        AppendDelta(event, "\"role\":\"assistant\",\"content\":\"\"", events);
        event.prompt = nullptr;
        if (const std::string& echo = facts_.request->echoed_text; !echo.empty()) {
          AppendDelta(event, Concat("\"content\":", JsonQuoted(echo)), events);
        }
      }
      event.carries_tokens = choice.logprobs_size() > 0 || choice.token_ids_size() > 0;
      AppendTexts(&event, events);
      AppendCalls(&event, events);
      if (event.carries_tokens && !choice.has_finish()) AppendDelta(event, "", events);
      event.is_end = choice.has_finish();
      if (event.is_end) AppendDelta(event, "", events);
    }
  }

  void AppendEnd(const v1::Usage& usage, std::string* events) override {
    if (facts_.request->include_usage) {
      std::string json;
      AppendAnswerHead(facts_, "chat.completion.chunk", &json);
      json += ",\"choices\":[],\"usage\":";
      AppendUsage(usage, &json);
      AppendEvent(json + "}", events);
    }
    events->append("data: [DONE]\n\n");
  }

 private:
  struct Event {
    const v1::Choice* choice;
    const v1::Usage* usage;
    const PromptOutput* prompt = nullptr;  // with the first event of the answer
    bool carries_tokens = false;           // the next event brings the ids and log probabilities
    bool is_end = false;
  };

  bool Shows(const v1::ToolCall& call) const {
    return facts_.request->parallel_tool_calls || call.index() == 0;
  }

  bool ShowsSteps() const {
    return facts_.request->include_reasoning &&
           facts_.request->prompts.front().response().reasoning_steps();
  }

  void AppendPromptMembers(const PromptOutput& output, std::string* json) const {
    const v1::GenerateRequest& asked = facts_.request->prompts.front();
    if (output.response.has_thinking()) AppendThinking(output.response.thinking(), json);
    if (asked.response().has_prompt_logprobs() && output.response.choices_size() > 0) {
      json->append(",\"prompt_logprobs\":");
      AppendPromptLogprobs(facts_, output.response.choices(0).prompt_logprobs(), json);
    }
    if (!facts_.request->return_token_ids) return;
    json->append(",\"prompt_token_ids\":");
    AppendIds({output.prompt_ids.begin(), output.prompt_ids.end()}, json);
  }

  void AppendTexts(Event* event, std::string* events) const {
    const v1::Choice& choice = *event->choice;
    if (!choice.reasoning().empty() && facts_.request->include_reasoning) {
      const std::string text = JsonQuoted(choice.reasoning());
      AppendDelta(*event, Concat("\"reasoning\":", text, ",\"reasoning_content\":", text), events);
      event->carries_tokens = false;
    }
    if (!choice.text().empty()) {
      AppendDelta(*event, Concat("\"content\":", JsonQuoted(choice.text())), events);
      event->carries_tokens = false;
    }
  }

  void AppendCalls(Event* event, std::string* events) const {
    for (const v1::ToolCall& call : event->choice->tool_calls()) {
      if (!Shows(call)) continue;
      const std::string head = Concat("\"tool_calls\":[{\"index\":", call.index());
      if (!call.id().empty()) {
        AppendDelta(*event,
                    Concat(head, ",\"id\":", JsonQuoted(call.id()),
                           ",\"type\":\"function\",\"function\":{\"name\":",
                           JsonQuoted(call.name()), ",\"arguments\":\"\"}}]"),
                    events);
        event->carries_tokens = false;
      }
      if (call.arguments().empty()) continue;
      AppendDelta(
          *event,
          Concat(head, ",\"function\":{\"arguments\":", JsonQuoted(call.arguments()), "}}]"),
          events);
      event->carries_tokens = false;
    }
  }

  void AppendDelta(const Event& event, const std::string& delta, std::string* events) const {
    const v1::Choice& choice = *event.choice;
    std::string json;
    AppendAnswerHead(facts_, "chat.completion.chunk", &json);
    json += Concat(",\"choices\":[{\"index\":", choice.index(), ",\"delta\":{", delta,
                   "},\"logprobs\":");
    if (event.carries_tokens && choice.logprobs_size() > 0) {
      AppendChatLogprobs(facts_, choice.logprobs(), &json);
    } else {
      json += "null";
    }
    json += ",";
    AppendFinish(event.is_end ? choice : v1::Choice(), facts_.request->prompts.front().stopping(),
                 &json);
    if (event.is_end && ShowsSteps()) AppendSteps(choice, &json);
    if (event.carries_tokens && facts_.request->return_token_ids) {
      json += ",\"token_ids\":";
      AppendIds(choice.token_ids(), &json);
    }
    json += "}]";
    if (event.prompt != nullptr) AppendPromptMembers(*event.prompt, &json);
    if (facts_.request->continuous_usage) {
      json += ",\"usage\":";
      AppendUsage(*event.usage, &json);
    } else if (facts_.request->include_usage) {
      json += ",\"usage\":null";
    }
    AppendEvent(json + "}", events);
  }

  void AppendMessage(const v1::Choice& choice, std::string* json) const {
    std::string calls;
    for (const v1::ToolCall& call : choice.tool_calls()) {
      if (!Shows(call)) continue;
      calls += Concat(calls.empty() ? "" : ",", "{\"id\":", JsonQuoted(call.id()),
                      ",\"type\":\"function\",\"function\":{\"name\":", JsonQuoted(call.name()),
                      ",\"arguments\":", JsonQuoted(call.arguments()), "}}");
    }
    const std::string text = facts_.request->echoed_text + choice.text();
    const bool has_content = !text.empty() || calls.empty();
    json->append(Concat("{\"role\":\"assistant\",\"content\":",
                        has_content ? JsonQuoted(text) : "null", ",\"refusal\":null"));
    if (!choice.reasoning().empty() && facts_.request->include_reasoning) {
      const std::string thought = JsonQuoted(choice.reasoning());
      json->append(Concat(",\"reasoning\":", thought, ",\"reasoning_content\":", thought));
    }
    if (!calls.empty()) json->append(Concat(",\"tool_calls\":[", calls, "]"));
    json->push_back('}');
  }

  void AppendChoice(const v1::Choice& choice, std::string* json) const {
    json->append(Concat("{\"index\":", choice.index(), ",\"message\":"));
    AppendMessage(choice, json);
    json->append(",\"logprobs\":");
    if (facts_.request->prompts.front().response().has_logprobs()) {
      AppendChatLogprobs(facts_, choice.logprobs(), json);
    } else {
      json->append("null");
    }
    json->push_back(',');
    AppendFinish(choice, facts_.request->prompts.front().stopping(), json);
    if (ShowsSteps()) AppendSteps(choice, json);
    if (facts_.request->return_token_ids) {
      json->append(",\"token_ids\":");
      AppendIds(choice.token_ids(), json);
    }
    json->push_back('}');
  }

  const AnswerFacts& facts_;
  std::set<int32_t> begun_;  // choices whose role is sent
};

}  // namespace

void AppendEvent(const std::string& json, std::string* events) {
  events->append("data: ").append(json).append("\n\n");
}

void AnswerFormat::AppendFailure(const HttpError& error, std::string* events) {
  AppendEvent(HttpErrorJson(error), events);
  events->append("data: [DONE]\n\n");
}

v1::Usage TotalUsage(const std::vector<v1::Usage>& usages) {
  v1::Usage total;
  for (const v1::Usage& usage : usages) {
    total.set_prompt_tokens(total.prompt_tokens() + usage.prompt_tokens());
    total.set_cached_tokens(total.cached_tokens() + usage.cached_tokens());
    total.set_completion_tokens(total.completion_tokens() + usage.completion_tokens());
    total.set_reasoning_tokens(total.reasoning_tokens() + usage.reasoning_tokens());
  }
  return total;
}

std::unique_ptr<AnswerFormat> NewChatFormat(const AnswerFacts* facts) {
  return std::make_unique<ChatFormat>(facts);
}

}  // namespace tessera
