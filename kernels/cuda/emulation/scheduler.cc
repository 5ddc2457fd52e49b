#include "kernels/cuda/emulation/scheduler.h"

#include <cstdlib>
#include <map>

#include "kernels/core/status_macros.h"
#include "kernels/cuda/emulation/async_copy.h"
#include "kernels/cuda/emulation/barrier.h"
#include "kernels/cuda/emulation/fiber.h"
#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/knowledge.h"
#include "kernels/cuda/emulation/report.h"
#include "kernels/cuda/emulation/shared_memory.h"

namespace tessera::simt::emulation {
namespace {

constexpr size_t kWindowsPerGrid = 32;  // several grids may execute together

void ToScheduler() {
  Thread* t = Current();
  SwitchContext(&t->context, M().scheduler);
}

void RunThread() {
  const Body& body = GridOf(Current()).body;
  body.call(body.parameters);
  Thread* t = Current();
  CheckNoCopies(t);
  CheckNoWgmma(t);
  t->exited = true;
  --t->block->live;
  --t->block->cluster->live;
  M().idle = 0;
  LeaveBarriers(t);
  ToScheduler();
  std::abort();
}

size_t StackIndex(const Block& block, int thread) {
  return static_cast<size_t>(block.slot) * kMaxThreadsPerBlock + static_cast<size_t>(thread);
}

void StartFiber(Thread& t) {
  unsigned char* top = FiberStackTop(StackIndex(*t.block, t.id)) - sizeof(ThreadView) - 64;
  top -= reinterpret_cast<uintptr_t>(top) % 64;
  t.context = NewContext(top, &RunThread);
  M().runnable.push_back(&t);
}

void StartThreads(Block& b, const uint3& block_idx) {
  Cluster& cluster = *b.cluster;
  const Shape& s = cluster.grid->shape;
  const uint32_t per_block = s.block.x * s.block.y * s.block.z;
  b.threads.resize(per_block);
  for (uint32_t i = 0; i < per_block; ++i) {
    Thread& t = b.threads[i];
    t.block = &b;
    t.id = static_cast<int>(i);
    t.lane = t.id % kWarpSize;
    t.warp = t.id / kWarpSize;
    unsigned char* top = FiberStackTop(StackIndex(b, t.id));
    t.stack = top - kFiberStackBytes;
    t.view = reinterpret_cast<ThreadView*>(top) - 1;
    t.view->thread_idx = {i % s.block.x, i / s.block.x % s.block.y, i / s.block.x / s.block.y};
    t.view->block_idx = block_idx;
    t.view->block_dim = {s.block.x, s.block.y, s.block.z};
    t.view->grid_dim = {s.grid.x, s.grid.y, s.grid.z};
    t.view->cluster_rank = static_cast<uint32_t>(b.rank);
    t.view->cluster_size = static_cast<uint32_t>(cluster.blocks.size());
    t.component = static_cast<uint32_t>(b.rank) * per_block + i;
    t.clock = cluster.clocks.data() + size_t{2} * cluster.components * t.component;
    t.proxied = t.clock + cluster.components;
    t.clock[t.component] = 1;
    t.waited_for_grid = !s.dependent;
    StartFiber(t);
  }
}

void StartBlock(Cluster& cluster, int rank, const uint3& block_idx) {
  const Shape& s = cluster.grid->shape;
  const int per_block = cluster.threads / static_cast<int>(cluster.blocks.size());
  Block& b = cluster.blocks[static_cast<size_t>(rank)];
  b.cluster = &cluster;
  b.rank = rank;
  b.live = per_block;
  TakeWindow(&b, s.shared_bytes);
  b.warps.resize(static_cast<size_t>(CeilDiv(per_block, kWarpSize)));
  if (per_block % kWarpSize != 0) b.warps.back().exited = ~0U << per_block % kWarpSize;
  b.groups.resize(static_cast<size_t>(per_block / kThreadsPerWarpgroup));
  b.exit_clock.assign(cluster.components, 0);
  if (cluster.blocks.size() > 1) {
    for (ClockVector* v : {&b.remote, &b.remote_arrivals, &b.awaited_arrivals}) {
      v->assign(cluster.components, 0);
    }
  }
  StartThreads(b, block_idx);
  ++M().statistics.blocks;
}

std::unique_ptr<Cluster> StartCluster(Grid* grid, uint32_t index) {
  auto cluster = std::make_unique<Cluster>();
  const Shape& s = grid->shape;
  const uint32_t blocks = s.cluster.x * s.cluster.y * s.cluster.z;
  const uint32_t per_block = s.block.x * s.block.y * s.block.z;
  cluster->grid = grid;
  cluster->serial = grid->record->first_serial + index;
  cluster->acquired = grid->known;
  cluster->threads = cluster->live = static_cast<int>(blocks * per_block);
  cluster->first_copy = blocks * per_block;
  cluster->first_wgmma = 2 * blocks * per_block;
  cluster->first_tma = cluster->first_wgmma + blocks * (per_block / kThreadsPerWarpgroup);
  cluster->components = (cluster->first_tma + kTmaAgents + 15) / 16 * 16;
  cluster->tma_clock.assign(kTmaAgents, 0);
  cluster->clocks.assign(size_t{2} * cluster->components * blocks * per_block, 0);
  cluster->blocks.resize(blocks);
  const dim3 clusters(s.grid.x / s.cluster.x, s.grid.y / s.cluster.y, s.grid.z / s.cluster.z);
  const uint32_t x = index % clusters.x, y = index / clusters.x % clusters.y;
  const uint32_t z = index / clusters.x / clusters.y;
  for (uint32_t rank = 0; rank < blocks; ++rank) {
    const uint32_t rx = rank % s.cluster.x, ry = rank / s.cluster.x % s.cluster.y;
    const uint32_t rz = rank / s.cluster.x / s.cluster.y;
    StartBlock(*cluster, static_cast<int>(rank),
               {x * s.cluster.x + rx, y * s.cluster.y + ry, z * s.cluster.z + rz});
  }
  return cluster;
}

void EndCluster(Cluster& cluster) {
  for (Block& block : cluster.blocks) GiveWindow(&block);
}

std::string Deadlock(const Grid& grid) {
  std::map<std::string, int> reasons;
  const Thread* first = nullptr;
  for (const auto& cluster : grid.resident) {
    for (const Block& b : cluster->blocks) {
      for (const Thread& t : b.threads) {
        if (t.exited) continue;
        std::string reason = t.waits_for;
        if (t.waits_at.line != 0) reason += " at line " + std::to_string(t.waits_at.line);
        ++reasons[reason];
        if (first == nullptr) first = &t;
      }
    }
  }
  std::string text = std::string(grid.name) + ": deadlock;";
  for (const auto& [reason, count] : reasons) {
    text += " " + std::to_string(count) + " threads wait in " + reason + ";";
  }
  return text + " first: " + Where(first).c_str() + OpenBarriers(*first->block) + HowToRepeat();
}

void EndClusterOf(const Thread& t) {
  Cluster* cluster = t.block->cluster;
  Grid* grid = cluster->grid;
  for (size_t c = 0; c < grid->resident.size(); ++c) {
    if (grid->resident[c].get() != cluster) continue;
    if (TransfersInFlight(*cluster)) {
      grid->failure = std::string(grid->name) + ": a block ends with TMA transfers in flight [" +
                      Where(&t).c_str() + "]" + HowToRepeat();
      return;
    }
    JoinKnowledge(&grid->learnt, cluster->acquired);
    EndCluster(*cluster);
    grid->resident.erase(grid->resident.begin() + static_cast<ptrdiff_t>(c));
    return;
  }
}

// One turn of a random thread that can go on, of any grid.
void RunOne() {
  Machine& m = M();
  const size_t i = m.random.Below(static_cast<uint32_t>(m.runnable.size()));
  Thread* t = m.runnable[i];
  m.runnable[i] = m.runnable.back();
  m.runnable.pop_back();
  ++m.statistics.switches;
  m.finding[0] = 0;
  current_thread = t;
  SwitchContext(&m.scheduler, t->context);
  current_thread = nullptr;
  if (m.finding[0] != 0) {
    GridOf(t).failure = Report(t);
  } else if (t->exited && t->block->cluster->live == 0) {
    EndClusterOf(*t);
  }
}

// After this nothing of the grid runs any more.
void EndGrid(Grid* grid) {
  Machine& m = M();
  std::erase_if(m.runnable, [&](const Thread* t) { return &GridOf(t) == grid; });
  std::erase_if(m.transfers,
                [&](const TmaTransfer& op) { return op.block->cluster->grid == grid; });
  for (const auto& cluster : grid->resident) EndCluster(*cluster);
  grid->resident.clear();
}

// Keeps a few of the grid's clusters resident.
void FillUp(Grid* grid) {
  const Shape& s = grid->shape;
  const size_t blocks = size_t{s.cluster.x} * s.cluster.y * s.cluster.z;
  const size_t wanted =
      s.together ? grid->order.size() : static_cast<size_t>(M().options.resident_clusters);
  const size_t limit = std::clamp<size_t>(wanted, 1, kWindowsPerGrid / blocks);
  while (grid->resident.size() < limit && grid->next < grid->order.size()) {
    grid->resident.push_back(StartCluster(grid, grid->order[grid->next++]));
  }
}

// Whether nothing of it is left to run.
bool IsOver(Grid* grid) {
  if (grid->failure.empty()) FillUp(grid);
  return !grid->failure.empty() || grid->resident.empty();
}

// Takes the grids that are over out, and tells who began them.
bool EndGrids() {
  Machine& m = M();
  bool ended = false;
  for (size_t i = 0; i < m.grids.size();) {
    if (!IsOver(m.grids[i].get())) {
      ++i;
      continue;
    }
    const std::unique_ptr<Grid> grid = std::move(m.grids[i]);
    m.grids.erase(m.grids.begin() + static_cast<ptrdiff_t>(i));
    EndGrid(grid.get());
    PassOn(*grid);
    grid->ended(grid->failure);
    ended = true;
  }
  return ended;
}

// In a row, after which nothing will change any more. The lower number: with near certainty every
// thread has had its turn.
uint64_t IdleTurns(bool thoroughly) {
  return thoroughly ? uint64_t{1} << 18 : 256 + 64 * M().runnable.size();
}

uint64_t SeedOf(const StreamPosition& at) {
  return M().options.seed ^ (static_cast<uint64_t>(at.stream) << 40) ^ (at.sequence << 8);
}

}  // namespace

void WaitFor(const char* what, Site site) {
  Thread* t = Current();
  t->blocked = true;
  t->waits_for = what;
  t->waits_at = site;
  ToScheduler();
}

void YieldTurn() {
  M().runnable.push_back(Current());
  ToScheduler();
}

void YieldIdle(const char* what) {
  Thread* t = Current();
  ++M().idle;
  t->waits_for = what;
  t->waits_at = {"", 0};
  YieldTurn();
}

void LeaveForGood() {
  ToScheduler();
  std::abort();
}

void MakeRunnable(Thread* t) {
  if (!t->blocked) return;
  t->blocked = false;
  M().idle = 0;
  M().runnable.push_back(t);
}

void Tick(Thread* t) {
  if (++t->clock[t->component] >= kClockMask) Fail("the emulator's clock overflows");
}

void Begin(const char* name, const Shape& shape, const StreamPosition& at, const Body& body,
           std::function<void(const std::string&)> ended) {
  Machine& m = M();
  ReserveMemory();
  ++m.statistics.launches;
  const uint32_t total = shape.grid.x / shape.cluster.x * (shape.grid.y / shape.cluster.y) *
                         (shape.grid.z / shape.cluster.z);
  OperationRecord* record = RecordOperation(name, at, total, true);
  record->shape = shape;
  auto grid = std::make_unique<Grid>();
  grid->name = name;
  grid->shape = shape;
  grid->body = body;
  grid->device = at.device;
  grid->record = record;
  grid->ended = std::move(ended);
  if (m.options.check_races) grid->known = KnowledgeAt(at);
  m.random.Seed(SeedOf(at));
  m.preempt_in = 1;
  m.idle = 0;
  grid->order.resize(total);
  for (uint32_t i = 0; i < total; ++i) grid->order[i] = i;
  for (uint32_t i = total; i > 1; --i) {
    std::swap(grid->order[i - 1], grid->order[m.random.Below(i)]);
  }
  m.grids.push_back(std::move(grid));
}

Progress Run(bool thoroughly) {
  Machine& m = M();
  m.idle = 0;
  while (true) {
    if (EndGrids()) return Progress::kEnded;
    if (m.grids.empty()) return Progress::kIdle;
    if (!m.transfers.empty() && (m.runnable.empty() || m.random.Below(64) == 0)) {
      LandTransfer();
    } else if (m.runnable.empty()) {
      FailOldest();
    } else if (m.idle > IdleTurns(thoroughly)) {
      return Progress::kIdle;
    } else {
      RunOne();
    }
  }
}

std::string Execute(const char* name, const Shape& shape, const StreamPosition& at,
                    const Body& body) {
  Machine& m = M();
  std::vector<std::unique_ptr<Grid>> grids;
  std::vector<Thread*> runnable;
  std::vector<TmaTransfer> transfers;
  const auto exchange = [&] {
    grids.swap(m.grids);
    runnable.swap(m.runnable);
    transfers.swap(m.transfers);
  };
  exchange();
  std::string found;
  Begin(name, shape, at, body, [&](const std::string& error) { found = error; });
  if (Run(true) == Progress::kIdle) {
    FailOldest();
    Run(true);
  }
  exchange();
  return found;
}

bool Executing() { return !M().grids.empty(); }

void FailOldest() { M().grids.front()->failure = Deadlock(*M().grids.front()); }

void Abandon() {
  for (const auto& grid : M().grids) EndGrid(grid.get());
  M().grids.clear();
}

}  // namespace tessera::simt::emulation
