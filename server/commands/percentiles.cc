#include "server/commands/percentiles.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_format.h"

namespace tessera {

double Percentile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const auto rank = static_cast<size_t>(std::llround(q * static_cast<double>(values.size() - 1)));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(rank),
                   values.end());
  return values[rank];
}

std::string PercentilesText(const char* name, const std::vector<double>& seconds) {
  constexpr double kMs = 1000;
  return absl::StrFormat("%-24s p50 %9.3f   p90 %9.3f   p99 %9.3f ms\n", name,
                         Percentile(seconds, 0.5) * kMs, Percentile(seconds, 0.9) * kMs,
                         Percentile(seconds, 0.99) * kMs);
}

std::string PercentilesJson(const char* name, const std::vector<double>& seconds) {
  return absl::StrFormat("\"%s\": {\"p50\": %.6g, \"p90\": %.6g, \"p99\": %.6g}", name,
                         Percentile(seconds, 0.5), Percentile(seconds, 0.9),
                         Percentile(seconds, 0.99));
}

}  // namespace tessera
