// What a server's /metrics page says, read back.
#ifndef TESSERA_SERVER_COMMANDS_METRICS_PAGE_H_
#define TESSERA_SERVER_COMMANDS_METRICS_PAGE_H_

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera {

class MetricsPage {
 public:
  using Labels = std::map<std::string, std::string>;

  // Prometheus' text format; lines that are not are left out.
  static MetricsPage Parse(std::string_view text);

  bool empty() const { return series_.empty(); }
  // Of the only series of that name, or of the first that has this label.
  std::optional<double> Value(const std::string& name) const;
  std::optional<double> Value(const std::string& name, const std::string& label,
                              const std::string& value) const;
  // Of all series of that name that `wanted` takes.
  template <typename Predicate>
  double Sum(const std::string& name, const Predicate& wanted) const {
    double sum = 0;
    for (const auto& [labels, value] : Series(name)) sum += wanted(labels) ? value : 0;
    return sum;
  }
  const std::vector<std::pair<Labels, double>>& Series(const std::string& name) const;

 private:
  std::map<std::string, std::vector<std::pair<Labels, double>>> series_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_METRICS_PAGE_H_
