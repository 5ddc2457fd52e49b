// <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine/text/jinja/json_parse.h"
#include "engine/text/json_stream.h"
#include "engine/text/tool_call_parser.h"

namespace tessera {
namespace {

using jinja::Value;

std::optional<std::string> ParseString(std::string_view json) {
  const absl::StatusOr<Value> value = jinja::ParseJson(json);
  if (!value.ok() || !value->is_string()) return std::nullopt;
  return value->str();
}

// The arguments are shown as they are typed, once the name is known. They may also be a string that
// holds the object; that is shown as a whole. The first name and the first arguments count.
class HermesBlock : public ToolCallBlock {
 public:
  Progress Advance(std::string_view text, bool /*at_end*/) override {
    Progress progress;
    while (progress.state == State::kOpen) {
      const JsonStream::Event event = stream_.Next(text);
      if (event == JsonStream::Event::kNeedMore) break;
      const bool sound = event != JsonStream::Event::kBroken && Take(event, text);
      const bool closed = event == JsonStream::Event::kEnd && stream_.depth() == 0;
      if (!sound || closed) progress.state = State::kEnded;
    }
    Show(text, &progress);
    progress.whole = shown_name_ && arguments_done_;
    progress.end = stream_.position();
    return progress;
  }

 private:
  enum class Field { kOther, kName, kArguments };

  // False when this cannot be a call.
  bool Take(JsonStream::Event event, std::string_view text) {
    const size_t at = stream_.position();
    if (event == JsonStream::Event::kBegin && stream_.depth() == 0) return text[at] == '{';
    if (stream_.depth() != 1) return true;
    switch (event) {
      case JsonStream::Event::kKey:
        field_ = FieldOf(text.substr(stream_.token(), at - stream_.token()));
        return true;
      case JsonStream::Event::kBegin:
        value_begin_ = at;
        return field_ != Field::kArguments || BeginArguments(text[at]);
      case JsonStream::Event::kEnd:
        return EndValue(text.substr(value_begin_, at - value_begin_));
      default:
        return true;
    }
  }

  Field FieldOf(std::string_view key) const {
    const std::optional<std::string> name = ParseString(key);
    if (name == "name" && !name_) return Field::kName;
    const bool is_arguments = name == "arguments" || name == "parameters";
    return is_arguments && !arguments_begun_ ? Field::kArguments : Field::kOther;
  }

  bool BeginArguments(char first) {
    if (first != '{' && first != '"') return false;
    arguments_begun_ = true;
    is_object_ = first == '{';
    next_shown_ = stream_.position();
    return true;
  }

  bool EndValue(std::string_view value) {
    if (field_ == Field::kName) {
      name_ = ParseString(value);
      return name_.has_value() && !name_->empty();
    }
    if (field_ != Field::kArguments) return true;
    arguments_done_ = true;
    arguments_end_ = stream_.position();
    field_ = Field::kOther;
    if (is_object_) return true;
    inner_ = ParseString(value).value_or("");
    const absl::StatusOr<Value> parsed = jinja::ParseJson(inner_);
    arguments_begun_ = parsed.ok() && parsed->is_dict();
    return arguments_begun_;
  }

  void Show(std::string_view text, Progress* progress) {
    if (!name_ || name_->empty() || !arguments_begun_) return;
    if (!is_object_ && (!arguments_done_ || inner_shown_)) return;
    if (!shown_name_) {
      shown_name_ = true;
      progress->name = name_;
    }
    if (!is_object_) {
      inner_shown_ = true;
      progress->arguments = inner_;
      return;
    }
    const size_t end = arguments_done_ ? arguments_end_ : stream_.position();
    progress->arguments = text.substr(next_shown_, end - next_shown_);
    next_shown_ = end;
  }

  JsonStream stream_;
  Field field_ = Field::kOther;
  size_t value_begin_ = 0;
  std::optional<std::string> name_;
  bool arguments_begun_ = false;
  bool arguments_done_ = false;
  bool is_object_ = false;
  size_t arguments_end_ = 0;
  std::string inner_;  // of arguments that are a string
  bool inner_shown_ = false;
  bool shown_name_ = false;
  size_t next_shown_ = 0;
};

class HermesSyntax : public ToolCallSyntax {
 public:
  std::unique_ptr<ToolCallBlock> NewBlock() const override {
    return std::make_unique<HermesBlock>();
  }
};

}  // namespace

std::unique_ptr<const ToolCallSyntax> MakeHermesSyntax() {
  return std::make_unique<HermesSyntax>();
}

}  // namespace tessera
