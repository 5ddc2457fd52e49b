// How measurements are told: three percentiles of a list of times.
#ifndef TESSERA_SERVER_COMMANDS_PERCENTILES_H_
#define TESSERA_SERVER_COMMANDS_PERCENTILES_H_

#include <string>
#include <vector>

namespace tessera {

// q in [0, 1]; 0 for no values.
double Percentile(std::vector<double> values, double q);

// p50, p90 and p99 of seconds: a line in milliseconds, and a member of a JSON object in seconds.
std::string PercentilesText(const char* name, const std::vector<double>& seconds);
std::string PercentilesJson(const char* name, const std::vector<double>& seconds);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_PERCENTILES_H_
