#include "server/commands/metrics_page.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace tessera {
namespace {

// From behind the opening brace to the closing one, which `*text` then is behind of. False: no
// labels.
bool ReadLabels(std::string_view* text, MetricsPage::Labels* labels) {
  while (!text->empty() && text->front() != '}') {
    const size_t equal = text->find("=\"");
    if (equal == std::string_view::npos) return false;
    std::string& value = (*labels)[std::string(text->substr(0, equal))];
    text->remove_prefix(equal + 2);
    while (!text->empty() && text->front() != '"') {
      if (text->front() == '\\' && text->size() > 1) text->remove_prefix(1);
      value += text->front();
      text->remove_prefix(1);
    }
    if (text->empty()) return false;
    text->remove_prefix(1);
    if (!text->empty() && text->front() == ',') text->remove_prefix(1);
  }
  if (text->empty()) return false;
  text->remove_prefix(1);
  return true;
}

}  // namespace

MetricsPage MetricsPage::Parse(std::string_view text) {
  MetricsPage page;
  for (const absl::string_view whole :
       absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    std::string_view line(whole.data(), whole.size());
    if (line.empty() || line.front() == '#') continue;
    const size_t end = line.find_first_of("{ ");
    if (end == std::string_view::npos) continue;
    const std::string name(line.substr(0, end));
    const bool has_labels = line[end] == '{';
    line.remove_prefix(end + 1);
    Labels labels;
    if (has_labels && !ReadLabels(&line, &labels)) continue;
    double value = 0;
    if (!absl::SimpleAtod(absl::string_view(line.data(), line.size()), &value)) continue;
    page.series_[name].emplace_back(std::move(labels), value);
  }
  return page;
}

const std::vector<std::pair<MetricsPage::Labels, double>>& MetricsPage::Series(
    const std::string& name) const {
  static const auto* const kNone = new std::vector<std::pair<Labels, double>>;
  const auto found = series_.find(name);
  return found == series_.end() ? *kNone : found->second;
}

std::optional<double> MetricsPage::Value(const std::string& name) const {
  const auto& series = Series(name);
  if (series.empty()) return std::nullopt;
  return series.front().second;
}

std::optional<double> MetricsPage::Value(const std::string& name, const std::string& label,
                                         const std::string& value) const {
  for (const auto& [labels, number] : Series(name)) {
    const auto found = labels.find(label);
    if (found != labels.end() && found->second == value) return number;
  }
  return std::nullopt;
}

}  // namespace tessera
