// What launches learn of other launches by flags: beyond the order of streams and hosts, which the
// positions of operations hold.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_KNOWLEDGE_H_
#define TESSERA_KERNELS_CUDA_EMULATION_KNOWLEDGE_H_

#include <cstdint>

#include "kernels/cuda/emulation/machine.h"

namespace tessera::simt::emulation {

inline bool Reaches(const std::vector<uint64_t>& seen, const StreamPosition& position) {
  return static_cast<size_t>(position.stream) < seen.size() &&
         seen[static_cast<size_t>(position.stream)] >= position.sequence;
}

// The operation whose clusters have this serial number; null: an earlier one, known to everybody.
const OperationRecord* OperationOf(uint32_t serial);

void JoinSeen(std::vector<uint64_t>* into, const std::vector<uint64_t>& seen);
void JoinClock(Knowledge* into, uint32_t serial, const ClockVector& clock);
void JoinKnowledge(Knowledge* into, const Knowledge& other);
// Forgets clusters of operations that are known as a whole, here or by everybody.
void Prune(Knowledge* knowledge);

// What a launch at this position knows when it begins, from those before it in its stream and from
// streams that it was made to wait for.
Knowledge KnowledgeAt(const StreamPosition& at);
// A launch has ended: the operations behind it in its stream know what it has learnt.
void PassOn(const Grid& grid);

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_KNOWLEDGE_H_
