// Families of metrics whose values are read from elsewhere when the page is rendered.
#ifndef TESSERA_SERVER_METRICS_SNAPSHOTS_H_
#define TESSERA_SERVER_METRICS_SNAPSHOTS_H_

#include <prometheus/metric_family.h>

#include <map>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/metrics/catalogue.h"

namespace tessera {

struct Sample {
  std::map<std::string, std::string> labels;
  double value;
};

prometheus::MetricFamily Snapshot(Metric metric, const std::vector<Sample>& samples);
prometheus::MetricFamily Snapshot(Metric metric, double value);

using Families = std::vector<prometheus::MetricFamily>;

// `block_size`: tokens per KV block.
void AppendEngineFamilies(const EngineStats& stats, int32_t block_size, Families* out);
// Of an engine that is not there yet: its counters, so that rates begin at 0.
void AppendEngineCounters(const EngineStats& stats, Families* out);
void AppendGroupFamilies(const GroupFacts& group, bool alive, Families* out);
void AppendExpertFamilies(const ExpertLoads& loads, Families* out);
void AppendProcessFamilies(Families* out);
// `reason`: one of kUnreadyReasons, or empty when the server is ready.
void AppendReadiness(std::string_view reason, Families* out);

}  // namespace tessera

#endif  // TESSERA_SERVER_METRICS_SNAPSHOTS_H_
