#include "engine/text/pcre2_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

PCRE2_SPTR Units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string ErrorText(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  // Cut off when it is longer, and still an answer.
  static_cast<void>(pcre2_get_error_message(error, text.data(), text.size()));
  return absl::StrCat(reinterpret_cast<const char*>(text.data()), " (PCRE2 error ", error, ")");
}

}  // namespace

absl::Status Pcre2Failure(int error) {
  switch (error) {
    case PCRE2_ERROR_NOMATCH:
      return absl::NotFoundError("the pattern matches nothing there");
    case PCRE2_ERROR_NOMEMORY:
    case PCRE2_ERROR_HEAPLIMIT:
      return absl::ResourceExhaustedError(
          absl::StrCat("not enough memory to split the text: ", ErrorText(error)));
    case PCRE2_ERROR_MATCHLIMIT:
    case PCRE2_ERROR_DEPTHLIMIT:
      return absl::InvalidArgumentError(
          absl::StrCat("the text takes too many steps to split: ", ErrorText(error)));
    default:
      return absl::InternalError(absl::StrCat("splitting the text failed: ", ErrorText(error)));
  }
}

struct Pcre2Regex::Compiled {
  std::unique_ptr<pcre2_code, CodeDeleter> code;
  std::unique_ptr<pcre2_match_context, MatchContextDeleter> context;  // only read while matching
  bool to_machine_code = false;
};

struct Pcre2Regex::Workspace::Data {
  std::unique_ptr<pcre2_match_data, MatchDataDeleter> match;
};

Pcre2Regex::Workspace::Workspace() : data_(std::make_unique<Data>()) {
  data_->match.reset(pcre2_match_data_create(1, nullptr));
}
Pcre2Regex::Workspace::~Workspace() = default;

Pcre2Regex::Pcre2Regex(std::unique_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
Pcre2Regex::~Pcre2Regex() = default;

absl::StatusOr<std::unique_ptr<const Pcre2Regex>> Pcre2Regex::Compile(std::string_view pattern,
                                                                      RegexLimits limits) {
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  auto compiled = std::make_unique<Compiled>();
  compiled->code.reset(pcre2_compile(Units(pattern), pattern.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK,
                                     &error, &error_offset, nullptr));
  compiled->context.reset(pcre2_match_context_create(nullptr));
  if (compiled->code == nullptr || compiled->context == nullptr) {
    return absl::InternalError(absl::StrCat("PCRE2 cannot compile a pattern, which needs Unicode ",
                                            "support: ", ErrorText(error)));
  }
  pcre2_set_match_limit(compiled->context.get(), limits.steps);
  pcre2_set_heap_limit(compiled->context.get(), limits.heap_kib);
  // Where memory cannot be made executable the interpreter gives the same answers, slower.
  compiled->to_machine_code = pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE) == 0;
  return std::unique_ptr<const Pcre2Regex>(new Pcre2Regex(std::move(compiled)));
}

absl::StatusOr<size_t> Pcre2Regex::MatchEnd(std::string_view text, size_t position,
                                            Workspace& workspace) const {
  pcre2_match_data* const match = workspace.data_->match.get();
  if (match == nullptr) return Pcre2Failure(PCRE2_ERROR_NOMEMORY);
  int result = PCRE2_ERROR_JIT_BADOPTION;
  if (compiled_->to_machine_code) {
    result = pcre2_jit_match(compiled_->code.get(), Units(text), text.size(), position, 0, match,
                             compiled_->context.get());
  }
  // No machine code, or its small stack did not suffice.
  if (result == PCRE2_ERROR_JIT_BADOPTION || result == PCRE2_ERROR_JIT_STACKLIMIT) {
    result = pcre2_match(compiled_->code.get(), Units(text), text.size(), position,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, compiled_->context.get());
  }
  if (result < 0) return Pcre2Failure(result);
  return pcre2_get_ovector_pointer(match)[1];
}

}  // namespace tessera
