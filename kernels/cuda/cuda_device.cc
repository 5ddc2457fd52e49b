#include "kernels/cuda/cuda_device.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_error.h"

namespace tessera::cuda {
namespace {

using Clock = std::chrono::steady_clock;

// A wait polls: a stream that waits for a peer which has died would never return from a plain one.
// It gives up its core only after as long as a decode step of a small model takes.
constexpr auto kBusyPolling = std::chrono::microseconds(500);
constexpr auto kPollInterval = std::chrono::microseconds(20);

void Pause(Clock::time_point begin) {
  if (Clock::now() - begin < kBusyPolling) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(kPollInterval);
  }
}

// Whether a call can only have failed by itself, not for work enqueued before it.
bool IsOfTheCall(cudaError_t error) {
  return error == cudaErrorInvalidValue || error == cudaErrorInvalidConfiguration ||
         error == cudaErrorMemoryAllocation;
}

std::string FaultMessage(const Fault& fault) {
  const int32_t* v = fault.values;
  switch (fault.kind) {
    case FaultKind::kRepeatedExpert:
      return "a token chose one expert twice";
    case FaultKind::kUnknownExpert:
      return absl::StrCat("a token chose an expert beyond the ", v[0], " that there are");
    case FaultKind::kBadRowCount:
      return absl::StrCat("rank ", v[0], " sent ", v[1], " rows");
    case FaultKind::kBadRow:
      return absl::StrCat("row ", v[1], " from rank ", v[0], " has an impossible list of experts");
    case FaultKind::kBadReturn:
      return absl::StrCat("rank ", v[0], " returned ", v[1], " expert results instead of ", v[2]);
    case FaultKind::kNone:
      break;
  }
  return "a kernel reported something unknown";
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaDevice>> CudaDevice::Create(int index) {
  RETURN_IF_ERROR(CheckGpu(index));
  std::unique_ptr<CudaDevice> device(new CudaDevice(index));
  RETURN_IF_ERROR(device->Initialize());
  return device;
}

absl::Status CudaDevice::Initialize() {
  const auto check = [this](cudaError_t error, std::string_view action) {
    return ToStatus(error, index_, action);
  };
  RETURN_IF_ERROR(check(cudaSetDevice(index_), "beginning to use it"));
  RETURN_IF_ERROR(check(cudaGetDeviceProperties(&properties_, index_), "asking what it is"));
  RETURN_IF_ERROR(
      check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"));
  RETURN_IF_ERROR(
      check(cudaStreamCreateWithFlags(&copy_stream_, cudaStreamNonBlocking), "creating a stream"));
  RETURN_IF_ERROR(check(uploads_.Create(stream_), "locking host memory"));
  RETURN_IF_ERROR(check(weights_.Create(copy_stream_), "locking host memory"));
  void* fault = nullptr;
  ASSIGN_OR_RETURN(fault, AllocateBytes(sizeof(Fault)));
  fault_ = static_cast<Fault*>(fault);
  return absl::OkStatus();
}

CudaDevice::~CudaDevice() {
  MakeCurrent();
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  if (copy_stream_ != nullptr) cudaStreamSynchronize(copy_stream_);
  absl::MutexLock lock(&mutex_);
  pending_.push_back(std::move(next_));
  for (const Mark& mark : pending_) {
    for (cudaEvent_t event : {mark.begin, mark.end}) {
      if (event != nullptr) events_.push_back(event);
    }
    if (mark.fault != nullptr) results_.GiveBack(mark.fault, sizeof(Fault));
    for (const PendingDownload& download : mark.downloads) {
      results_.GiveBack(download.pinned, download.bytes);
    }
  }
  if (last_end_ != nullptr) events_.push_back(last_end_);
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
  if (fault_ != nullptr) cudaFree(fault_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
  if (copy_stream_ != nullptr) cudaStreamDestroy(copy_stream_);
}

void CudaDevice::MakeCurrent() const { cudaSetDevice(index_); }

void CudaDevice::Fail(cudaError_t error, const char* operation) {
  if (error == cudaSuccess || !failure_.ok()) return;
  if (IsOfTheCall(error)) {
    failure_ = ToStatus(error, index_, operation);
    cudaGetLastError();
    return;
  }
  // The error of earlier work reaches the host with any later call.
  const char* first = nullptr;
  for (const Mark& mark : pending_) {
    if (first == nullptr) first = mark.first_operation;
  }
  if (first == nullptr) first = next_.first_operation;
  const std::string where =
      first == nullptr || std::string_view(first) == operation
          ? std::string(operation)
          : absl::StrCat("one of the operations from ", first, " to ", operation);
  failure_ = ToStatus(error, index_, where);
}

cudaError_t CudaDevice::TakeEvent(cudaEvent_t* event) {
  if (events_.empty()) return cudaEventCreateWithFlags(event, cudaEventDefault);
  *event = events_.back();
  events_.pop_back();
  return cudaSuccess;
}

bool CudaDevice::BeginWork(const char* operation) {
  if (!failure_.ok()) return false;
  if (next_.first_operation == nullptr) {
    next_.first_operation = operation;
    cudaError_t error = TakeEvent(&next_.begin);
    if (error == cudaSuccess) error = cudaEventRecord(next_.begin, stream_);
    Fail(error, operation);
  }
  next_.last_operation = operation;
  return failure_.ok();
}

void CudaDevice::Launch(const char* operation, absl::FunctionRef<cudaError_t()> launch) {
  MakeCurrent();
  if (capturing_) {
    if (capture_error_ != cudaSuccess) return;
    captured_operation_ = operation;
    capture_error_ = launch();
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    if (!BeginWork(operation)) return;
  }
  const cudaError_t error = launch();  // may wait, allocate and so launch
  if (error == cudaSuccess) return;
  absl::MutexLock lock(&mutex_);
  Fail(error, operation);
}

absl::StatusOr<CudaDevice::Captured> CudaDevice::Capture(absl::FunctionRef<void()> enqueue) {
  MakeCurrent();
  {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(failure_);
  }
  TESSERA_CHECK(!capturing_);
  // Relaxed: allocations may come in between.
  RETURN_IF_ERROR(ToStatus(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), index_,
                           "beginning a capture"));
  capturing_ = true;
  capture_error_ = cudaSuccess;
  captured_watches_.clear();
  enqueue();
  capturing_ = false;
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
  absl::Status status = ToStatus(ended, index_, "ending a capture");
  if (capture_error_ != cudaSuccess) {
    status = ToStatus(capture_error_, index_, absl::StrCat("capturing ", captured_operation_));
  }
  if (status.ok()) {
    absl::MutexLock lock(&mutex_);
    status = failure_;
  }
  if (status.ok()) return Captured{.graph = graph, .watches = std::move(captured_watches_)};
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();  // is not that of a later call
  return status;
}

void CudaDevice::AddToCapture(PeerWatch* watch) {
  TESSERA_CHECK(capturing_);
  const auto& watches = captured_watches_;
  if (std::find(watches.begin(), watches.end(), watch) == watches.end()) {
    captured_watches_.push_back(watch);
  }
}

void CudaDevice::Upload(void* device, const void* host, size_t bytes) {
  TESSERA_CHECK(!capturing_);
  const char* from = static_cast<const char*>(host);
  char* to = static_cast<char*>(device);
  for (size_t begin = 0; begin < bytes; begin += PinnedRing::kSegmentBytes) {
    const size_t size = std::min(PinnedRing::kSegmentBytes, bytes - begin);
    Launch("an upload", [&] {
      return uploads_.Copy(to + begin, size,
                           [&](char* memory) { std::memcpy(memory, from + begin, size); });
    });
  }
}

cudaError_t CudaDevice::EnqueueDownload(void* host, const void* device, size_t bytes) {
  char* pinned = nullptr;
  const cudaError_t error = results_.Take(bytes, &pinned);
  if (error != cudaSuccess) return error;
  next_.downloads.push_back({.host = host, .pinned = pinned, .bytes = bytes});
  return cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, stream_);
}

void CudaDevice::Download(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return;
  TESSERA_CHECK(!capturing_);
  MakeCurrent();
  absl::MutexLock lock(&mutex_);
  if (!BeginWork("a download")) return;
  Fail(EnqueueDownload(host, device, bytes), "a download");
}

cudaError_t CudaDevice::EndMark() {
  cudaError_t error = results_.Take(sizeof(Fault), &next_.fault);
  if (error != cudaSuccess) return error;
  error = cudaMemcpyAsync(next_.fault, fault_, sizeof(Fault), cudaMemcpyDeviceToHost, stream_);
  if (error != cudaSuccess) return error;
  error = TakeEvent(&next_.end);
  if (error != cudaSuccess) return error;
  return cudaEventRecord(next_.end, stream_);
}

uint64_t CudaDevice::Record() {
  TESSERA_CHECK(!capturing_);
  MakeCurrent();
  absl::MutexLock lock(&mutex_);
  if (failure_.ok()) {
    Fail(EndMark(), next_.last_operation == nullptr ? "a mark" : next_.last_operation);
  }
  pending_.push_back(std::move(next_));
  next_ = Mark();
  return ++recorded_;
}

void CudaDevice::Fail(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  failure_.Update(status);
}

void CudaDevice::AddWatch(PeerWatch* watch) {
  absl::MutexLock lock(&watches_mutex_);
  watches_.push_back(watch);
}

void CudaDevice::RemoveWatch(PeerWatch* watch) {
  absl::MutexLock lock(&watches_mutex_);
  std::erase(watches_, watch);
}

absl::Status CudaDevice::AskWatches(bool done) {
  absl::MutexLock lock(&watches_mutex_);
  for (PeerWatch* watch : watches_) {
    absl::Status status = watch->Check(done);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CudaDevice::Wait(uint64_t mark, absl::Duration limit) {
  MakeCurrent();
  const Clock::time_point begin = Clock::now();
  while (true) {
    cudaEvent_t end = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      const uint64_t completed = recorded_ - pending_.size();
      if (!failure_.ok() || mark <= completed) return failure_;
      end = pending_[mark - completed - 1].end;
    }
    // Not under the lock. Another thread may complete the mark now, and the event may become that
    // of a later one; then Complete finds nothing to do.
    const cudaError_t error = cudaEventQuery(end);
    if (error == cudaSuccess || error == cudaErrorNotReady) {
      const absl::Status peers = AskWatches(error == cudaSuccess);
      if (!peers.ok()) {
        Fail(peers);
        continue;
      }
    }
    if (error == cudaErrorNotReady) {
      if (absl::FromChrono(Clock::now() - begin) >= limit) {
        return absl::DeadlineExceededError(absl::StrCat("GPU ", index_, " is still at work"));
      }
      Pause(begin);
      continue;
    }
    absl::MutexLock lock(&mutex_);
    if (error == cudaSuccess) {
      Complete(mark);
    } else {
      const Mark& last = pending_.empty() ? next_ : pending_.back();
      Fail(error, last.last_operation == nullptr ? "a wait" : last.last_operation);
    }
  }
}

void CudaDevice::Complete(uint64_t mark) {
  while (failure_.ok() && recorded_ - pending_.size() < mark) CompleteOldest();
}

void CudaDevice::CompleteOldest() {
  Mark mark = std::move(pending_.front());
  pending_.pop_front();
  for (const PendingDownload& download : mark.downloads) {
    std::memcpy(download.host, download.pinned, download.bytes);
    results_.GiveBack(download.pinned, download.bytes);
  }
  Fault fault;
  std::memcpy(&fault, mark.fault, sizeof(fault));
  results_.GiveBack(mark.fault, sizeof(Fault));
  if (fault.reports > 0) {
    failure_.Update(absl::InternalError(absl::StrCat("GPU ", index_, ": ", FaultMessage(fault))));
  }
  if (mark.begin != nullptr) {
    float milliseconds = 0;
    if (last_end_ != nullptr &&
        cudaEventElapsedTime(&milliseconds, last_end_, mark.begin) == cudaSuccess) {
      idle_time_ += absl::Milliseconds(std::max(0.0F, milliseconds));
    }
    events_.push_back(mark.begin);
  }
  if (last_end_ != nullptr) events_.push_back(last_end_);
  last_end_ = mark.end;
}

absl::Duration CudaDevice::idle_time() const {
  absl::MutexLock lock(&mutex_);
  return idle_time_;
}

std::optional<DeviceMemory> CudaDevice::memory() const {
  MakeCurrent();
  size_t free = 0;
  size_t total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return std::nullopt;
  return DeviceMemory{.device = absl::StrCat("GPU ", index_, " (", properties_.name, ")"),
                      .free = static_cast<int64_t>(free),
                      .total = static_cast<int64_t>(total)};
}

absl::StatusOr<void*> CudaDevice::AllocateMemory(size_t bytes) const {
  MakeCurrent();
  void* allocated = nullptr;
  const cudaError_t error = cudaMalloc(&allocated, bytes);
  if (error == cudaSuccess) return allocated;
  if (error != cudaErrorMemoryAllocation) return ToStatus(error, index_, "an allocation");
  cudaGetLastError();  // is not that of a later call
  const DeviceMemory now = memory().value_or(DeviceMemory{.device = absl::StrCat("GPU ", index_)});
  return absl::ResourceExhaustedError(absl::StrCat(now.device, " has ", now.free, " of ", now.total,
                                                   " bytes free, so at most that many fit"));
}

absl::StatusOr<void*> CudaDevice::AllocateBytes(size_t bytes) {
  TESSERA_CHECK(!capturing_);
  void* memory = nullptr;
  ASSIGN_OR_RETURN(memory, AllocateMemory(bytes));
  Launch("clearing memory", [&] { return cudaMemsetAsync(memory, 0, bytes, stream_); });
  return memory;
}

absl::StatusOr<DeviceBuffer> CudaDevice::AllocateUncleared(size_t bytes, std::string_view what) {
  const size_t size = std::max<size_t>(bytes, 1);
  absl::StatusOr<void*> memory = AllocateMemory(size);
  if (memory.ok()) return DeviceBuffer(this, *memory, size);
  return absl::Status(memory.status().code(),
                      absl::StrCat("cannot allocate ", bytes, " bytes for ", std::string(what),
                                   ": ", memory.status().message()));
}

void CudaDevice::FreeBytes(void* device, size_t /*bytes*/) {
  MakeCurrent();
  cudaStreamSynchronize(stream_);  // what is queued may use it
  cudaFree(device);
}

absl::Status CudaDevice::WriteNow(void* device, size_t bytes, size_t unit,
                                  absl::FunctionRef<void(char*, size_t, size_t)> write) {
  MakeCurrent();
  return ToStatus(weights_.Write(device, bytes, unit, write), index_, "writing weights");
}

}  // namespace tessera::cuda
