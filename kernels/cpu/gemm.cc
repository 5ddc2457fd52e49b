#include "kernels/cpu/gemm.h"

#include <algorithm>

#include "kernels/cpu/operations.h"

namespace tessera::cpu {
namespace {

// A group of panels of one task: with few rows small enough to balance threads, with many rows
// large enough that copying the rows costs little.
constexpr int64_t kPanelsFewRows = 4;
constexpr int64_t kPanelsManyRows = 16;
constexpr int64_t kManyRows = 25;

// Rough single-thread speed, to decide whether forking pays.
constexpr double kWeightsPerNanosecond = 8;
constexpr double kProductsPerNanosecond = 25;

struct Cut {
  int64_t row_blocks;
  int64_t panel_groups;
  int64_t group;
  int64_t tasks() const { return row_blocks * panel_groups; }
};

Cut CutProduct(const Product& product) {
  const int64_t group = product.rows < kManyRows ? kPanelsFewRows : kPanelsManyRows;
  return {.row_blocks = (product.rows + kRowBlock - 1) / kRowBlock,
          .panel_groups = (product.weight->panels() + group - 1) / group,
          .group = group};
}

double Cost(const Product& product) {
  const auto weights = static_cast<double>(product.weight->rows() * product.weight->cols());
  return weights * std::max(1 / kWeightsPerNanosecond,
                            static_cast<double>(product.rows) / kProductsPerNanosecond);
}

void RunTask(const Context& context, const Product& product, const Cut& cut, int64_t task) {
  const int64_t block = task % cut.row_blocks;
  const int64_t first_panel = task / cut.row_blocks * cut.group;
  const int64_t first_row = product.rows * block / cut.row_blocks;
  const int64_t rows = product.rows * (block + 1) / cut.row_blocks - first_row;
  const float* x[kRowBlock];
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t r = first_row + i;
    x[i] = product.x + (product.row_index == nullptr ? r : product.row_index[r]) * product.x_stride;
  }
  const int64_t column = first_panel * kPanel;
  context.kernels.mat_mul({.x = x,
                           .rows = rows,
                           .k = product.weight->cols(),
                           .panels = product.weight->panel(first_panel),
                           .bf16 = product.weight->bf16(),
                           .columns = std::min(cut.group * kPanel, product.weight->rows() - column),
                           .out = product.out + first_row * product.out_stride + column,
                           .out_stride = product.out_stride,
                           .bias = product.bias == nullptr ? nullptr : product.bias + column,
                           .scratch = Scratch(kMatMulScratch)});
}

}  // namespace

void Multiply(const Context& context, const std::vector<Product>& products) {
  struct Share {
    const Product* product;
    Cut cut;
    int64_t end;  // of its tasks
  };
  std::vector<Share> shares;
  shares.reserve(products.size());
  int64_t tasks = 0;
  double cost = 0;
  for (const Product& product : products) {
    if (product.rows == 0) continue;
    const Cut cut = CutProduct(product);
    tasks += cut.tasks();
    cost += Cost(product);
    shares.push_back({&product, cut, tasks});
  }
  context.For(tasks, cost, [&](int64_t task) {
    const auto share =
        std::upper_bound(shares.begin(), shares.end(), task,
                         [](int64_t value, const Share& other) { return value < other.end; });
    RunTask(context, *share->product, share->cut, task - (share->end - share->cut.tasks()));
  });
}

void Gemm(const Context& context, const GemmArgs& args) {
  Multiply(context, {{.weight = &PackedWeight::Of(*args.weight),
                      .x = args.x.as<float>(),
                      .x_stride = args.x.stride0(),
                      .row_index = nullptr,
                      .rows = args.x.dim(0),
                      .out = args.out.as<float>(),
                      .out_stride = args.out.stride0(),
                      .bias = args.bias.empty() ? nullptr : args.bias.as<float>()}});
}

}  // namespace tessera::cpu
