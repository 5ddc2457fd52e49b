#include "parallel/experts/dispatcher.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

RowLayout MakeLayout(const DispatcherOptions& options, int64_t capacity) {
  return {.num_ranks = options.placement.num_ranks,
          .slots_per_rank = options.placement.slots_per_rank,
          .top_k = options.top_k,
          .row_slots = std::min(options.top_k, options.placement.slots_per_rank),
          .capacity = capacity,
          .hidden = options.hidden,
          .dtype = options.dtype};
}

// Rows of a chunk on the way back, per row of the way out.
int64_t ReturnFactor(const DispatcherOptions& options, const RowLayout& layout) {
  return options.combine == CombineMode::kExact ? layout.row_slots : 1;
}

absl::Status CheckOptions(const Communicator& communicator, const DispatcherOptions& options) {
  const PlacementShape& placement = options.placement;
  if (options.max_tokens < 1 || options.hidden < 1 || options.top_k < 1 ||
      placement.slots_per_rank < 1 || options.top_k > placement.num_experts ||
      (options.dtype != DType::kF32 && options.dtype != DType::kBF16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert dispatch is not possible with ", options.max_tokens, " tokens of ",
                     options.hidden, " elements, ", options.top_k, " of ", placement.num_experts,
                     " experts per token and ", placement.slots_per_rank, " slots per rank"));
  }
  if (placement.num_ranks != communicator.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the placement is for ", placement.num_ranks,
                                                   " ranks, the group has ", communicator.size()));
  }
  const RowLayout layout = MakeLayout(options, options.max_tokens);
  if (options.max_tokens >
      std::numeric_limits<int32_t>::max() / placement.num_ranks / layout.row_slots) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.max_tokens, " tokens per rank on ", placement.num_ranks,
                     " ranks are more rows than expert row indices can count; use at most ",
                     std::numeric_limits<int32_t>::max() / placement.num_ranks / layout.row_slots));
  }
  return absl::OkStatus();
}

}  // namespace

// One allocation, cut into arrays for the largest capacity. Only addresses: work in the queue keeps
// a copy, and the device frees the memory behind them after that work.
struct ExpertDispatcher::Buffers {
  enum Array {
    kSendCounts,
    kSendPairCounts,
    kSendTokens,
    kSendHeaders,
    kTokenRows,
    kPairRows,
    kRecvCounts,
    kRecvPairCounts,
    kReturnedCounts,
    kRecvHeaders,
    kOffsets,
    kRowIndex,
    kSortedRow,
    kSourceRows,  // rows sent, later results received
    kExpertRows,  // rows received, later results sent
    kNumArrays
  };

  // Bytes of every array, each a multiple of a cache line.
  static std::array<int64_t, kNumArrays> Sizes(const DispatcherOptions& options) {
    const RowLayout layout = MakeLayout(options, options.max_tokens);
    const int64_t ranks = layout.num_ranks;
    const int64_t rows = layout.num_rows();
    std::array<int64_t, kNumArrays> words{};
    words[kSendCounts] = words[kSendPairCounts] = ranks;
    words[kRecvCounts] = words[kRecvPairCounts] = words[kReturnedCounts] = ranks;
    words[kSendTokens] = rows;
    words[kSendHeaders] = words[kRecvHeaders] = rows * HeaderWords(layout.row_slots);
    words[kTokenRows] = layout.capacity * layout.token_row_slots();
    words[kPairRows] = layout.capacity * layout.top_k;
    words[kOffsets] = layout.slots_per_rank + 1;
    words[kRowIndex] = words[kSortedRow] = rows * layout.row_slots;
    std::array<int64_t, kNumArrays> sizes{};
    for (int i = 0; i < kNumArrays; ++i) sizes[i] = words[i] * int64_t{sizeof(int32_t)};
    sizes[kSourceRows] = sizes[kExpertRows] =
        rows * ReturnFactor(options, layout) * layout.row_bytes();
    for (int64_t& size : sizes) size = (size + 63) / 64 * 64;
    return sizes;
  }

  char* At(Array array) const { return base + offsets[array]; }
  TensorView Ints(Array array, std::initializer_list<int64_t> dims) const {
    return {At(array), DType::kI32, dims};
  }
  // Inside Device::Run only.
  char* Bytes(Device* device, Array array) const {
    return static_cast<char*>(device->Access(At(array)));
  }
  int32_t* Words(Device* device, Array array) const {
    return reinterpret_cast<int32_t*>(Bytes(device, array));
  }
  PlanOutput Plan(Device* device) const {
    return {.send_counts = Words(device, kSendCounts),
            .pair_counts = Words(device, kSendPairCounts),
            .send_tokens = Words(device, kSendTokens),
            .headers = Words(device, kSendHeaders),
            .token_rows = Words(device, kTokenRows),
            .pair_rows = Words(device, kPairRows)};
  }
  ReceivedRows Received(Device* device) const {
    return {.headers = Words(device, kRecvHeaders),
            .recv_counts = Words(device, kRecvCounts),
            .pair_counts = Words(device, kRecvPairCounts),
            .offsets = Words(device, kOffsets),
            .row_index = Words(device, kRowIndex),
            .sorted_row = Words(device, kSortedRow)};
  }

  char* base = nullptr;
  std::array<int64_t, kNumArrays> offsets{};
};

ExpertDispatcher::ExpertDispatcher(Device* device, Communicator* communicator,
                                   const DispatcherOptions& options)
    : device_(device),
      communicator_(communicator),
      options_(options),
      buffers_(std::make_unique<Buffers>()) {}

ExpertDispatcher::~ExpertDispatcher() = default;

int64_t ExpertDispatcher::BufferBytes(const DispatcherOptions& options) {
  int64_t total = 0;
  for (int64_t size : Buffers::Sizes(options)) total += size;
  return total;
}

absl::StatusOr<std::unique_ptr<ExpertDispatcher>> ExpertDispatcher::Create(
    Device* device, Communicator* communicator, const DispatcherOptions& options) {
  RETURN_IF_ERROR(CheckOptions(*communicator, options));
  std::unique_ptr<ExpertDispatcher> dispatcher(new ExpertDispatcher(device, communicator, options));
  Buffers& buffers = *dispatcher->buffers_;
  const auto sizes = Buffers::Sizes(options);
  for (int i = 1; i < Buffers::kNumArrays; ++i) {
    buffers.offsets[i] = buffers.offsets[i - 1] + sizes[i - 1];
  }
  ASSIGN_OR_RETURN(dispatcher->memory_, device->Allocate(BufferBytes(options), "expert dispatch"));
  buffers.base = static_cast<char*>(dispatcher->memory_.data());
  return dispatcher;
}

DispatchedRows ExpertDispatcher::Dispatch(ConstTensorView x, const Routing& routing) {
  const int64_t num_tokens = x.dim(0);
  const int64_t capacity = routing.capacity == 0 ? options_.max_tokens : routing.capacity;
  TESSERA_CHECK(!outstanding_);
  TESSERA_CHECK(num_tokens <= capacity && capacity <= options_.max_tokens);
  TESSERA_CHECK(x.dtype() == options_.dtype && x.dim(1) == options_.hidden);
  TESSERA_CHECK(routing.ids.contiguous() && routing.weights.contiguous());
  TESSERA_CHECK(routing.ids.num_elements() == num_tokens * options_.top_k);
  TESSERA_CHECK(routing.weights.num_elements() == num_tokens * options_.top_k);
  TESSERA_CHECK(routing.placement->current().shape() == options_.placement);
  outstanding_ = true;

  const RowLayout layout = MakeLayout(options_, capacity);
  EnqueuePlan(layout, x, routing);
  EnqueueExchange(layout);
  const int64_t max_rows = layout.num_rows() * layout.row_slots;
  const ConstTensorView offsets = buffers_->Ints(Buffers::kOffsets, {layout.slots_per_rank + 1});
  return {.x = TensorView(buffers_->At(Buffers::kExpertRows), layout.dtype,
                          {layout.num_rows(), layout.hidden}),
          .row_index = buffers_->Ints(Buffers::kRowIndex, {max_rows}),
          .offsets = offsets,
          .num_rows = offsets.Rows(layout.slots_per_rank, 1),
          .max_rows = max_rows,
          .handle = DispatchHandle(layout, num_tokens, routing.weights)};
}

void ExpertDispatcher::EnqueuePlan(const RowLayout& layout, ConstTensorView x,
                                   const Routing& routing) {
  device_->Run([device = device_, buffers = *buffers_, layout, x, ids = routing.ids,
                weights = routing.weights, num_tokens = routing.num_tokens,
                placement = routing.placement->device_view(), padded = padded(),
                rank = communicator_->rank()]() mutable {
    const auto ints = [device](const void* address) {
      return static_cast<const int32_t*>(device->Access(address));
    };
    placement.replica_offsets = ints(placement.replica_offsets);
    placement.replica_slots = ints(placement.replica_slots);
    PlanInput in{.ids = ints(ids.data()),
                 .weights = static_cast<const float*>(device->Access(weights.data())),
                 .num_tokens = x.dim(0),
                 .k = layout.top_k,
                 .rank = rank,
                 .placement = placement,
                 .capacity = layout.capacity,
                 .row_slots = layout.row_slots};
    if (!num_tokens.empty()) {
      in.num_tokens = std::clamp<int64_t>(*ints(num_tokens.data()), 0, x.dim(0));
    }
    const PlanOutput plan = buffers.Plan(device);
    if (!PlanDispatch(in, plan)) {
      return absl::InternalError(absl::StrCat("rank ", rank, ": the router chose an expert beyond ",
                                              placement.num_experts, " or one twice for a token"));
    }
    const int64_t padding = x.dim(0) - in.num_tokens;
    std::fill_n(plan.pair_rows + in.num_tokens * layout.top_k, padding * layout.top_k, -1);
    std::fill_n(plan.token_rows + in.num_tokens * layout.token_row_slots(),
                padding * layout.token_row_slots(), -1);
    if (padded) ClearUnusedHeaders(in, plan);
    const auto element = static_cast<int64_t>(SizeOf(layout.dtype));
    PackRows(
        layout,
        {.data = static_cast<const char*>(device->Access(x.data())),
         .stride_bytes = x.stride0() * element},
        plan,
        {.data = buffers.Bytes(device, Buffers::kSourceRows), .stride_bytes = layout.row_bytes()});
    return absl::OkStatus();
  });
}

void ExpertDispatcher::EnqueueExchange(const RowLayout& layout) {
  const int64_t rows = layout.num_rows();
  const int64_t words = HeaderWords(layout.row_slots);
  const std::array<AllToAllPart, 2> parts = {
      AllToAllPart{
          TensorView(buffers_->At(Buffers::kSourceRows), layout.dtype, {rows, layout.hidden}),
          TensorView(buffers_->At(Buffers::kExpertRows), layout.dtype, {rows, layout.hidden})},
      AllToAllPart{buffers_->Ints(Buffers::kSendHeaders, {rows, words}),
                   buffers_->Ints(Buffers::kRecvHeaders, {rows, words})}};
  if (padded()) {
    communicator_->AllToAll(parts);
  } else {
    communicator_->AllToAllV(parts, buffers_->Ints(Buffers::kSendCounts, {layout.num_ranks}),
                             buffers_->Ints(Buffers::kRecvCounts, {layout.num_ranks}));
  }
  device_->Run([device = device_, buffers = *buffers_, layout, padded = padded()] {
    return SortRows(layout, padded, buffers.Received(device));
  });
}

void ExpertDispatcher::Combine(DispatchHandle handle, ConstTensorView y, TensorView out) {
  const RowLayout& layout = handle.layout_;
  TESSERA_CHECK(outstanding_);
  TESSERA_CHECK(y.dtype() == layout.dtype && y.dim(1) == layout.hidden);
  TESSERA_CHECK(y.dim(0) >= layout.num_rows() * layout.row_slots);
  TESSERA_CHECK(out.dtype() == layout.dtype && out.dim(0) == handle.num_tokens_ &&
                out.dim(1) == layout.hidden);
  outstanding_ = false;
  EnqueueResults(layout, y);
  EnqueueReturn(layout);
  EnqueueSum(handle, out);
}

void ExpertDispatcher::EnqueueResults(const RowLayout& layout, ConstTensorView y) {
  device_->Run([device = device_, buffers = *buffers_, layout, y, exact = exact()] {
    const auto element = static_cast<int64_t>(SizeOf(layout.dtype));
    const ConstRows results{.data = static_cast<const char*>(device->Access(y.data())),
                            .stride_bytes = y.stride0() * element};
    const Rows chunks{.data = buffers.Bytes(device, Buffers::kExpertRows),
                      .stride_bytes = layout.row_bytes()};
    const ReceivedRows rows = buffers.Received(device);
    if (exact) {
      PackResults(layout, rows, results, chunks);
    } else {
      SumResults(layout, rows, results, chunks);
    }
    return absl::OkStatus();
  });
}

void ExpertDispatcher::EnqueueReturn(const RowLayout& layout) {
  const int64_t rows = layout.num_rows() * ReturnFactor(options_, layout);
  const AllToAllPart part{
      TensorView(buffers_->At(Buffers::kExpertRows), layout.dtype, {rows, layout.hidden}),
      TensorView(buffers_->At(Buffers::kSourceRows), layout.dtype, {rows, layout.hidden})};
  if (padded()) {
    communicator_->AllToAll({&part, 1});
    return;
  }
  const auto counts = exact() ? Buffers::kRecvPairCounts : Buffers::kRecvCounts;
  const auto expected = exact() ? Buffers::kSendPairCounts : Buffers::kSendCounts;
  communicator_->AllToAllV({&part, 1}, buffers_->Ints(counts, {layout.num_ranks}),
                           buffers_->Ints(Buffers::kReturnedCounts, {layout.num_ranks}));
  device_->Run([device = device_, buffers = *buffers_, expected, ranks = layout.num_ranks] {
    const int32_t* sent = buffers.Words(device, expected);
    const int32_t* returned = buffers.Words(device, Buffers::kReturnedCounts);
    for (int32_t r = 0; r < ranks; ++r) {
      if (sent[r] == returned[r]) continue;
      return absl::InternalError(absl::StrCat("rank ", r, " returned ", returned[r],
                                              " expert results instead of ", sent[r]));
    }
    return absl::OkStatus();
  });
}

void ExpertDispatcher::EnqueueSum(const DispatchHandle& handle, TensorView out) {
  const RowLayout& layout = handle.layout_;
  if (exact() && options_.finalize) {
    options_.finalize(
        {.y = TensorView(buffers_->At(Buffers::kSourceRows), layout.dtype,
                         {layout.num_rows() * layout.row_slots, layout.hidden}),
         .positions = buffers_->Ints(Buffers::kPairRows, {handle.num_tokens_, layout.top_k}),
         .weights = handle.weights_,
         .out = out});
    return;
  }
  device_->Run([device = device_, buffers = *buffers_, layout, tokens = handle.num_tokens_,
                weights = handle.weights_, out, exact = exact()] {
    const auto element = static_cast<int64_t>(SizeOf(layout.dtype));
    const ConstRows chunks{.data = buffers.Bytes(device, Buffers::kSourceRows),
                           .stride_bytes = layout.row_bytes()};
    const Rows sums{.data = static_cast<char*>(device->Access(out.data())),
                    .stride_bytes = out.stride0() * element};
    const PlanOutput plan = buffers.Plan(device);
    if (exact) {
      AddChoices(layout, tokens, plan.pair_rows,
                 static_cast<const float*>(device->Access(weights.data())), chunks, sums);
    } else {
      AddRanks(layout, tokens, plan.token_rows, chunks, sums);
    }
    return absl::OkStatus();
  });
}

}  // namespace tessera
