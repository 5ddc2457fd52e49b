// <function=f>\n<parameter=key>\nvalue\n</parameter>\n</function>
#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "engine/text/function_schema.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/jinja/json_write.h"
#include "engine/text/json_repair.h"
#include "engine/text/tool_call_parser.h"

namespace tessera {
namespace {

using jinja::Value;

constexpr std::string_view kOpen = "<tool_call>";
constexpr std::string_view kClose = "</tool_call>";
constexpr std::string_view kFunction = "<function=";
constexpr std::string_view kFunctionEnd = "</function>";
constexpr std::string_view kParameter = "<parameter=";
constexpr std::string_view kParameterEnd = "</parameter>";
constexpr std::string_view kWhiteSpace = " \t\n\r";
constexpr size_t kLongestName = 256;

std::string_view Trim(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(kWhiteSpace), text.size());
  text.remove_prefix(begin);
  return text.substr(0, text.find_last_not_of(kWhiteSpace) + 1);
}

// A name as it stands behind "=": models put it in quotes at times.
std::string_view NameOf(std::string_view text) {
  text = Trim(text);
  const bool is_quoted =
      text.size() > 1 && (text[0] == '"' || text[0] == '\'') && text.back() == text[0];
  return is_quoted ? text.substr(1, text.size() - 2) : text;
}

bool HasType(const Value& value, const std::set<std::string>& types) {
  if (value.is_none()) return types.contains("null");
  if (value.is_bool()) return types.contains("boolean");
  if (value.is_int() || value.is_big())
    return types.contains("integer") || types.contains("number");
  if (value.is_float()) return types.contains("number");
  if (value.is_list()) return types.contains("array");
  return value.is_dict() && types.contains("object");
}

// 3.0 is an integer to a model.
Value AsInteger(const Value& value) {
  constexpr double kExact = 9007199254740992.0;  // 2^53
  if (!value.is_float()) return value;
  const double number = value.as_float();
  if (!(number > -kExact && number < kExact)) return value;
  const auto integer = static_cast<int64_t>(number);
  return static_cast<double>(integer) == number ? Value::Int(integer) : value;
}

bool IsText(const std::set<std::string>& types) {
  return types.empty() || types == std::set<std::string>{"string"};
}

// Text that fits no declared type stays text, so that nothing the model wrote is lost.
Value ConvertArgument(std::string_view text, const std::set<std::string>& types) {
  if (const auto json = RepairJson(Trim(text))) {
    const absl::StatusOr<Value> parsed = jinja::ParseJson(*json);
    if (parsed.ok() && HasType(*parsed, types)) return *parsed;
    if (parsed.ok() && types.contains("integer") && HasType(AsInteger(*parsed), types)) {
      return AsInteger(*parsed);
    }
  }
  return Value::String(std::string(text), jinja::Provenance::kUntrusted);
}

enum class Match : uint8_t { kNo, kPartial, kYes };

Match MatchTag(std::string_view text, std::string_view tag) {
  if (text.substr(0, tag.size()) == tag) return Match::kYes;
  return text == tag.substr(0, text.size()) ? Match::kPartial : Match::kNo;
}

template <typename Tags>
Match MatchAny(std::string_view text, const Tags& tags) {
  Match best = Match::kNo;
  for (const std::string_view tag : tags) best = std::max(best, MatchTag(text, tag));
  return best;
}

class CoderXmlBlock : public ToolCallBlock {
 public:
  CoderXmlBlock(const Value& tools, bool is_wrapped) : tools_(tools), is_wrapped_(is_wrapped) {}

  // The call is known with the name of its first parameter, or with its end.
  Progress Advance(std::string_view text, TextEnd end) override {
    Progress progress;
    end_ = end;
    while (step_ != Step::kDone && Walk(text, &progress)) {
    }
    if (step_ == Step::kDone) progress.state = State::kEnded;
    progress.whole = whole_;
    progress.end = at_;
    return progress;
  }

 private:
  enum class Step : uint8_t { kFunctionName, kBetween, kParameterName, kValueStart, kValue, kDone };

  // Each returns false when it needs more text. What is no call ends the block at once.
  bool Walk(std::string_view text, Progress* progress) {
    switch (step_) {
      case Step::kFunctionName:
        return WalkFunctionName(text);
      case Step::kBetween:
        return WalkBetween(text, progress);
      case Step::kParameterName:
        return WalkParameterName(text, progress);
      case Step::kValueStart:
        return WalkValueStart(text);
      case Step::kValue:
        return WalkValue(text, progress);
      case Step::kDone:
        break;
    }
    return false;
  }

  bool has_more() const { return end_ == TextEnd::kMore; }

  bool EndAt(size_t at) {
    at_ = at;
    step_ = Step::kDone;
    return true;
  }

  bool EndCall(size_t at, Progress* progress) {
    progress->arguments += Begin(progress) ? "{}" : "}";
    whole_ = true;
    return EndAt(at);
  }

  bool WalkFunctionName(std::string_view text) {
    scanned_ = std::min(text.find_first_of("<>\n", scanned_), text.size());
    if (scanned_ == text.size() && has_more() && scanned_ - at_ < kLongestName) return false;
    const std::string_view name = NameOf(text.substr(at_, scanned_ - at_));
    // The bracket may be forgotten in front of a line's end.
    if (scanned_ == text.size() || text[scanned_] == '<' || !IsSoundName(name)) return EndAt(at_);
    name_ = name;
    schema_.emplace(tools_, name_);
    if (!is_wrapped_ && !schema_->declared()) return EndAt(at_);
    at_ = ++scanned_;
    step_ = Step::kBetween;
    return true;
  }

  static bool IsSoundName(std::string_view name) {
    std::string escaped;
    return !name.empty() && name.size() <= kLongestName &&
           name.find('\n') == std::string_view::npos &&
           AppendJsonEscaped(name, &escaped) == name.size();
  }

  // Between the parameters of a call other text counts for nothing; in front of them it makes it
  // no call.
  bool WalkBetween(std::string_view text, Progress* progress) {
    while (true) {
      const size_t tag = std::min(text.find('<', at_), text.size());
      const bool is_blank = Trim(text.substr(at_, tag - at_)).empty();
      if (!begun_ && !is_blank) return EndAt(at_);
      at_ = tag;
      if (tag == text.size()) return AtEndOfText(text, progress);
      const std::string_view rest = text.substr(tag);
      if (MatchTag(rest, kParameter) == Match::kYes) {
        parameter_begin_ = tag;
        at_ = scanned_ = tag + kParameter.size();
        step_ = Step::kParameterName;
        return true;
      }
      if (MatchTag(rest, kFunctionEnd) == Match::kYes) {
        return EndCall(tag + kFunctionEnd.size(), progress);
      }
      // A forgotten end.
      if (MatchTag(rest, kClose) == Match::kYes) return EndCall(tag, progress);
      const Match next = MatchAny(rest, std::to_array({kOpen, kFunction}));
      if (next == Match::kYes) return begun_ ? EndCall(tag, progress) : EndAt(tag);
      const Match partial =
          MatchAny(rest, std::to_array({kParameter, kFunctionEnd, kClose, kOpen, kFunction}));
      if (partial == Match::kPartial && has_more()) return false;
      if (!begun_) return EndAt(tag);
      at_ = tag + 1;
    }
  }

  // Between parameters. The model may have stopped without the ends.
  bool AtEndOfText(std::string_view text, Progress* progress) {
    return begun_ && end_ == TextEnd::kStopped && EndCall(text.size(), progress);
  }

  bool WalkParameterName(std::string_view text, Progress* progress) {
    scanned_ = std::min(text.find_first_of("<>", scanned_), text.size());
    if (scanned_ == text.size() && has_more() && scanned_ - at_ < kLongestName) return false;
    const std::string_view name = NameOf(text.substr(at_, scanned_ - at_));
    if (scanned_ == text.size() || text[scanned_] != '>' || !IsSoundName(name)) {
      return EndAt(parameter_begin_);
    }
    progress->arguments += Begin(progress) ? "{\"" : ", \"";
    AppendJsonEscaped(name, &progress->arguments);
    progress->arguments += "\": ";
    types_ = schema_->TypesOf(name);
    at_ = ++scanned_;
    step_ = Step::kValueStart;
    return true;
  }

  // The newline that the format puts in front of a value.
  bool WalkValueStart(std::string_view text) {
    if (at_ == text.size() && has_more()) return false;
    if (text.substr(at_).starts_with('\n')) ++at_;
    scanned_ = std::max(scanned_, at_);
    shown_ = at_;
    quote_shown_ = false;
    step_ = Step::kValue;
    return true;
  }

  // Values are raw text: only what ends one counts.
  bool WalkValue(std::string_view text, Progress* progress) {
    for (; scanned_ < text.size(); ++scanned_) {
      if (text[scanned_] != '<') continue;
      size_t behind = scanned_;  // where what follows the value begins
      const Match match = MatchValueEnd(text, &behind);
      if (match == Match::kPartial) {
        if (has_more()) return ShowText(text, progress);
        break;
      }
      if (match == Match::kYes) return EndValue(text, behind, progress);
    }
    if (has_more()) return ShowText(text, progress);
    // A model that stops without any of the ends has said the value; one that was cut off has not.
    if (end_ == TextEnd::kStopped) {
      EndValue(text, text.size(), progress);
      return step_ == Step::kDone || EndCall(text.size(), progress);
    }
    ShowText(text, progress);
    return false;
  }

  // Tags behind which a call goes on or ends.
  Match MatchBehindParameter(std::string_view rest) const {
    return MatchAny(rest, std::to_array({kParameter, kFunctionEnd, kClose, kOpen, kFunction}));
  }

  // What ends a value at scanned_: </parameter> and one of those tags, or one of them alone if the
  // value's own end was forgotten. A text may hold all of these, so the more there is the surer.
  Match MatchValueEnd(std::string_view text, size_t* behind) {
    const std::string_view rest = text.substr(scanned_);
    if (const Match own = MatchTag(rest, kParameterEnd); own != Match::kNo) {
      if (own == Match::kPartial) return own;
      *behind = scanned_ + kParameterEnd.size();
      return AtEnd(MatchBehindParameter(BehindSpace(text, *behind)));
    }
    if (const Match function = MatchTag(rest, kFunctionEnd); function != Match::kNo) {
      if (function == Match::kPartial) return function;
      const std::string_view next = BehindSpace(text, scanned_ + kFunctionEnd.size());
      return AtEnd(MatchAny(next, std::to_array({kClose, kOpen, kFunction})));
    }
    if (const Match close = MatchTag(rest, kClose); close != Match::kNo) {
      if (close == Match::kPartial) return close;
      const std::string_view next = BehindSpace(text, scanned_ + kClose.size());
      return AtEnd(MatchAny(next, std::to_array({kOpen})));
    }
    return MatchParameterStart(rest);
  }

  // At the end of the text there is nothing that could contradict.
  Match AtEnd(Match match) const {
    return match == Match::kPartial && !has_more() ? Match::kYes : match;
  }

  // <parameter=name> with a name that the tool knows.
  Match MatchParameterStart(std::string_view rest) const {
    const Match match = MatchTag(rest, kParameter);
    if (match != Match::kYes) return match;
    const std::string_view name = rest.substr(kParameter.size(), kLongestName + 1);
    const size_t end = name.find_first_of("<>\n");
    if (end == std::string_view::npos) {
      return name.size() > kLongestName ? Match::kNo : Match::kPartial;
    }
    const std::string_view argument = NameOf(name.substr(0, end));
    return name[end] == '>' && IsSoundName(argument) && schema_->MayHave(argument) ? Match::kYes
                                                                                   : Match::kNo;
  }

  // The text behind the white space that begins at `begin`. White space is looked at once.
  std::string_view BehindSpace(std::string_view text, size_t begin) {
    space_end_ = std::max(space_end_, begin);
    space_end_ = std::min(text.find_first_not_of(kWhiteSpace, space_end_), text.size());
    return text.substr(space_end_);
  }

  // Shows the part of a text that is no matter of doubt; false, as more is needed.
  bool ShowText(std::string_view text, Progress* progress) {
    if (!IsText(types_)) return false;
    size_t end = scanned_;
    // The newline that the format puts behind a value.
    if (end > shown_ && text[end - 1] == '\n') --end;
    ShowTextUntil(text, end, progress);
    return false;
  }

  // False when it met what is no UTF-8.
  bool ShowTextUntil(std::string_view text, size_t end, Progress* progress) {
    if (!std::exchange(quote_shown_, true)) progress->arguments += '"';
    if (end <= shown_) return true;
    shown_ += AppendJsonEscaped(text.substr(shown_, end - shown_), &progress->arguments);
    return shown_ == end;
  }

  bool EndValue(std::string_view text, size_t behind, Progress* progress) {
    size_t end = scanned_;
    if (end > at_ && text[end - 1] == '\n') --end;
    if (IsText(types_)) {
      if (!ShowTextUntil(text, end, progress)) return EndAt(shown_);
      progress->arguments += '"';
    } else {
      const std::string_view value = text.substr(at_, end - at_);
      const absl::StatusOr<std::string> json = jinja::ToJsonString(ConvertArgument(value, types_));
      // Raw text: what is no UTF-8, or nests too deeply, makes no JSON.
      if (!json.ok() || !jinja::ParseJson("[" + *json + "]").ok()) return EndAt(parameter_begin_);
      progress->arguments += *json;
    }
    at_ = scanned_ = behind;
    step_ = Step::kBetween;
    return true;
  }

  // True the first time.
  bool Begin(Progress* progress) {
    if (begun_) return false;
    begun_ = true;
    progress->name = name_;
    return true;
  }

  const Value& tools_;
  const bool is_wrapped_;  // in <tool_call>
  TextEnd end_ = TextEnd::kMore;
  Step step_ = Step::kFunctionName;
  size_t at_ = 0;
  size_t parameter_begin_ = 0;
  size_t scanned_ = 0;    // of a name or a value
  size_t shown_ = 0;      // of a value that is text
  size_t space_end_ = 0;  // of the white space behind a tag that may end a value
  bool quote_shown_ = false;
  std::string name_;
  std::optional<FunctionSchema> schema_;  // once there is a name
  std::set<std::string> types_;           // of the parameter
  bool begun_ = false;
  bool whole_ = false;
};

}  // namespace

std::unique_ptr<ToolCallBlock> NewCoderXmlBlock(const Value& tools, bool is_wrapped) {
  return std::make_unique<CoderXmlBlock>(tools, is_wrapped);
}

}  // namespace tessera
