// Sends hidden rows to the ranks that own their experts and brings the weighted outputs back.
//
//   RouteTopK -> Dispatch -> GroupedGemm(x, row_index, offsets) -> SiluAndMul(num_rows)
//             -> GroupedGemm(offsets) -> Combine
//
// Letters: R ranks, T tokens of this rank, k experts per token, H hidden size, C capacity, S expert
// slots per rank, m = min(k, S).
#ifndef TESSERA_PARALLEL_EXPERTS_DISPATCHER_H_
#define TESSERA_PARALLEL_EXPERTS_DISPATCHER_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "kernels/core/expert_ops.h"
#include "kernels/core/tensor.h"
#include "parallel/communicator.h"
#include "parallel/experts/placement.h"

namespace tessera {

enum class CombineMode {
  // The expert rank adds its experts' outputs of a row in fp32 and returns one row; the source adds
  // ranks in ascending order. In bfloat16 the row is rounded on the way.
  kSummed,
  // One row per (token, choice) returns and the source adds in ascending choice: the same bits for
  // every R and every placement when the experts are batch-invariant.
  kExact,
};
enum class ExchangeMode {
  kCounted,  // counts first, then exactly the rows (eager)
  kPadded,   // one exchange of whole chunks each way; nothing depends on counts (graphs)
  // Padded where a counted exchange would bring counts to a host, which waits for them and cannot
  // be captured, and whole chunks are small; else counted. The same bits either way.
  kPaddedIfSmall,
};

// Whole chunks up to this size are worth it. A rank sends R C rows there and R C m rows back (R C
// when they are summed), however few are in use, so the way back is what counts: R C m H * bytes
// per element. In bfloat16 with H = 2048, m = 8 a row of C costs 256 KiB on 8 ranks, 512 KiB on
// 16, of which a top-8 router uses 32 KiB: C of 16 and 8 fit. 4 MiB take about 10 us by NVLink
// (450 GB/s) and 85 us by a network adapter of 400 Gbit/s per GPU. A counted layer waits twice
// for counts, some 20 us each with an idle device, and its step is enqueued kernel by kernel.
inline constexpr int64_t kSmallExchangeBytes = 4 << 20;

struct DispatcherOptions {
  int64_t max_tokens = 0;  // largest T and C
  int64_t hidden = 0;
  DType dtype = DType::kF32;  // of rows: kF32 or kBF16
  int32_t top_k = 0;
  PlacementShape placement;  // num_ranks = size of the communicator
  CombineMode combine = CombineMode::kSummed;
  ExchangeMode exchange = ExchangeMode::kCounted;
  int64_t small_bytes = kSmallExchangeBytes;  // of kPaddedIfSmall: most bytes one way
};

// The router's choice for the rows of this rank.
struct Routing {
  // [T, k] int, logical experts, distinct per row; negative: none, so padding is never sent
  ConstTensorView ids;
  ConstTensorView weights;                    // [T, k] f32; must live until Combine
  const PlacementTable* placement = nullptr;  // of this layer
  // Rows of a chunk, the same on all ranks, T <= C <= max_tokens; 0 = max_tokens. Padded exchanges
  // move R * C rows.
  int64_t capacity = 0;
};

// What Combine needs to know about a Dispatch. Move-only; consumed by Combine.
class DispatchHandle {
 public:
  DispatchHandle(DispatchHandle&&) = default;
  DispatchHandle& operator=(DispatchHandle&&) = default;
  DispatchHandle(const DispatchHandle&) = delete;
  DispatchHandle& operator=(const DispatchHandle&) = delete;

 private:
  friend class ExpertDispatcher;
  DispatchHandle(const DispatchShape& shape, bool padded, int64_t num_tokens,
                 ConstTensorView weights)
      : shape_(shape), padded_(padded), num_tokens_(num_tokens), weights_(weights) {}

  DispatchShape shape_;
  bool padded_;
  int64_t num_tokens_;
  ConstTensorView weights_;
};

// Rows for this rank's experts. Views into the dispatcher's buffers, valid until Combine.
struct DispatchedRows {
  ConstTensorView x;          // [R * C, H] received rows; those without a token are undefined
  ConstTensorView row_index;  // [R * C * m] int: row of x for each sorted row
  ConstTensorView offsets;    // [S + 1] int: sorted rows of each slot
  ConstTensorView num_rows;   // [1] int: offsets[S]
  int64_t max_rows = 0;       // R * C * m
  DispatchHandle handle;
};

// One per rank and group; used by the thread that drives the device. Buffers for max_tokens are
// allocated once. Every Dispatch is followed by its Combine before the next Dispatch. All ranks
// call both, also those without tokens. Calls only enqueue; failures (also an expert id that does
// not exist and impossible data from a peer: INTERNAL) surface at Device::Synchronize().
class ExpertDispatcher {
 public:
  // All ranks call it, and wait for each other where they share memory. `ops` and `communicator`,
  // of the same device, must outlive the dispatcher. INVALID_ARGUMENT for sizes that do not agree,
  // RESOURCE_EXHAUSTED without room for the buffers.
  static absl::StatusOr<std::unique_ptr<ExpertDispatcher>> Create(ExpertOps* ops,
                                                                  Communicator* communicator,
                                                                  const DispatcherOptions& options);

  ~ExpertDispatcher();

  // Device memory of all buffers for these options.
  static int64_t BufferBytes(const DispatcherOptions& options);

  DispatchedRows Dispatch(ConstTensorView x, const Routing& routing);  // x [T, H]
  // y [R * C * m, H]: outputs of the experts, in sorted order. out [T, H]: rows without an expert
  // become zero.
  void Combine(DispatchHandle handle, ConstTensorView y, TensorView out);

  // Whether exchanges with this capacity are padded, on all ranks.
  bool Pads(int64_t capacity) const;
  // Whether a host waits for their counts: they cannot be captured then.
  bool WaitsForCounts(int64_t capacity) const { return !shares_memory() && !Pads(capacity); }

  const DispatcherOptions& options() const { return options_; }

 private:
  struct Buffers;

  ExpertDispatcher(ExpertOps* ops, Communicator* communicator, const DispatcherOptions& options);

  void EnqueuePlan(const DispatchHandle& handle, ConstTensorView x, const Routing& routing);
  void EnqueueExchange(const DispatchHandle& handle);
  void EnqueueSort(const DispatchHandle& handle);
  void EnqueueResults(const DispatchShape& shape, ConstTensorView y);
  void EnqueueReturn(const DispatchHandle& handle);
  void EnqueueSum(const DispatchHandle& handle, TensorView out);
  bool exact() const { return options_.combine == CombineMode::kExact; }
  // Rows go straight to peers' memory, and so do their counts.
  bool shares_memory() const { return memory_.data() == nullptr; }

  ExpertOps* ops_;
  Communicator* communicator_;
  const DispatcherOptions options_;
  DeviceBuffer memory_;  // empty: the communicator shares memory
  std::unique_ptr<Buffers> buffers_;
  bool outstanding_ = false;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_EXPERTS_DISPATCHER_H_
