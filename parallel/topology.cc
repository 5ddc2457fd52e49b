#include "parallel/topology.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tessera {
namespace {

constexpr int kMaxWorld = 4096;
constexpr int kMaxSuggested = 1024;

// Empty when the slices of attention and the dense MLP are whole, else what does not fit.
std::string TensorProblem(int tp, const ModelShape& shape) {
  if (shape.num_q_heads % tp != 0) return absl::StrCat(shape.num_q_heads, " query heads");
  const int64_t kv = shape.num_kv_heads;
  if (tp <= kv && kv % tp != 0) return absl::StrCat(kv, " KV heads");
  if (tp > kv && tp % kv != 0) {
    return absl::StrCat(kv, " KV heads (replicated when there are more ranks than heads)");
  }
  if (shape.intermediate % (tp * shape.column_multiple) != 0) {
    return absl::StrCat("MLP width ", shape.intermediate, " in multiples of ",
                        shape.column_multiple);
  }
  if (tp > shape.vocab) return absl::StrCat("a vocabulary of ", shape.vocab);
  return "";
}

// The same for experts, which are spread over the whole world.
std::string ExpertProblem(const LayoutRequest& layout, const ModelShape& shape) {
  if (shape.experts == 0) return "";
  const int64_t world = int64_t{layout.tensor_parallel} * layout.data_parallel;
  if (layout.expert_parallel) {
    return shape.experts % world == 0 ? "" : absl::StrCat(shape.experts, " experts");
  }
  if (shape.moe_intermediate % (world * shape.column_multiple) == 0) return "";
  return absl::StrCat("expert width ", shape.moe_intermediate, " in multiples of ",
                      shape.column_multiple);
}

bool Fits(const LayoutRequest& layout, const ModelShape& shape) {
  return TensorProblem(layout.tensor_parallel, shape).empty() &&
         ExpertProblem(layout, shape).empty();
}

// "1, 2, 4" for one size varied from 1 up while the rest of the layout stays.
std::string SizesThatWork(LayoutRequest layout, int LayoutRequest::*size, const ModelShape& shape) {
  std::vector<int> sizes;
  for (int i = 1; i <= kMaxSuggested; ++i) {
    layout.*size = i;
    if (Fits(layout, shape)) sizes.push_back(i);
  }
  return sizes.empty() ? "none" : absl::StrJoin(sizes, ", ");
}

absl::Status CheckSizes(const LayoutRequest& layout) {
  const auto bad = [](int size) { return size < 1 || size > kMaxWorld; };
  if (bad(layout.tensor_parallel) || bad(layout.data_parallel) || bad(layout.nodes)) {
    return absl::InvalidArgumentError(absl::StrCat("parallel sizes must lie in 1..", kMaxWorld,
                                                   "; got tensor parallel ", layout.tensor_parallel,
                                                   ", data parallel ", layout.data_parallel,
                                                   ", nodes ", layout.nodes));
  }
  const int64_t world = int64_t{layout.tensor_parallel} * layout.data_parallel;
  if (world > kMaxWorld) {
    return absl::InvalidArgumentError(absl::StrCat("tensor parallel ", layout.tensor_parallel,
                                                   " x data parallel ", layout.data_parallel,
                                                   " is more than ", kMaxWorld, " ranks"));
  }
  if (world % layout.nodes != 0) {
    std::vector<int> divisors;
    for (int i = 1; i <= world; ++i) {
      if (world % i == 0) divisors.push_back(i);
    }
    return absl::InvalidArgumentError(
        absl::StrCat(layout.nodes, " nodes cannot share ", world,
                     " ranks evenly; node counts that work: ", absl::StrJoin(divisors, ", ")));
  }
  return absl::OkStatus();
}

absl::Status CheckShape(const ModelShape& shape) {
  const bool moe_ok = shape.experts == 0 || (shape.experts > 0 && shape.moe_intermediate > 0);
  if (shape.num_q_heads > 0 && shape.num_kv_heads > 0 && shape.head_dim > 0 && shape.hidden > 0 &&
      shape.intermediate >= 0 && shape.vocab > 0 && shape.column_multiple > 0 && moe_ok &&
      shape.num_q_heads % shape.num_kv_heads == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("model sizes are not usable: query heads ", shape.num_q_heads, ", KV heads ",
                   shape.num_kv_heads, ", head_dim ", shape.head_dim, ", hidden ", shape.hidden,
                   ", intermediate ", shape.intermediate, ", experts ", shape.experts,
                   ", expert width ", shape.moe_intermediate, ", vocabulary ", shape.vocab));
}

std::vector<int> Sequence(int begin, int count) {
  std::vector<int> ranks(count);
  for (int i = 0; i < count; ++i) ranks[i] = begin + i;
  return ranks;
}

IndexRange EvenSlice(int64_t total, int64_t parts, int64_t part) {
  const int64_t width = total / parts;
  return {part * width, width};
}

}  // namespace

absl::Status ValidateLayout(const LayoutRequest& layout, const ModelShape& shape) {
  if (absl::Status status = CheckSizes(layout); !status.ok()) return status;
  if (absl::Status status = CheckShape(shape); !status.ok()) return status;
  if (const std::string problem = TensorProblem(layout.tensor_parallel, shape); !problem.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor parallel size ", layout.tensor_parallel, " does not fit ", problem,
                     "; sizes that work with data parallel ", layout.data_parallel, ": ",
                     SizesThatWork(layout, &LayoutRequest::tensor_parallel, shape)));
  }
  if (const std::string problem = ExpertProblem(layout, shape); !problem.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        layout.tensor_parallel * layout.data_parallel, " ranks (tensor parallel ",
        layout.tensor_parallel, " x data parallel ", layout.data_parallel, ") do not fit ", problem,
        layout.expert_parallel ? " spread whole over the ranks" : " split over the ranks",
        "; tensor parallel sizes that work with data parallel ", layout.data_parallel, ": ",
        SizesThatWork(layout, &LayoutRequest::tensor_parallel, shape),
        "; data parallel sizes that work with tensor parallel ", layout.tensor_parallel, ": ",
        SizesThatWork(layout, &LayoutRequest::data_parallel, shape)));
  }
  return absl::OkStatus();
}

absl::StatusOr<Topology> Topology::Create(const LayoutRequest& layout, int rank) {
  if (absl::Status status = CheckSizes(layout); !status.ok()) return status;
  const int world = layout.tensor_parallel * layout.data_parallel;
  if (rank < 0 || rank >= world) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, " is outside a world of ", world));
  }
  return Topology(layout, rank);
}

std::vector<int> Topology::TpGroup() const { return Sequence(dp_rank() * tp_size(), tp_size()); }
std::vector<int> Topology::WorldGroup() const { return Sequence(0, world_size()); }

IndexRange Topology::QHeads(const ModelShape& shape) const {
  return EvenSlice(shape.num_q_heads, tp_size(), tp_rank());
}

IndexRange Topology::KvHeads(const ModelShape& shape) const {
  if (tp_size() <= shape.num_kv_heads) return EvenSlice(shape.num_kv_heads, tp_size(), tp_rank());
  return {tp_rank() * shape.num_kv_heads / tp_size(), 1};
}

IndexRange Topology::Intermediate(const ModelShape& shape) const {
  return EvenSlice(shape.intermediate, tp_size(), tp_rank());
}

IndexRange Topology::MoeIntermediate(const ModelShape& shape) const {
  if (expert_parallel()) return {0, shape.moe_intermediate};
  return EvenSlice(shape.moe_intermediate, world_size(), rank());
}

IndexRange Topology::Experts(const ModelShape& shape) const {
  if (!expert_parallel()) return {0, shape.experts};
  return EvenSlice(shape.experts, world_size(), rank());
}

int64_t Topology::VocabShardSize(const ModelShape& shape) const {
  return (shape.vocab + tp_size() - 1) / tp_size();
}

IndexRange Topology::Vocab(const ModelShape& shape) const {
  const int64_t width = VocabShardSize(shape);
  const int64_t begin = std::min(shape.vocab, tp_rank() * width);
  return {begin, std::min(width, shape.vocab - begin)};
}

}  // namespace tessera
