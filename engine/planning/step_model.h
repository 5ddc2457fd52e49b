// How long a step takes on a GPU, by its limits: bytes read, operations done, bytes sent.
//
// Notation: R = TP * DP ranks, B tokens in the step over all groups, T = ceil(B / DP) tokens of a
// group, E experts, k of them per token, H hidden size, S = B * H * 2 bytes (the activations of all
// tokens, bfloat16), S_g = T * H * 2.
//
// Time of a step = max(bytes / bandwidth, operations / peak) + communication   (the "step floor" of
// a roofline; Williams, Waterman, Patterson: "Roofline: An Insightful Visual Performance Model for
// Multicore Architectures", 2009), on the rank that has most to do.
//
// bytes = layers * (attention + router + experts touched) + lm_head + T * context * KV
//   A token chooses k of E experts; uniformly chosen, B tokens touch
//       D(B) = E * (1 - (1 - k/E)^B)   of them.
//   Tensor-sharded experts: every rank reads its slice of D(B) experts. Expert parallel: a rank
//   with n = E/R experts reads m = n * (1 - (1 - k/E)^B) of them on average, and the busiest of R
//   ranks about m + sqrt(2 ln R * m (1 - m/n)): the expected maximum of R normal variables is at
//   most their standard deviation times sqrt(2 ln R).
// operations = 2 * parameters per token; attention 4 * heads * head_dim per token and key. Experts
//   see k * B rows: tensor-sharded all of them on every rank; expert parallel k * B / R, on the
//   busiest rank with the same sqrt(2 ln R) allowance.
//   Projections run at the peak of the weight format (int4 and formats without units: bfloat16),
//   the rest at the bfloat16 peak.
//
// Communication of one layer, in bytes that a rank sends (ring algorithms: an all-reduce of S among
// n ranks sends 2 (n-1)/n S, an all-gather or reduce-scatter (n-1)/n S; Patarasuk, Yuan: "Bandwidth
// optimal all-reduce algorithms for clusters of workstations", 2009):
//   after attention   all-reduce of S_g over the TP group
//   dense MLP         all-reduce of S_g over the TP group
//   MoE, all-reduce   DP = 1: all-reduce of S. DP > 1: all-gather of S over the DP group, then
//                     all-reduce of S over all ranks.
//   MoE, all-to-all   (expert parallel) the all-reduce after attention becomes a reduce-scatter of
//                     S_g; every rank sends each of its B/R rows once to every rank that holds one
//                     of its experts, and gets as many back: 2 * S/R * M * (R-1)/R bytes with
//                         M = R * (1 - C(E - E/R, k) / C(E, k))
//                     distinct ranks per row; then an all-gather of S_g over the TP group.
//   One of the modes is taken for all steps, by the engine's rule (engine/model/moe_comm_choice.h).
// A ring that spans nodes is bound by the network adapters of the ranks it has in a node.
#ifndef TESSERA_ENGINE_PLANNING_STEP_MODEL_H_
#define TESSERA_ENGINE_PLANNING_STEP_MODEL_H_

#include <cstdint>

#include "engine/model/model_config.h"
#include "engine/planning/gpu_table.h"
#include "engine/planning/memory_model.h"
#include "parallel/topology.h"

namespace tessera {

// Shares of the datasheet values that good kernels reach. H100: a copy runs at 3.0 of 3.35 TB/s, a
// large bfloat16 product at 790 of 989 TFLOP/s, an all-reduce at 360 of 450 GB/s.
inline constexpr double kMemoryShare = 0.9;
inline constexpr double kComputeShare = 0.8;
inline constexpr double kLinkShare = 0.8;
// Seconds until a small collective is through: typical values, by the slowest link it takes.
inline constexpr double kNvlinkLatency = 8e-6;
inline constexpr double kPcieLatency = 15e-6;
inline constexpr double kNetworkLatency = 25e-6;

// D(tokens) above.
double DistinctExperts(int64_t experts, int64_t per_token, double tokens);
// M above: distinct ranks that hold one of a token's experts, each of `ranks` holding as many.
double DistinctRanks(int64_t experts, int64_t per_token, int64_t ranks);

struct StepEstimate {
  double seconds = 0;                         // all of the step
  double read_seconds = 0;                    // bytes / bandwidth
  double math_seconds = 0;                    // operations / peak
  double comm_seconds = 0;                    // all layers
  double comm_bytes_per_layer_per_token = 0;  // sent by one rank / (layers * B)
  bool all_to_all = false;                    // how MoE layers communicate, the same in all steps
};

// One layout on one kind of GPU. Immutable; `config` must outlive it.
class StepModel {
 public:
  // The layout must have passed ValidateLayout(layout, LayoutShape(config)).
  StepModel(const ModelConfig& config, const LayoutRequest& layout, const GpuSpec& gpu,
            WeightFormat format);

  // `batch` sequences over all groups, each with `context` tokens, grow by one token.
  StepEstimate Decode(int64_t batch, int64_t context) const;
  // Prompts of `context` tokens, `group_tokens` of them in this step in every group. A prompt token
  // sees half of its prompt on average.
  StepEstimate Prefill(int64_t group_tokens, int64_t context) const;

  const RankSlices& slices() const { return slices_; }
  const ModelShard& shard() const { return shard_; }  // of rank 0, which has most

 private:
  struct Tokens {
    double all = 0;    // B
    double group = 0;  // T
  };
  struct Work {
    double bytes = 0;
    double projection_flops = 0;
    double other_flops = 0;
  };
  struct Traffic {
    double bytes = 0;
    double seconds = 0;
    Traffic& operator+=(const Traffic& other);
    Traffic operator*(double factor) const { return {bytes * factor, seconds * factor}; }
  };
  // A communicator: its size and how many of its ranks share a node.
  struct Ring {
    int64_t size = 1;
    int64_t per_node = 1;
  };

  void AddAttention(const Tokens& tokens, double keys, bool read_kv, Work* work) const;
  void AddExperts(const Tokens& tokens, Work* work) const;
  StepEstimate Finish(const Tokens& tokens, const Work& work) const;

  Ring TpRing() const;
  Ring DpRing() const;
  Ring WorldRing() const;
  // Every rank sends (size - 1) / size of `bytes`.
  Traffic RingPass(const Ring& ring, double bytes) const;
  Traffic AllReduce(const Ring& ring, double bytes) const;
  Traffic AllToAll(double bytes) const;
  Traffic MoeAllReduce(const Tokens& tokens) const;
  Traffic MoeAllToAll(const Tokens& tokens) const;
  bool ChooseAllToAll() const;

  const ModelConfig& config_;
  const LayoutRequest layout_;
  const GpuSpec gpu_;
  const WeightFormat format_;
  ModelShard shard_;
  RankSlices slices_;
  bool all_to_all_ = false;  // how MoE layers communicate
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_PLANNING_STEP_MODEL_H_
