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

// Rounded rows of one task: they stay in the core's own cache while panels pass by.
constexpr int64_t kRoundedBlockBytes = 1 << 20;
constexpr int64_t kRoundedPanelsManyRows = 8;
constexpr double kRoundedProductsPerNanosecond = 400;

// Panels of quantised weights that are unpacked at a time; products take them in pairs.
constexpr int64_t kUnpackedPanels = 2;

// How a product is computed.
struct Plan {
  const Product* product;
  int64_t rows_begin;  // of its rows among all rounded rows, in elements; -1: not rounded
  int64_t row_unit;    // blocks of rows begin at multiples of it
  int64_t row_blocks;
  int64_t panel_groups;
  int64_t group;  // panels
  int64_t end;    // of its tasks among all

  bool rounded() const { return rows_begin >= 0; }
  int64_t tasks() const { return row_blocks * panel_groups; }
  int64_t FirstRow(int64_t block) const {
    const int64_t units = (product->rows + row_unit - 1) / row_unit;
    return std::min(product->rows, units * block / row_blocks * row_unit);
  }
};

bool IsRounded(const Context& context, const Product& product) {
  return product.weight->rounds_activations() && context.kernels.mat_mul_rounded != nullptr;
}

Plan MakePlan(const Product& product, bool rounded) {
  Plan plan{.product = &product};
  int64_t most_rows = kRowBlock;
  if (rounded) {
    plan.row_unit = 2 * kTileHeight;
    plan.group = product.rows <= kTileHeight ? kPanelsFewRows : kRoundedPanelsManyRows;
    const int64_t row_bytes = TilesOf(product.weight->cols()) * kTileDepth * 2;
    most_rows = std::max(plan.row_unit, kRoundedBlockBytes / row_bytes);
  } else {
    plan.rows_begin = -1;
    plan.row_unit = 1;
    plan.group = product.rows < kManyRows ? kPanelsFewRows : kPanelsManyRows;
  }
  plan.row_blocks = (product.rows + most_rows - 1) / most_rows;
  plan.panel_groups = (product.weight->panels() + plan.group - 1) / plan.group;
  return plan;
}

double Cost(const Plan& plan) {
  const Product& product = *plan.product;
  const auto weights = static_cast<double>(product.weight->rows() * product.weight->cols());
  const double rate = plan.rounded() ? kRoundedProductsPerNanosecond : kProductsPerNanosecond;
  return weights * std::max(1 / kWeightsPerNanosecond, static_cast<double>(product.rows) / rate);
}

// Row r of the product's input.
const float* Input(const Product& product, int64_t r) {
  return product.x + (product.row_index == nullptr ? r : product.row_index[r]) * product.x_stride;
}

// A product's share of the columns and rows of its output.
struct Part {
  int64_t first_row;
  int64_t rows;
  int64_t first_panel;
  int64_t columns;
};

// Calls `multiply(part, panels)` for all of a part: at once where panels lie in memory as values,
// and for as many at a time as the core's cache holds where they are unpacked first.
template <typename Function>
void WithPanels(const Context& context, const Product& product, const Part& part,
                const Function& multiply) {
  const PackedWeight& weight = *product.weight;
  if (!weight.quantized()) {
    multiply(part, weight.panel(part.first_panel));
    return;
  }
  char* const values = Scratch<char, ScratchUse::kUnpacked>(kUnpackedPanels * weight.value_bytes());
  for (int64_t column = 0; column < part.columns; column += kUnpackedPanels * kPanel) {
    Part some = part;
    some.first_panel += column / kPanel;
    some.columns = std::min(kUnpackedPanels * kPanel, part.columns - column);
    for (int64_t p = 0; p * kPanel < some.columns; ++p) {
      weight.Unpack(context, some.first_panel + p, values + p * weight.value_bytes());
    }
    multiply(some, values);
  }
}

void MultiplyPart(const Context& context, const Product& product, const Part& whole) {
  const float* x[kRowBlock];
  for (int64_t i = 0; i < whole.rows; ++i) x[i] = Input(product, whole.first_row + i);
  WithPanels(context, product, whole, [&](const Part& part, const void* panels) {
    const int64_t column = part.first_panel * kPanel;
    context.kernels.mat_mul({.x = x,
                             .rows = part.rows,
                             .k = product.weight->cols(),
                             .panels = panels,
                             .bf16 = product.weight->bf16(),
                             .columns = part.columns,
                             .out = product.out + part.first_row * product.out_stride + column,
                             .out_stride = product.out_stride,
                             .bias = product.bias == nullptr ? nullptr : product.bias + column,
                             .scratch = Scratch(kMatMulScratch)});
  });
}

// `x`: all rounded rows of the product.
void MultiplyRoundedPart(const Context& context, const Product& product, const uint16_t* x,
                         const Part& whole) {
  const int64_t k = product.weight->cols();
  WithPanels(context, product, whole, [&](const Part& part, const void* panels) {
    const int64_t column = part.first_panel * kPanel;
    context.kernels.mat_mul_rounded(
        {.x = x + RoundedRow(part.first_row, k),
         .rows = part.rows,
         .k = k,
         .panels = panels,
         .columns = part.columns,
         .out = product.out + part.first_row * product.out_stride + column,
         .out_stride = product.out_stride,
         .bias = product.bias == nullptr ? nullptr : product.bias + column,
         .accumulate = false});
  });
}

void RunTask(const Context& context, const Plan& plan, const uint16_t* rounded, int64_t task) {
  const Product& product = *plan.product;
  const int64_t block = task % plan.row_blocks;
  const int64_t first_panel = task / plan.row_blocks * plan.group;
  const int64_t first_row = plan.FirstRow(block);
  const Part part{
      .first_row = first_row,
      .rows = plan.FirstRow(block + 1) - first_row,
      .first_panel = first_panel,
      .columns = std::min(plan.group * kPanel, product.weight->rows() - first_panel * kPanel)};
  if (plan.rounded()) {
    MultiplyRoundedPart(context, product, rounded + plan.rows_begin, part);
  } else {
    MultiplyPart(context, product, part);
  }
}

// Rounds all rows of the plans that want it; each row once, whatever number of panels it meets.
void RoundRows(const Context& context, const std::vector<Plan>& plans, uint16_t* rounded) {
  for (const Plan& plan : plans) {
    if (!plan.rounded()) continue;
    const Product& product = *plan.product;
    const int64_t k = product.weight->cols();
    const auto cost = static_cast<double>(product.rows * k) / 4;
    context.For(product.rows, cost, [&](int64_t r) {
      context.kernels.round_row(Input(product, r), k, rounded + plan.rows_begin + RoundedRow(r, k));
    });
  }
}

}  // namespace

void Multiply(const Context& context, const std::vector<Product>& products) {
  std::vector<Plan> plans;
  plans.reserve(products.size());
  int64_t tasks = 0;
  int64_t rounded_size = 0;
  double cost = 0;
  for (const Product& product : products) {
    if (product.rows == 0) continue;
    Plan plan = MakePlan(product, IsRounded(context, product));
    if (plan.rounded()) {
      plan.rows_begin = rounded_size;
      rounded_size += RoundedSize(product.rows, product.weight->cols());
    }
    tasks += plan.tasks();
    plan.end = tasks;
    cost += Cost(plan);
    plans.push_back(plan);
  }
  auto* rounded = Scratch<uint16_t, ScratchUse::kRoundedRows>(rounded_size);
  RoundRows(context, plans, rounded);
  context.For(tasks, cost, [&](int64_t task) {
    const auto plan =
        std::upper_bound(plans.begin(), plans.end(), task,
                         [](int64_t value, const Plan& other) { return value < other.end; });
    RunTask(context, *plan, rounded, task - (plan->end - plan->tasks()));
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
