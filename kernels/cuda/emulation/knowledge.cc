#include "kernels/cuda/emulation/knowledge.h"

#include <algorithm>

#include "kernels/cuda/emulation/global_memory.h"

namespace tessera::simt::emulation {

const OperationRecord* OperationOf(uint32_t serial) {
  const auto& operations = M().operations;
  if (operations.empty() || serial < operations.front().first_serial) return nullptr;
  auto it = std::upper_bound(
      operations.begin(), operations.end(), serial,
      [](uint32_t s, const OperationRecord& record) { return s < record.first_serial; });
  return &*(it - 1);
}

void JoinSeen(std::vector<uint64_t>* into, const std::vector<uint64_t>& seen) {
  if (into->size() < seen.size()) into->resize(seen.size(), 0);
  for (size_t i = 0; i < seen.size(); ++i) (*into)[i] = std::max((*into)[i], seen[i]);
}

void JoinClock(Knowledge* into, uint32_t serial, const ClockVector& clock) {
  ClockVector& known = into->clusters[serial];
  if (known.size() < clock.size()) known.resize(clock.size(), 0);
  Join(known.data(), clock.data(), clock.size());
}

void JoinKnowledge(Knowledge* into, const Knowledge& other) {
  JoinSeen(&into->seen, other.seen);
  for (const auto& [serial, clock] : other.clusters) JoinClock(into, serial, clock);
}

void Prune(Knowledge* knowledge) {
  auto& clusters = knowledge->clusters;
  clusters.erase(clusters.begin(), clusters.lower_bound(FirstOpenSerial()));
  std::erase_if(clusters, [&](const auto& cluster) {
    return Reaches(knowledge->seen, OperationOf(cluster.first)->position);
  });
}

Knowledge KnowledgeAt(const StreamPosition& at) {
  Knowledge known;
  for (const auto& [stream, learnt] : M().learnt) {
    const auto s = static_cast<size_t>(stream);
    const uint64_t seen = s < at.seen.size() ? at.seen[s] : 0;
    const uint64_t by_host = s < at.host.size() ? at.host[s] : 0;
    if (stream == at.stream || seen > by_host) JoinKnowledge(&known, learnt);
  }
  return known;
}

void PassOn(const Grid& grid) {
  if (grid.learnt.seen.empty() && grid.learnt.clusters.empty()) return;
  Knowledge& learnt = M().learnt[grid.record->position.stream];
  JoinKnowledge(&learnt, grid.learnt);
  Prune(&learnt);
}

}  // namespace tessera::simt::emulation
