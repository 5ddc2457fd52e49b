#include "kernels/cuda/emulation/global_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>

#include "kernels/core/status_macros.h"
#include "kernels/cuda/emulation/device_memory.h"
#include "kernels/cuda/emulation/knowledge.h"
#include "kernels/cuda/emulation/report.h"

namespace tessera::simt::emulation {
namespace {

// Whether an earlier operation is ordered before the present one.
enum class Past { kDone, kOrdered, kOrderedKernel, kUnordered };

Past PastOf(const OperationRecord* then, const OperationRecord& now) {
  if (then == nullptr) return Past::kDone;
  if (then == &now) return Past::kUnordered;
  if (Reaches(now.position.host, then->position)) return Past::kDone;
  if (!Reaches(now.position.seen, then->position)) return Past::kUnordered;
  return then->is_kernel ? Past::kOrderedKernel : Past::kOrdered;
}

// The same for many accesses in a row, most of which meet the operation that the last one met.
Past PastOf(uint32_t serial, const OperationRecord& now) {
  static const OperationRecord* memo_now = nullptr;
  static uint32_t memo_now_serial = 0, memo_begin = 0, memo_end = 0;
  static Past memo = Past::kDone;
  if (memo_now == &now && memo_now_serial == now.first_serial && serial >= memo_begin &&
      serial < memo_end) {
    return memo;
  }
  const OperationRecord* then = OperationOf(serial);
  const Past past = PastOf(then, now);
  memo_now = &now;
  memo_now_serial = now.first_serial;
  memo_begin = then == nullptr ? 0 : then->first_serial;
  memo_end = then == nullptr ? FirstOpenSerial() : then->first_serial + then->clusters;
  memo = past;
  return past;
}

// Who accessed a cell: operations that everybody knows to be over are forgotten.
ShortText WhoOf(Cell cell) {
  const OperationRecord* record = OperationOf(SerialOf(cell));
  if (record == nullptr) return {"an earlier operation"};
  return WhoOf(*record, SerialOf(cell), static_cast<Epoch>(cell));
}

struct Access {
  Thread* thread;
  GlobalAccess what;
  Cell own;
};

// How an earlier access stands to this one. kUnseen: ordered, but the launch has not waited for it.
enum class Order { kBefore, kUnseen, kUnordered };
Order OrderOf(const Access& a, Cell cell) {
  const auto e = static_cast<Epoch>(cell);
  const uint32_t serial = SerialOf(cell);
  Cluster& cluster = *a.thread->block->cluster;
  if (serial == cluster.serial) {
    return Ordered(e, a.thread->clock) ? Order::kBefore : Order::kUnordered;
  }
  const Past past = PastOf(serial, *cluster.grid->record);
  if (past == Past::kDone || past == Past::kOrdered) return Order::kBefore;
  if (past == Past::kOrderedKernel) {
    // A dependent launch sees what earlier kernels did only behind griddepcontrol.wait.
    return a.thread->waited_for_grid ? Order::kBefore : Order::kUnseen;
  }
  // An operation that this launch is not ordered after may have been forgotten meanwhile.
  const OperationRecord* then = OperationOf(serial);
  if (then == nullptr || Reaches(cluster.acquired.seen, then->position)) return Order::kBefore;
  const auto& clusters = cluster.acquired.clusters;
  const auto found = clusters.find(serial);
  const bool known = found != clusters.end() && Ordered(e, found->second.data());
  return known ? Order::kBefore : Order::kUnordered;
}

// Fails if the access is not ordered after the one of `cell`.
void CheckOrder(const Access& a, Cell cell, const char* what) {
  if (cell == 0 || cell == a.own) return;
  const Order order = OrderOf(a, cell);
  if (order == Order::kBefore) return;
  if (order == Order::kUnseen) {
    Fail("%s before griddepcontrol.wait of memory that %s used for a %s (%s)", Verb(a.what.write),
         WhoOf(cell).c_str(), what, DescribeAccess(a.what).c_str());
  }
  if (a.what.atomic && IsAtomic(static_cast<Epoch>(cell))) return;
  const Cluster& cluster = *a.thread->block->cluster;
  const ShortText other =
      SerialOf(cell) == cluster.serial ? Who(cluster, static_cast<Epoch>(cell)) : WhoOf(cell);
  Fail("race on global memory: %s by %s, not ordered after the %s by %s (%s)", Verb(a.what.write),
       Who(cluster, static_cast<Epoch>(a.own)).c_str(), what, other.c_str(),
       DescribeAccess(a.what).c_str());
}

// Puts an access among the others: in the place of one that it makes superfluous, or at the end,
// or, when there is no room, anywhere.
template <typename Superfluous>
void Remember(const History& history, Cell cell, Superfluous superfluous) {
  for (Cell* other : history.others) {
    if (*other == 0 || *other == cell || superfluous(*other)) {
      *other = cell;
      return;
    }
  }
  *history.others[M().random.Below(kOthers)] = cell;
}

// The access itself: what is ordered before it, and conflicts with nothing more, matters no more.
void RememberAccess(const Access& a, const History& history) {
  Remember(history, a.own, [&](Cell other) {
    if (a.what.atomic && !IsAtomic(static_cast<Epoch>(other))) return false;
    return OrderOf(a, other) == Order::kBefore;
  });
}

// The store that an atomic overtakes.
void RememberOvertaken(const History& history) {
  const Cell cell = *history.written;
  const auto covers = [](Cell later, Cell earlier) {
    return SerialOf(later) == SerialOf(earlier) &&
           Covers(static_cast<Epoch>(later), static_cast<Epoch>(earlier));
  };
  for (const Cell* other : history.others) {
    if (*other != 0 && covers(*other, cell)) return;
  }
  Remember(history, cell, [&](Cell other) { return covers(cell, other); });
}

void CheckHistory(const Access& a, const History& history) {
  CheckOrder(a, *history.written, "store");
  const bool stores = a.what.write, plain = !a.what.atomic;
  for (Cell* other : history.others) {
    if (*other == 0) break;
    const bool overtaken = IsAtomic(static_cast<Epoch>(*other));
    if (stores || (plain && overtaken)) CheckOrder(a, *other, overtaken ? "store" : "load");
  }
  if (!stores) {
    // The store of the same atomic follows; an atomic load alone is remembered.
    if (*history.others[0] != a.own && !a.what.modifies) RememberAccess(a, history);
    return;
  }
  if (plain) {
    for (Cell* other : history.others) {
      if (*other == 0) break;
      *other = 0;
    }
  } else if (*history.written != 0 && *history.written != a.own) {
    RememberOvertaken(history);
  }
  *history.written = a.own;
}

void CheckExists(Thread* t, const GlobalAccess& a) {
  TakeApart(GlobalOffset(a.pointer), a.bytes);
  const unsigned char* state = ByteStates() + GlobalOffset(a.pointer);
  for (size_t i = 0; i < a.bytes; ++i) {
    if (state[i] == kNotAllocated) Fail("%s, outside", DescribeAccess(a).c_str());
    if (!a.write && state[i] == kAllocated) {
      Fail("load of global memory that nobody has written: %s", DescribeAccess(a).c_str());
    }
  }
  const int owner = DeviceOf(a.pointer);
  const int device = GridOf(t).device;
  if (owner != device && !PeerAccessEnabled(device, owner)) {
    Fail("GPU %d: %s of GPU %d, to which it has no peer access", device, DescribeAccess(a).c_str(),
         owner);
  }
}

}  // namespace

uint32_t FirstOpenSerial() {
  const Machine& m = M();
  return m.operations.empty() ? m.next_serial : m.operations.front().first_serial;
}

OperationRecord* RecordOperation(const char* name, const StreamPosition& at, uint32_t clusters,
                                 bool is_kernel) {
  Machine& m = M();
  // What the host has waited for is known to every later operation.
  while (!m.operations.empty() && Reaches(at.host, m.operations.front().position)) {
    m.operations.pop_front();
  }
  m.operations.push_back({m.next_serial, clusters, at, name, is_kernel, {}});
  m.next_serial += clusters;
  return &m.operations.back();
}

void CheckGlobal(Thread* t, const GlobalAccess& a) {
  CheckExists(t, a);
  Machine& m = M();
  const size_t offset = GlobalOffset(a.pointer);
  if (a.write) {
    m.statistics.global_bytes_written += a.bytes;
    std::memset(ByteStates() + offset, kWritten, a.bytes);
  } else {
    m.statistics.global_bytes_read += a.bytes;
  }
  if (!m.options.check_races) return;
  const Epoch e = Now(t) | (a.atomic ? kAtomicEpoch : 0);
  const Access access{t, a, CellOf(t->block->cluster->serial, e)};
  const auto nothing_new = [&](const History& history) {
    if (*history.written != access.own) return false;
    return a.write ? *history.others[0] == 0 : *history.others[0] == access.own;
  };
  ForHistories(offset, a.bytes, a.write && !a.atomic, nothing_new,
               [&](const History& history) { CheckHistory(access, history); });
}

namespace {

// A copy's or fill's access to device memory; what is wrong with it.
class HostAccess {
 public:
  HostAccess(const OperationRecord& now, const GlobalAccess& a) : now_(now), a_(a) {}
  std::string Check();

 private:
  bool Unordered(Cell cell) const {
    return cell != 0 && SerialOf(cell) != now_.first_serial &&
           PastOf(SerialOf(cell), now_) == Past::kUnordered && !Knows(cell);
  }
  // Whether launches before it in its stream have learnt of it.
  bool Knows(Cell cell) const {
    if (!known_.has_value()) known_ = KnowledgeAt(now_.position);
    const OperationRecord* then = OperationOf(SerialOf(cell));
    if (then == nullptr || Reaches(known_->seen, then->position)) return true;
    const auto found = known_->clusters.find(SerialOf(cell));
    return found != known_->clusters.end() &&
           Ordered(static_cast<Epoch>(cell), found->second.data());
  }
  void CheckStates(size_t offset, size_t bytes);
  void CheckHistory(const History& history);
  void CheckPart(size_t offset, size_t bytes);
  void StoreChunk(size_t chunk);
  void Fail(const std::string& what) {
    if (found_.empty()) found_ = now_.name + ": " + what;
  }
  void FailUnordered(Cell cell) {
    Fail(std::string(DescribeAccess(a_).c_str()) + ", not ordered after an access by " +
         WhoOf(cell).c_str());
  }

  const OperationRecord& now_;
  const GlobalAccess a_;
  const Cell own_ = CellOf(now_.first_serial, 0);
  mutable std::optional<Knowledge> known_;
  std::string found_;
};

void HostAccess::CheckStates(size_t offset, size_t bytes) {
  for (size_t i = offset; i < offset + bytes; ++i) {
    const unsigned char state = ByteStates()[i];
    if (state == kNotAllocated) return Fail(std::string(DescribeAccess(a_).c_str()) + ", outside");
    if (!a_.write && state == kAllocated) {
      return Fail(std::string("load of memory that nobody has written: ") +
                  DescribeAccess(a_).c_str());
    }
  }
}

void HostAccess::CheckHistory(const History& history) {
  Cell first = Unordered(*history.written) ? *history.written : 0;
  for (Cell* other : history.others) {
    const bool matters = a_.write || IsAtomic(static_cast<Epoch>(*other));
    if (first == 0 && matters && Unordered(*other)) first = *other;
  }
  if (first != 0) FailUnordered(first);
  if (!a_.write) {
    Remember(history, own_, [&](Cell other) { return !Unordered(other); });
    return;
  }
  *history.written = own_;
  for (Cell* other : history.others) {
    if (*other != 0) *other = 0;
  }
}

// Of memory that is not plain.
void HostAccess::CheckPart(size_t offset, size_t bytes) {
  CheckStates(offset, bytes);
  if (!found_.empty()) return;
  if (a_.write) std::memset(ByteStates() + offset, kWritten, bytes);
  ForHistories(
      offset, bytes, a_.write, [](const History&) { return false; },
      [&](const History& history) { CheckHistory(history); });
}

void HostAccess::StoreChunk(size_t chunk) {
  Chunk& c = chunks[chunk];
  if (!c.plain) {
    CheckPart(chunk * kChunkBytes, kChunkBytes);
    if (!found_.empty()) return;
  } else if (Unordered(c.written)) {
    return FailUnordered(c.written);
  }
  c.written = own_;
  c.state = kWritten;
  c.plain = true;
}

std::string HostAccess::Check() {
  if (a_.bytes == 0) return "";
  if (DeviceOf(a_.pointer) < 0) return now_.name + ": an address that is no GPU's";
  const size_t begin = GlobalOffset(a_.pointer), end = begin + a_.bytes;
  for (size_t at = begin; at < end && found_.empty();) {
    const size_t chunk = at / kChunkBytes, next = std::min(end, (chunk + 1) * kChunkBytes);
    if (a_.write && next - at == kChunkBytes) {
      StoreChunk(chunk);
    } else {
      TakeApart(at, next - at);
      CheckPart(at, next - at);
    }
    at = next;
  }
  return found_;
}

std::string CheckRange(const OperationRecord& now, const GlobalAccess& a) {
  return HostAccess(now, a).Check();
}

// Before data are stored.
void Touch(void* device, size_t bytes) {
  if (bytes == 0) return;
  const size_t begin = GlobalOffset(device);
  for (size_t c = begin / kChunkBytes; c <= (begin + bytes - 1) / kChunkBytes; ++c) {
    chunks[c].untouched = false;
  }
}

// Chunks that nobody has touched are zero already.
void FillData(void* device, int value, size_t bytes) {
  const size_t begin = GlobalOffset(device), end = begin + bytes;
  for (size_t at = begin; at < end;) {
    const size_t chunk = at / kChunkBytes, next = std::min(end, (chunk + 1) * kChunkBytes);
    if (value != 0 || !chunks[chunk].untouched) {
      chunks[chunk].untouched = false;
      std::memset(GlobalWindows() + at, value, next - at);
    }
    at = next;
  }
}

std::string Finish(std::string found) {
  if (!found.empty()) found += HowToRepeat();
  return found;
}

}  // namespace

std::string CopyIn(void* device, const void* host, size_t bytes, const StreamPosition& at) {
  const OperationRecord* now = RecordOperation("copy to the GPU", at, 1, false);
  std::string error = CheckRange(*now, {device, bytes, true});
  if (!error.empty()) return Finish(error);
  Touch(device, bytes);
  std::memcpy(device, host, bytes);
  return Finish(error);
}

std::string CopyOut(void* host, const void* device, size_t bytes, const StreamPosition& at) {
  const OperationRecord* now = RecordOperation("copy to the host", at, 1, false);
  std::string error = CheckRange(*now, {device, bytes, false});
  if (error.empty()) std::memcpy(host, device, bytes);
  return Finish(error);
}

std::string CopyBetween(void* to, const void* from, size_t bytes, const StreamPosition& at) {
  const OperationRecord* now = RecordOperation("copy on the GPU", at, 1, false);
  std::string error = CheckRange(*now, {from, bytes, false});
  if (error.empty()) error = CheckRange(*now, {to, bytes, true});
  if (!error.empty()) return Finish(error);
  Touch(to, bytes);
  std::memmove(to, from, bytes);
  return Finish(error);
}

std::string Fill(void* device, int value, size_t bytes, const StreamPosition& at) {
  const OperationRecord* now = RecordOperation("fill", at, 1, false);
  std::string error = CheckRange(*now, {device, bytes, true});
  if (error.empty() && bytes > 0) FillData(device, value, bytes);
  return Finish(error);
}

}  // namespace tessera::simt::emulation
