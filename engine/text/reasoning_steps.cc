#include "engine/text/reasoning_steps.h"

namespace tessera {
namespace {

constexpr std::string_view kBlanks = " \n\t\r";

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::vector<std::string_view> LinesOf(std::string_view text) {
  std::vector<std::string_view> lines;
  while (true) {
    const size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return lines;
    text.remove_prefix(end + 1);
  }
}

// Where steps may begin: behind a blank line, or, without any, behind every line.
bool HasParagraphs(const std::vector<std::string_view>& lines) {
  bool is_fenced = false;
  for (const std::string_view line : lines) {
    if (Trimmed(line).starts_with("```")) is_fenced = !is_fenced;
    if (!is_fenced && Trimmed(line).empty()) return true;
  }
  return false;
}

}  // namespace

std::vector<std::string> SplitReasoningSteps(std::string_view reasoning) {
  const std::vector<std::string_view> lines = LinesOf(Trimmed(reasoning));
  const bool by_paragraph = HasParagraphs(lines);
  std::vector<std::string> steps;
  std::string step;
  bool is_fenced = false;
  const auto end_step = [&] {
    if (const std::string_view text = Trimmed(step); !text.empty()) steps.emplace_back(text);
    step.clear();
  };
  for (const std::string_view line : lines) {
    const std::string_view text = Trimmed(line);
    const bool is_fence = text.starts_with("```");
    const bool may_end = by_paragraph ? text.empty() : !step.empty();
    const bool announces = Trimmed(step).ends_with(':');
    if (!is_fenced && may_end && !announces) end_step();
    if (is_fence) is_fenced = !is_fenced;
    step.append(line).append("\n");
  }
  end_step();
  return steps;
}

}  // namespace tessera
