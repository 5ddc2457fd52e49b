// <tool_call>\n<function=f>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</tool_call>
#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "engine/text/jinja/json_parse.h"
#include "engine/text/jinja/json_write.h"
#include "engine/text/tool_call_parser.h"

namespace tessera {
namespace {

using jinja::Dict;
using jinja::Value;

constexpr std::string_view kClose = "</tool_call>";
constexpr std::string_view kFunction = "<function=";
constexpr std::string_view kFunctionEnd = "</function>";
constexpr std::string_view kParameter = "<parameter=";
constexpr std::string_view kParameterEnd = "</parameter>";
constexpr std::string_view kWhiteSpace = " \t\n\r";
// Where a value may end.
constexpr std::string_view kValueEnds[] = {kParameterEnd, kParameter};

std::string_view Trim(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(kWhiteSpace), text.size());
  text.remove_prefix(begin);
  return text.substr(0, text.find_last_not_of(kWhiteSpace) + 1);
}

// The types that a parameter's schema allows; empty if it does not say.
std::set<std::string> AllowedTypes(const Value& schema) {
  std::set<std::string> types;
  const auto add = [&types](const Value& type) {
    if (type.is_string()) types.insert(type.str());
    if (!type.is_list()) return;
    for (const Value& item : type.list().items) {
      if (item.is_string()) types.insert(item.str());
    }
  };
  add(schema.Get("type"));
  for (const std::string_view name : {"anyOf", "oneOf"}) {
    const Value choices = schema.Get(name);
    if (!choices.is_list()) continue;
    for (const Value& choice : choices.list().items) add(choice.Get("type"));
  }
  return types;
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

// Text that fits no declared type stays text, so that nothing the model wrote is lost.
Value ConvertArgument(const std::string& text, const std::set<std::string>& types) {
  std::string json(Trim(text));
  if (types.contains("boolean") && (json == "True" || json == "False")) json[0] |= 0x20;
  if (!types.empty() && types != std::set<std::string>{"string"}) {
    const absl::StatusOr<Value> parsed = jinja::ParseJson(json);
    if (parsed.ok() && HasType(*parsed, types)) return *parsed;
  }
  return Value::String(text, jinja::Provenance::kUntrusted);
}

enum class Match { kNo, kPartial, kYes };

Match MatchTag(std::string_view text, std::string_view tag) {
  if (text.substr(0, tag.size()) == tag) return Match::kYes;
  return text == tag.substr(0, text.size()) ? Match::kPartial : Match::kNo;
}

class CoderXmlBlock : public ToolCallBlock {
 public:
  explicit CoderXmlBlock(const Value& tools) : tools_(tools) {}

  // The call is known with its first whole parameter, or with </function>.
  Progress Advance(std::string_view text, bool at_end) override {
    Progress progress;
    while (step_ != Step::kDone && Walk(text, at_end, &progress)) {
    }
    if (step_ == Step::kDone) progress.state = State::kEnded;
    progress.whole = whole_;
    progress.end = at_;
    return progress;
  }

 private:
  enum class Step { kStart, kFunctionName, kBetween, kParameterName, kValue, kDone };

  // Each returns false when it needs more text. What is no call ends the block at once.
  bool Walk(std::string_view text, bool at_end, Progress* progress) {
    switch (step_) {
      case Step::kStart:
        return WalkFunction(text);
      case Step::kFunctionName:
        return WalkName(text, &name_);
      case Step::kBetween:
        return WalkBetween(text, progress);
      case Step::kParameterName:
        return WalkName(text, &key_);
      case Step::kValue:
        return WalkValue(text, at_end, progress);
      case Step::kDone:
        break;
    }
    return false;
  }

  bool EndAt(size_t at) {
    at_ = at;
    step_ = Step::kDone;
    return true;
  }

  void SkipSpace(std::string_view text) {
    at_ = std::min(text.find_first_not_of(kWhiteSpace, at_), text.size());
  }

  bool WalkFunction(std::string_view text) {
    SkipSpace(text);
    const Match match = MatchTag(text.substr(at_), kFunction);
    if (match == Match::kNo) return EndAt(at_);
    if (match == Match::kPartial) return false;
    at_ += kFunction.size();
    scanned_ = at_;
    step_ = Step::kFunctionName;
    return true;
  }

  // "name>" behind a tag's start.
  bool WalkName(std::string_view text, std::string* name) {
    scanned_ = std::min(text.find_first_of("<>", scanned_), text.size());
    if (scanned_ == text.size()) return false;
    *name = Trim(text.substr(at_, scanned_ - at_));
    const bool sound =
        text[scanned_] == '>' && !name->empty() && name->find('\n') == std::string::npos;
    if (!sound) return EndAt(step_ == Step::kParameterName ? parameter_begin_ : at_);
    at_ = scanned_ + 1;
    if (step_ == Step::kFunctionName) properties_ = FindProperties();
    step_ = step_ == Step::kFunctionName ? Step::kBetween : Step::kValue;
    scanned_ = at_;
    return true;
  }

  bool WalkBetween(std::string_view text, Progress* progress) {
    SkipSpace(text);
    const std::string_view rest = text.substr(at_);
    const Match parameter = MatchTag(rest, kParameter);
    const Match end = MatchTag(rest, kFunctionEnd);
    if (parameter == Match::kYes) {
      parameter_begin_ = at_;
      at_ += kParameter.size();
      scanned_ = at_;
      step_ = Step::kParameterName;
      return true;
    }
    if (end == Match::kYes) {
      progress->arguments += Begin(progress) ? "{}" : "}";
      whole_ = true;
      return EndAt(at_ + kFunctionEnd.size());
    }
    return parameter == Match::kNo && end == Match::kNo ? EndAt(at_) : false;
  }

  // Values are raw text: only what ends one counts.
  bool WalkValue(std::string_view text, bool at_end, Progress* progress) {
    for (; scanned_ < text.size(); ++scanned_) {
      if (text[scanned_] != '<') continue;
      const std::string_view rest = text.substr(scanned_);
      Match match = MatchBlockEnd(text, at_end);
      for (const std::string_view tag : kValueEnds) {
        if (match != Match::kYes) match = std::max(match, MatchTag(rest, tag));
      }
      if (match == Match::kPartial && !at_end) return false;
      if (match != Match::kYes) continue;
      const bool closed = MatchTag(rest, kParameterEnd) == Match::kYes;
      return EndValue(text.substr(at_, scanned_ - at_),
                      scanned_ + (closed ? kParameterEnd.size() : 0), progress);
    }
    return false;
  }

  // </function>, white space and </tool_call> at scanned_: ends a value whose own end was
  // forgotten. The last tag may be missing at the end of the output.
  Match MatchBlockEnd(std::string_view text, bool at_end) {
    const Match function = MatchTag(text.substr(scanned_), kFunctionEnd);
    if (function != Match::kYes) return function;
    space_end_ = std::max(space_end_, scanned_ + kFunctionEnd.size());
    space_end_ = std::min(text.find_first_not_of(kWhiteSpace, space_end_), text.size());
    if (space_end_ == text.size() && at_end) return Match::kYes;
    return MatchTag(text.substr(space_end_), kClose);
  }

  bool EndValue(std::string_view value, size_t end, Progress* progress) {
    // The newlines that the format puts around a value.
    if (value.starts_with('\n')) value.remove_prefix(1);
    if (value.ends_with('\n')) value.remove_suffix(1);
    Dict member;
    member.Set(key_, ConvertArgument(std::string(value), AllowedTypes(properties_.Get(key_))));
    const absl::StatusOr<std::string> json =
        jinja::ToJsonString(Value::MakeDict(std::move(member)));
    // Raw text: what is no UTF-8, or nests too deeply, makes no JSON.
    if (!json.ok() || !jinja::ParseJson(*json).ok()) return EndAt(parameter_begin_);
    // {"key": value} without its braces.
    progress->arguments += Begin(progress) ? "{" : ", ";
    progress->arguments += json->substr(1, json->size() - 2);
    at_ = end;
    step_ = Step::kBetween;
    return true;
  }

  // Whether nothing was reported before.
  bool Begin(Progress* progress) {
    if (begun_) return false;
    begun_ = true;
    progress->name = name_;
    return true;
  }

  Value FindProperties() const {
    if (!tools_.is_list()) return Value();
    for (const Value& tool : tools_.list().items) {
      const Value nested = tool.Get("function");
      const Value function = nested.is_dict() ? nested : tool;
      const Value declared = function.Get("name");
      if (declared.is_string() && declared.str() == name_) {
        return function.Get("parameters").Get("properties");
      }
    }
    return Value();
  }

  const Value& tools_;
  Step step_ = Step::kStart;
  size_t at_ = 0;
  size_t parameter_begin_ = 0;
  size_t scanned_ = 0;    // of a name or a value
  size_t space_end_ = 0;  // of the white space behind a value's last </function>
  std::string name_;
  std::string key_;
  Value properties_;
  bool begun_ = false;
  bool whole_ = false;
};

class CoderXmlSyntax : public ToolCallSyntax {
 public:
  explicit CoderXmlSyntax(Value tools) : tools_(std::move(tools)) {}

  std::unique_ptr<ToolCallBlock> NewBlock() const override {
    return std::make_unique<CoderXmlBlock>(tools_);
  }

 private:
  const Value tools_;
};

}  // namespace

std::unique_ptr<const ToolCallSyntax> MakeCoderXmlSyntax(const Value& tools) {
  return std::make_unique<CoderXmlSyntax>(tools);
}

}  // namespace tessera
