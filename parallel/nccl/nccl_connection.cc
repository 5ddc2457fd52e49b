// How a communicator is connected, waits, fails and ends.
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_error.h"
#include "parallel/nccl/nccl_communicator.h"

namespace tessera::cuda {
namespace {

// What rank 0 leaves for the others: the clique's id, or why there is none.
constexpr char kAccepted = '+';
constexpr char kRefused = '-';
// How much longer the others wait for it than it waits for them.
constexpr absl::Duration kAnswerTime = absl::Seconds(5);
// How long the end of a communicator waits for NCCL's threads.
constexpr absl::Duration kQuietTime = absl::Seconds(5);

void Pause(absl::Time begin) {
  if (MonotonicNow() - begin < absl::Microseconds(500)) {
    std::this_thread::yield();
  } else {
    absl::SleepFor(absl::Microseconds(20));
  }
}

}  // namespace

NcclCommunicator::NcclCommunicator(const NcclLibrary& library, std::shared_ptr<NcclGroup> group,
                                   int rank, CudaDevice* device, const NcclOptions& options)
    : library_(library), group_(std::move(group)), rank_(rank), device_(device), options_(options) {
  group_->Join(rank_, this);
  device_->AddWatch(this);
}

absl::StatusOr<std::unique_ptr<Communicator>> NcclCommunicator::Join(
    const NcclLibrary& library, std::shared_ptr<NcclGroup> group, const Member& member,
    const NcclOptions& options) {
  TESSERA_CHECK(member.rank >= 0 && member.rank < group->size());
  std::unique_ptr<NcclCommunicator> made(
      new NcclCommunicator(library, std::move(group), member.rank, member.device, options));
  const absl::Status status = made->Connect(member.store);
  if (!status.ok()) return made->FailGroup(status);
  return made;
}

NcclCommunicator::~NcclCommunicator() {
  device_->RemoveWatch(this);
  group_->Leave(rank_);
  Disconnect();
  peers_.reset();
  cudaSetDevice(device_->index());
  if (counts_event_ != nullptr) cudaEventDestroy(counts_event_);
  if (host_counts_ != nullptr) cudaFreeHost(host_counts_);
}

absl::Status NcclCommunicator::PrepareMemory() {
  const int64_t words = 2 * int64_t{size()};
  ASSIGN_OR_RETURN(scratch_, device_->AllocateUncleared(static_cast<size_t>(options_.scratch_bytes),
                                                        "sums over ranks"));
  ASSIGN_OR_RETURN(barrier_, device_->Allocate(sizeof(int32_t) * static_cast<size_t>(size()),
                                               "a barrier of ranks"));
  void* counts = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaMallocHost(&counts, static_cast<size_t>(words) * sizeof(int32_t)),
                             "locking host memory"));
  host_counts_ = static_cast<int32_t*>(counts);
  return CudaStatus(cudaEventCreateWithFlags(&counts_event_, cudaEventDisableTiming),
                    "creating an event");
}

absl::StatusOr<ncclUniqueId> NcclCommunicator::Invite(RendezvousStore* store,
                                                      const std::string& self) {
  for (int r = 1; r < size(); ++r) {
    std::string other;
    ASSIGN_OR_RETURN(other, group_->Await(*store, absl::StrCat(group_->name(), "/nccl/rank ", r),
                                          options_.connect_timeout));
    if (other == self) continue;
    return absl::FailedPreconditionError(absl::StrCat("rank ", r, " of group ", group_->name(),
                                                      " has ", other, ", but rank 0 has ", self,
                                                      "; all ranks need the same"));
  }
  ncclUniqueId id;
  absl::MutexLock lock(&mutex_);
  const ncclResult_t result = library_.get_unique_id(&id);
  if (result != ncclSuccess) return NcclStatus(result, nullptr);
  return id;
}

absl::StatusOr<ncclUniqueId> NcclCommunicator::Meet(RendezvousStore* store) {
  const std::string self =
      absl::StrCat("NCCL ", NcclVersionName(library_.version), " on ", device_->properties().name);
  const std::string answer_key = absl::StrCat(group_->name(), "/nccl/rank 0");
  if (rank_ == 0) {
    const absl::StatusOr<ncclUniqueId> id = Invite(store, self);
    const std::string answer = id.ok()
                                   ? absl::StrCat(std::string(1, kAccepted),
                                                  std::string(id->internal, sizeof(id->internal)))
                                   : absl::StrCat(std::string(1, kRefused), id.status().message());
    RETURN_IF_ERROR(store->Set(answer_key, answer));
    return id;
  }
  RETURN_IF_ERROR(store->Set(absl::StrCat(group_->name(), "/nccl/rank ", rank_), self));
  std::string answer;
  ASSIGN_OR_RETURN(answer,
                   group_->Await(*store, answer_key, options_.connect_timeout + kAnswerTime));
  ncclUniqueId id;
  if (answer.size() == 1 + sizeof(id.internal) && answer[0] == kAccepted) {
    std::memcpy(id.internal, answer.data() + 1, sizeof(id.internal));
    return id;
  }
  return absl::FailedPreconditionError(answer.empty() ? "rank 0 left no answer" : answer.substr(1));
}

absl::Status NcclCommunicator::Connect(RendezvousStore* store) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device_->index()), "connecting"));
  RETURN_IF_ERROR(PrepareMemory());
  ncclUniqueId id;
  ASSIGN_OR_RETURN(id, Meet(store));
  ncclConfig_t config;
  config.blocking = 0;
  {
    absl::MutexLock lock(&mutex_);
    const ncclResult_t result = library_.comm_init_rank_config(&comm_, size(), id, rank_, &config);
    if (result != ncclSuccess && result != ncclInProgress) return NcclStatus(result, comm_);
  }
  const absl::Status status = AwaitIssued(options_.connect_timeout);
  if (status.ok()) return ConnectPeers(store);
  if (!absl::IsDeadlineExceeded(status)) return status;
  return absl::DeadlineExceededError(absl::StrCat("NCCL did not connect the ", size(),
                                                  " ranks of group ", group_->name(), " within ",
                                                  absl::FormatDuration(options_.connect_timeout)));
}

absl::Status NcclCommunicator::ConnectPeers(RendezvousStore* store) {
  if (options_.peer_bytes == 0 || size() == 1) return absl::OkStatus();
  std::unique_ptr<PeerMemory> peers;
  ASSIGN_OR_RETURN(peers, PeerMemory::Join(*group_, {.rank = rank_,
                                                     .device = device_,
                                                     .store = store,
                                                     .timeout = options_.connect_timeout}));
  absl::MutexLock lock(&mutex_);
  peers_ = std::move(peers);
  return given_up_;
}

absl::Status NcclCommunicator::NcclStatus(ncclResult_t result, ncclComm_t comm) const {
  const std::string message =
      absl::StrCat("NCCL failed on rank ", rank_, " of group ", group_->name(), ": ",
                   library_.get_error_string(result), " (", library_.get_last_error(comm), ")");
  if (result == ncclUnhandledCudaError) {
    cudaSetDevice(device_->index());
    const absl::Status cause = CudaStatus(cudaPeekAtLastError(), "what NCCL does on it");
    if (!cause.ok()) return absl::InternalError(absl::StrCat(message, "; ", cause.message()));
  }
  if (result == ncclRemoteError || result == ncclSystemError) {
    return absl::UnavailableError(message);
  }
  return absl::InternalError(message);
}

absl::Status NcclCommunicator::CudaStatus(cudaError_t error, std::string_view action) const {
  return ToStatus(error, device_->index(), action);
}

absl::StatusOr<bool> NcclCommunicator::IsIssued() {
  absl::MutexLock lock(&mutex_);
  if (comm_ == nullptr) return given_up_;
  ncclResult_t state = ncclSuccess;
  const ncclResult_t result = library_.comm_get_async_error(comm_, &state);
  if (result != ncclSuccess) return NcclStatus(result, comm_);
  if (state != ncclSuccess && state != ncclInProgress) return NcclStatus(state, comm_);
  return state == ncclSuccess;
}

absl::Status NcclCommunicator::AwaitIssued(absl::Duration limit) {
  const absl::Time begin = MonotonicNow();
  while (true) {
    bool issued = false;
    ASSIGN_OR_RETURN(issued, IsIssued());
    if (issued) return absl::OkStatus();
    RETURN_IF_ERROR(group_->status());
    if (MonotonicNow() - begin >= limit) {
      const uint64_t number = calls_ == 0 ? 0 : calls_ - 1;
      return group_->TimeOut(number, "an operation", limit);
    }
    Pause(begin);
  }
}

absl::Status NcclCommunicator::AwaitCounts() {
  const absl::Time begin = MonotonicNow();
  while (true) {
    const cudaError_t error = cudaEventQuery(counts_event_);
    if (error != cudaErrorNotReady) {
      RETURN_IF_ERROR(CudaStatus(error, "exchanging counts"));
      // What a rank that gave up has left in the stream ends, too, without doing anything.
      return Check(true);
    }
    RETURN_IF_ERROR(Check(false));
    Pause(begin);
  }
}

absl::Status NcclCommunicator::Check(bool done) {
  const absl::StatusOr<bool> issued = IsIssued();
  if (!issued.ok()) {
    {
      absl::MutexLock lock(&mutex_);
      if (comm_ == nullptr) return given_up_;
    }
    return FailGroup(issued.status());
  }
  return done ? absl::OkStatus() : CheckProgress();
}

absl::Status NcclCommunicator::CheckProgress() {
  const std::optional<StreamTimes::Current> current = times_.Look();
  if (!current.has_value()) return absl::OkStatus();
  const absl::Status status = group_->CheckPresent(current->operation.number);
  if (!status.ok()) {
    GiveUp(status);
    return status;
  }
  if (current->since < options_.timeout) return absl::OkStatus();
  return FailGroup(
      group_->TimeOut(current->operation.number, current->operation.name, options_.timeout));
}

void NcclCommunicator::GiveUp(const absl::Status& reason) {
  absl::MutexLock lock(&mutex_);
  given_up_.Update(reason);
  if (peers_ != nullptr) peers_->Stop();
  if (comm_ != nullptr) library_.comm_abort(std::exchange(comm_, nullptr));
}

absl::Status NcclCommunicator::FailGroup(const absl::Status& reason) {
  const absl::Status status = group_->Fail(reason);
  GiveUp(status);
  return status;
}

void NcclCommunicator::Abort(const absl::Status& reason) { group_->Abort(reason); }

absl::Status NcclCommunicator::Health() const {
  {
    absl::MutexLock lock(&mutex_);
    if (!given_up_.ok()) return given_up_;
  }
  return group_->status();
}

void NcclCommunicator::Disconnect() {
  bool quiet = !times_.Look().has_value();
  if (quiet) {
    absl::MutexLock lock(&mutex_);
    if (comm_ == nullptr) return;
    const ncclResult_t result = library_.comm_finalize(comm_);
    quiet = result == ncclSuccess || result == ncclInProgress;
  }
  quiet = quiet && AwaitIssued(kQuietTime).ok();
  absl::MutexLock lock(&mutex_);
  if (comm_ == nullptr) return;
  if (quiet) {
    library_.comm_destroy(comm_);
  } else {
    library_.comm_abort(comm_);
  }
  comm_ = nullptr;
}

}  // namespace tessera::cuda
