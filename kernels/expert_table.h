// The expert table of backends that compute on the host: an array of weights.
#ifndef TESSERA_KERNELS_EXPERT_TABLE_H_
#define TESSERA_KERNELS_EXPERT_TABLE_H_

#include <cstdint>
#include <vector>

#include "kernels/ops.h"

namespace tessera {

class HostExpertTable final : public ExpertTable {
 public:
  explicit HostExpertTable(const ExpertTableShape& shape)
      : ExpertTable(shape), weights_(static_cast<size_t>(shape.num_slots)) {}

  void Set(int32_t slot, const Weight& weight) override {
    CheckFits(slot, weight);
    weights_[slot] = &weight;
  }
  // Null for an empty slot.
  const Weight* operator[](int32_t slot) const { return weights_[slot]; }
  static const HostExpertTable& Of(const ExpertTable& table) {
    return static_cast<const HostExpertTable&>(table);
  }

 private:
  std::vector<const Weight*> weights_;
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_EXPERT_TABLE_H_
