#include "engine/grammar/json_tree.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "engine/files/message.h"
#include "engine/grammar/regex.h"
#include "engine/text/utf8.h"
#include "kernels/core/status_macros.h"

namespace tessera::grammar {
namespace {

class Reader {
 public:
  Reader(std::string_view text, JsonTree* tree) : rest_(text), size_(text.size()), tree_(*tree) {}

  absl::StatusOr<const JsonNode*> Read() {
    ASSIGN_OR_RETURN(const JsonNode* node, Value(0));
    SkipSpace();
    if (!rest_.empty()) return Error("text behind the value");
    return node;
  }

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(
        Message("is not valid JSON: at byte ", size_ - rest_.size(), ": ", what));
  }

  void SkipSpace() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(" \n\r\t"), rest_.size()));
  }

  bool Take(std::string_view prefix) {
    if (!rest_.starts_with(prefix)) return false;
    rest_.remove_prefix(prefix.size());
    return true;
  }

  absl::StatusOr<const JsonNode*> Value(int32_t depth) {
    if (depth > kMaxJsonDepth) return Error("nested too deeply");
    SkipSpace();
    using Kind = JsonNode::Kind;
    if (Take("null")) return tree_.Add(Kind::kNull);
    if (Take("true")) return tree_.Add(Kind::kTrue);
    if (Take("false")) return tree_.Add(Kind::kFalse);
    if (Take("\"")) {
      JsonNode* node = tree_.Add(Kind::kString);
      ASSIGN_OR_RETURN(node->text, String());
      return node;
    }
    if (Take("[")) return Array(depth);
    if (Take("{")) return Object(depth);
    return Number();
  }

  absl::StatusOr<const JsonNode*> Array(int32_t depth) {
    JsonNode* node = tree_.Add(JsonNode::Kind::kArray);
    SkipSpace();
    if (Take("]")) return node;
    while (true) {
      ASSIGN_OR_RETURN(const JsonNode* item, Value(depth + 1));
      node->items.push_back(item);
      SkipSpace();
      if (Take("]")) return node;
      if (!Take(",")) return Error("expected \",\" or \"]\"");
    }
  }

  absl::StatusOr<const JsonNode*> Object(int32_t depth) {
    JsonNode* node = tree_.Add(JsonNode::Kind::kObject);
    absl::flat_hash_map<std::string, size_t> places;
    SkipSpace();
    if (Take("}")) return node;
    while (true) {
      SkipSpace();
      if (!Take("\"")) return Error("expected the name of a member");
      ASSIGN_OR_RETURN(std::string name, String());
      SkipSpace();
      if (!Take(":")) return Error("expected \":\"");
      ASSIGN_OR_RETURN(const JsonNode* value, Value(depth + 1));
      const auto [place, is_new] = places.try_emplace(name, node->members.size());
      if (is_new) {
        node->members.emplace_back(std::move(name), value);
      } else {
        node->members[place->second].second = value;
      }
      SkipSpace();
      if (Take("}")) return node;
      if (!Take(",")) return Error("expected \",\" or \"}\"");
    }
  }

  size_t TakeDigits() {
    const size_t length = std::min(rest_.find_first_not_of("0123456789"), rest_.size());
    rest_.remove_prefix(length);
    return length;
  }

  absl::StatusOr<const JsonNode*> Number() {
    const std::string_view begin = rest_;
    Take("-");
    const bool zero = rest_.starts_with("0");
    const size_t digits = TakeDigits();
    if (digits == 0 || (zero && digits > 1)) return Error("expected a value");
    if (Take(".") && TakeDigits() == 0) return Error("expected a digit");
    if (Take("e") || Take("E")) {
      if (!Take("+")) Take("-");
      if (TakeDigits() == 0) return Error("expected a digit");
    }
    JsonNode* node = tree_.Add(JsonNode::Kind::kNumber);
    node->text = begin.substr(0, begin.size() - rest_.size());
    return node;
  }

  absl::Status Escape(std::string* out) {
    if (rest_.empty()) return Error("unfinished string");
    const char kind = rest_[0];
    rest_.remove_prefix(1);
    constexpr std::string_view kKinds = "\"\\/bfnrt";
    constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
    if (const size_t known = kKinds.find(kind); known != std::string_view::npos) {
      out->push_back(kValues[known]);
      return absl::OkStatus();
    }
    uint32_t value = 0;
    if (kind != 'u' || !TakeHex(&rest_, 4, &value)) return Error("bad escape");
    if (value >= 0xD800 && value < 0xE000) {
      uint32_t low = 0;
      if (value >= 0xDC00 || !Take("\\u") || !TakeHex(&rest_, 4, &low) || low < 0xDC00 ||
          low >= 0xE000) {
        return Error("half of a surrogate pair");
      }
      value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
    }
    AppendUtf8(value, out);
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> String() {
    std::string out;
    while (true) {
      if (rest_.empty()) return Error("unfinished string");
      if (Take("\"")) return out;
      if (Take("\\")) {
        RETURN_IF_ERROR(Escape(&out));
        continue;
      }
      const std::string_view before = rest_;
      uint32_t c = 0;
      if (!TakeCodePoint(&rest_, &c) || c < 0x20) return Error("a string with a bad character");
      out.append(before.substr(0, before.size() - rest_.size()));
    }
  }

  std::string_view rest_;
  const size_t size_;
  JsonTree& tree_;
};

}  // namespace

const JsonNode* JsonNode::Find(std::string_view key) const {
  for (const auto& [name, value] : members) {
    if (name == key) return value;
  }
  return nullptr;
}

absl::StatusOr<const JsonNode*> ReadJson(std::string_view text, JsonTree* tree) {
  return Reader(text, tree).Read();
}

std::string QuotedJson(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    constexpr std::string_view kKinds = "\"\\bfnrt";
    constexpr std::string_view kValues = "\"\\\b\f\n\r\t";
    if (const size_t known = kValues.find(c); known != std::string_view::npos) {
      out.push_back('\\');
      out.push_back(kKinds[known]);
    } else if (static_cast<uint8_t>(c) < 0x20) {
      constexpr std::string_view kHex = "0123456789abcdef";
      out.append("\\u00");
      out.push_back(kHex[static_cast<uint8_t>(c) >> 4]);
      out.push_back(kHex[c & 15]);
    } else {
      out.push_back(c);
    }
  }
  out.push_back('"');
  return out;
}

std::string PointerPart(std::string_view name) {
  return absl::StrReplaceAll(std::string(name), {{"~", "~0"}, {"/", "~1"}});
}

}  // namespace tessera::grammar
