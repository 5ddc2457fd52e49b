#include <algorithm>
#include <cstddef>
#include <map>
#include <set>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "server/http/openai/answer_format.h"
#include "server/json_text.h"

namespace tessera {
namespace {

using jinja::Concat;
using TokenList = google::protobuf::RepeatedPtrField<v1::TokenLogprobs>;

// The four lists of a choice's log probabilities.
class LogprobLists {
 public:
  LogprobLists(const AnswerFacts& facts, int32_t top, int64_t offset)
      : facts_(facts), top_(top), offset_(offset) {}

  void Add(const v1::TokenLogprobs& token) {
    Separate();
    Name(token.token_id());
    AppendLogprob(token.logprob(), &logprobs_);
    AppendTop(token);
  }
  // A token that nothing precedes has no probability.
  void AddFirst(int32_t id) {
    Separate();
    Name(id);
    logprobs_ += "null";
    tops_ += "null";
  }
  std::string Json() const {
    return Concat("{\"tokens\":[", tokens_, "],\"token_logprobs\":[", logprobs_,
                  "],\"top_logprobs\":", top_ == 0 ? "null" : Concat("[", tops_, "]"),
                  ",\"text_offset\":[", offsets_, "]}");
  }
  int64_t offset() const { return offset_; }

 private:
  void Separate() {
    if (tokens_.empty()) return;
    for (std::string* list : {&tokens_, &logprobs_, &tops_, &offsets_}) list->push_back(',');
  }
  void Name(int32_t id) {
    AppendToken(facts_, id, &tokens_);
    offsets_ += Concat(offset_);
    offset_ += CountCharacters(facts_.encoder->Decode({&id, 1}, false));
  }
  // The likeliest ones and the token itself, by their text.
  void AppendTop(const v1::TokenLogprobs& token) {
    std::set<std::string> seen;
    tops_.push_back('{');
    const auto append = [&](int32_t id, float logprob) {
      std::string name;
      AppendToken(facts_, id, &name);
      if (!seen.insert(name).second) return;
      if (seen.size() > 1) tops_.push_back(',');
      tops_ += name + ":";
      AppendLogprob(logprob, &tops_);
    };
    append(token.token_id(), token.logprob());
    for (const v1::TokenAlternative& other : token.top()) append(other.token_id(), other.logprob());
    tops_.push_back('}');
  }

  const AnswerFacts& facts_;
  const int32_t top_;
  int64_t offset_;
  std::string tokens_;
  std::string logprobs_;
  std::string tops_;
  std::string offsets_;
};

class CompletionFormat final : public AnswerFormat {
 public:
  explicit CompletionFormat(const AnswerFacts* facts)
      : facts_(*facts), asked_(facts->request->prompts.front()) {}

  std::string Whole(const std::vector<PromptOutput>& outputs) override {
    std::string json;
    AppendAnswerHead(facts_, "text_completion", &json);
    json += ",\"choices\":[";
    std::vector<v1::Usage> usages;
    for (size_t i = 0; i < outputs.size(); ++i) {
      usages.push_back(outputs[i].response.usage());
      for (const v1::Choice& choice : outputs[i].response.choices()) {
        if (json.back() == '}') json += ",";
        AppendChoice(i, choice, outputs[i], &json);
      }
    }
    json += "],\"usage\":";
    AppendUsage(Shown(TotalUsage(usages)), &json);
    return json + "}";
  }

  void AppendEvents(size_t index, const PromptOutput& output, std::string* events) override {
    for (const v1::Choice& choice : output.response.choices()) {
      std::string json;
      AppendAnswerHead(facts_, "text_completion", &json);
      json += ",\"choices\":[";
      AppendChoice(index, choice, output, &json);
      json += "]";
      if (facts_.request->continuous_usage) {
        json += ",\"usage\":";
        AppendUsage(Shown(output.response.usage()), &json);
      } else if (facts_.request->include_usage) {
        json += ",\"usage\":null";
      }
      AppendEvent(json + "}", events);
    }
  }

  void AppendEnd(const v1::Usage& usage, std::string* events) override {
    if (facts_.request->include_usage) {
      std::string json;
      AppendAnswerHead(facts_, "text_completion", &json);
      json += ",\"choices\":[],\"usage\":";
      AppendUsage(Shown(usage), &json);
      AppendEvent(json + "}", events);
    }
    events->append("data: [DONE]\n\n");
  }

 private:
  // The token of a request that only scores is not the client's.
  v1::Usage Shown(v1::Usage usage) const {
    if (facts_.request->score_only) usage.set_completion_tokens(0);
    return usage;
  }

  int64_t IndexOf(size_t prompt, const v1::Choice& choice) const {
    const int64_t per_prompt = asked_.has_n() ? asked_.n() : 1;
    return static_cast<int64_t>(prompt) * per_prompt + choice.index();
  }

  std::string EchoOf(const PromptOutput& output) const {
    return facts_.encoder->Decode(output.prompt_ids, /*skip_special=*/false);
  }

  void AppendChoice(size_t prompt, const v1::Choice& choice, const PromptOutput& output,
                    std::string* json) {
    const int64_t index = IndexOf(prompt, choice);
    const bool is_first = offsets_.emplace(index, 0).second;
    const bool echoes = facts_.request->echo && is_first;
    const bool shows_new = !facts_.request->score_only;
    const std::string echo = echoes ? EchoOf(output) : "";
    json->append(Concat("{\"index\":", index, ",\"text\":",
                        JsonQuoted(Concat(echo, shows_new ? choice.text() : std::string())),
                        ",\"logprobs\":"));
    if (asked_.response().has_logprobs()) {
      LogprobLists lists(facts_, static_cast<int32_t>(asked_.response().logprobs()),
                         offsets_[index]);
      if (echoes) {
        lists.AddFirst(output.prompt_ids.front());
        for (const v1::TokenLogprobs& token : PromptLogprobs(prompt, output)) lists.Add(token);
      }
      if (shows_new) {
        for (const v1::TokenLogprobs& token : choice.logprobs()) lists.Add(token);
      }
      offsets_[index] = lists.offset();
      json->append(lists.Json());
    } else {
      json->append("null");
    }
    json->push_back(',');
    AppendFinish(choice, asked_.stopping(), json);
    if (asked_.response().has_prompt_logprobs() && !facts_.request->echo) {
      json->append(",\"prompt_logprobs\":");
      AppendPromptLogprobs(facts_, PromptLogprobs(prompt, output), json);
    }
    if (facts_.request->return_token_ids) {
      if (is_first) {
        json->append(",\"prompt_token_ids\":");
        AppendIds({output.prompt_ids.begin(), output.prompt_ids.end()}, json);
      }
      json->append(",\"token_ids\":");
      AppendIds(choice.token_ids(), json);
    }
    json->push_back('}');
  }

  // They come once, with the first message of the first choice.
  const TokenList& PromptLogprobs(size_t prompt, const PromptOutput& output) {
    TokenList& kept = prompt_logprobs_[prompt];
    for (const v1::Choice& choice : output.response.choices()) {
      if (kept.empty()) kept = choice.prompt_logprobs();
    }
    return kept;
  }

  const AnswerFacts& facts_;
  const v1::GenerateRequest& asked_;
  std::map<size_t, TokenList> prompt_logprobs_;
  std::map<int64_t, int64_t> offsets_;  // of the choices that have begun: characters so far
};

}  // namespace

std::unique_ptr<AnswerFormat> NewCompletionFormat(const AnswerFacts* facts) {
  return std::make_unique<CompletionFormat>(facts);
}

}  // namespace tessera
