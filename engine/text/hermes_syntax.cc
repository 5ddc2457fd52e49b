// {"name": "f", "arguments": {...}}
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "engine/text/chat_messages.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/json_repair.h"
#include "engine/text/tool_call_parser.h"

namespace tessera {
namespace {

using jinja::Value;
using Event = JsonRepair::Event;

constexpr std::string_view kClose = "</tool_call>";

std::optional<std::string> ParseString(std::string_view json) {
  const absl::StatusOr<Value> value = jinja::ParseJson(json);
  if (!value.ok() || !value->is_string()) return std::nullopt;
  return value->str();
}

// The arguments are shown as they are typed, once the name is known. They may also be a string that
// holds the object, which is shown as a whole; an empty string, null and none at all are the empty
// object. The first name and the first arguments count, of the object or of its "function".
class HermesBlock : public ToolCallBlock {
 public:
  Progress Advance(std::string_view text, TextEnd end) override {
    Progress progress;
    while (progress.state == State::kOpen) {
      const Event event = json_.Next(text, end != TextEnd::kMore);
      if (event == Event::kNeedMore) {
        if (end == TextEnd::kStopped) CloseAll();
        break;
      }
      if (event == Event::kBroken) {
        const std::string_view rest = text.substr(json_.position(), kClose.size());
        if (rest != kClose && rest == kClose.substr(0, rest.size()) && end == TextEnd::kMore) break;
        if (rest == kClose) CloseAll();
        progress.state = State::kEnded;
      } else if (!Take(event, text)) {
        is_call_ = false;
        progress.state = State::kEnded;
      } else if (event == Event::kEnd && json_.depth() == 0) {
        progress.state = State::kEnded;
      }
    }
    Show(&progress);
    progress.whole = shown_name_ && arguments_done_;
    progress.end = json_.position();
    return progress;
  }

 private:
  enum class Field : uint8_t { kOther, kName, kArguments, kFunction };

  // The brackets that were forgotten, where that leaves no doubt.
  void CloseAll() {
    while (is_call_ && json_.depth() > 0 && json_.CanClose()) {
      is_call_ = Take(json_.Close(), {});
    }
  }

  // False when this cannot be a call.
  bool Take(Event event, std::string_view text) {
    const size_t depth = json_.depth();
    const size_t end = json_.json().size();
    if (event == Event::kBegin && depth == 0) return text[json_.position()] == '{';
    if (event == Event::kEnd && depth == 0) return EndCall();
    if (event == Event::kEnd && depth < fields_depth_) fields_depth_ = depth;
    if (depth != fields_depth_) return true;
    switch (event) {
      case Event::kKey:
        field_ = FieldOf(std::string_view(json_.json()).substr(json_.token()));
        return true;
      case Event::kBegin:
        value_begin_ = end;
        return BeginValue(text[json_.position()]);
      case Event::kEnd:
        return EndValue(std::string_view(json_.json()).substr(value_begin_));
      default:
        return true;
    }
  }

  Field FieldOf(std::string_view key) const {
    const std::optional<std::string> name = ParseString(key);
    if (name == "name" && !name_) return Field::kName;
    if (name == "function" && !name_ && fields_depth_ == 1) return Field::kFunction;
    const bool is_arguments = name == "arguments" || name == "parameters";
    return is_arguments && !arguments_begun_ ? Field::kArguments : Field::kOther;
  }

  bool BeginValue(char first) {
    if (field_ == Field::kFunction && first == '{') {
      fields_depth_ = 2;
      field_ = Field::kOther;
    }
    if (field_ != Field::kArguments) return true;
    if (first == '[' || first == '(') return false;
    if (first == '{') {
      arguments_begun_ = true;
      is_object_ = true;
      next_shown_ = json_.json().size();
    }
    return true;
  }

  bool EndValue(std::string_view value) {
    const Field field = std::exchange(field_, Field::kOther);
    if (field == Field::kName || field == Field::kFunction) {
      name_ = ParseString(value);
      return name_.has_value() && !name_->empty();
    }
    if (field != Field::kArguments) return true;
    arguments_done_ = true;
    if (is_object_) {
      arguments_end_ = json_.json().size();
      return true;
    }
    const std::string text = value == "null" ? "" : ParseString(value).value_or("-");
    return SetArguments(AreEmptyArguments(text) ? "{}" : RepairJson(text).value_or(""));
  }

  bool EndCall() {
    if (!name_) return false;
    return arguments_done_ || SetArguments("{}");
  }

  bool SetArguments(std::string json) {
    const absl::StatusOr<Value> parsed = jinja::ParseJson(json);
    arguments_begun_ = parsed.ok() && parsed->is_dict();
    arguments_done_ = arguments_begun_;
    inner_ = std::move(json);
    return arguments_begun_;
  }

  void Show(Progress* progress) {
    if (!name_ || name_->empty() || !arguments_begun_) return;
    if (!shown_name_) {
      shown_name_ = true;
      progress->name = name_;
    }
    if (!is_object_) {
      progress->arguments = std::exchange(inner_, {});
      return;
    }
    const size_t end = arguments_done_ ? arguments_end_ : json_.json().size();
    progress->arguments = json_.json().substr(next_shown_, end - next_shown_);
    next_shown_ = end;
  }

  JsonRepair json_;
  Field field_ = Field::kOther;
  size_t fields_depth_ = 1;  // where name and arguments stand: 2 within "function"
  size_t value_begin_ = 0;   // all places are those of json_.json()
  bool is_call_ = true;      // as far as one can tell
  std::optional<std::string> name_;
  bool arguments_begun_ = false;
  bool arguments_done_ = false;
  bool is_object_ = false;
  size_t arguments_end_ = 0;
  std::string inner_;  // of arguments that are no object, until shown
  bool shown_name_ = false;
  size_t next_shown_ = 0;
};

}  // namespace

std::unique_ptr<ToolCallBlock> NewHermesBlock() { return std::make_unique<HermesBlock>(); }

}  // namespace tessera
