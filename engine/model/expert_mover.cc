#include "engine/model/expert_mover.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr int64_t kStates = 4;
constexpr size_t kParts = 2;

// Steps must not wait for the calling thread: it gets what is left of the processor.
void YieldToEverybody() {
  constexpr int kLowestPriority = 19;
  // Of this thread only, although POSIX says process. Without it steps are slower, nothing else.
  static_cast<void>(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kLowestPriority));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ExpertMover>> ExpertMover::Create(const Options& options) {
  std::unique_ptr<ExpertMover> mover(new ExpertMover(options));
  const auto ranks = static_cast<size_t>(options.world->size());
  ASSIGN_OR_RETURN(mover->own_word_, options.device->Allocate(sizeof(int64_t), "expert moves"));
  ASSIGN_OR_RETURN(mover->all_words_,
                   options.device->Allocate(ranks * sizeof(int64_t), "expert moves"));
  mover->host_words_.resize(ranks);
  return mover;
}

absl::Status ExpertMover::Start(int32_t layer, PlacementTable* table, Placement target) {
  TESSERA_CHECK(!moving());
  move_ = Move{.layer = layer,
               .table = table,
               .target = std::move(target),
               .round = {.loads = {}, .after = table->current()}};
  return NextStage();
}

absl::Status ExpertMover::NextStage() {
  ASSIGN_OR_RETURN(std::optional<MoveRound> round,
                   NextRound(move_->table->current(), move_->target));
  if (!round.has_value()) {
    End(&counts_.completed);
    return absl::OkStatus();
  }
  move_->round = *std::move(round);
  move_->own.clear();
  for (const SlotChange& load : move_->round.loads) {
    if (move_->target.RankOf(load.slot) == options_.world->rank()) move_->own.push_back(load);
  }
  move_->next_part = 0;
  move_->state = State::kBusy;
  StartPreparing();
  return absl::OkStatus();
}

void ExpertMover::StartPreparing() {
  move_->prepared = false;
  move_->prepare_deadline = MonotonicNow() + options_.prepare_timeout;
  preparing_ =
      std::async(std::launch::async, [slots = options_.slots, layer = move_->layer,
                                      loads = move_->own, previous = std::move(preparing_)] {
        YieldToEverybody();
        if (previous.valid()) previous.wait();
        slots->Discard();
        for (const SlotChange& load : loads) {
          RETURN_IF_ERROR(slots->Prepare(layer, load.expert));
        }
        return absl::OkStatus();
      });
}

int64_t ExpertMover::Word() const {
  // Layer and version of the table tell apart what ranks may be at.
  constexpr int64_t kManyLayers = 1 << 20;
  return (move_->table->version() * kManyLayers + move_->layer) * kStates;
}

void ExpertMover::EndStep() {
  if (!moving()) return;
  const int64_t word = Word() + static_cast<int64_t>(move_->state);
  const auto ranks = static_cast<int64_t>(host_words_.size());
  options_.device->Upload(own_word_.data(), &word, sizeof(word));
  options_.world->AllGather(own_word_.View(DType::kI64, {1}),
                            all_words_.View(DType::kI64, {ranks}));
  options_.device->Download(host_words_.data(), all_words_.data(), all_words_.bytes());
  asked_ = true;
}

absl::Status ExpertMover::Advance() {
  if (std::exchange(asked_, false)) RETURN_IF_ERROR(Settle());
  if (!moving() || move_->state != State::kBusy) return absl::OkStatus();
  CheckPrepared();
  if (move_->prepared) LoadNextPart();
  return absl::OkStatus();
}

absl::Status ExpertMover::Settle() {
  State worst = State::kReady;
  bool all_ready = true;
  for (size_t rank = 0; rank < host_words_.size(); ++rank) {
    const int64_t state = host_words_[rank] - Word();
    if (state < 0 || state >= kStates) {
      return absl::InternalError(
          absl::StrCat("rank ", rank, " moves other experts than rank ", options_.world->rank()));
    }
    all_ready = all_ready && static_cast<State>(state) == State::kReady;
    worst = std::max(worst, static_cast<State>(state));
  }
  if (worst == State::kFailed) {
    End(&counts_.failed);
  } else if (worst == State::kTimedOut) {
    End(&counts_.timed_out);
  } else if (all_ready) {
    RETURN_IF_ERROR(move_->table->Stage(move_->round.after));
    RETURN_IF_ERROR(move_->table->Flip());
    ++counts_.flips;
    return NextStage();
  }
  return absl::OkStatus();
}

void ExpertMover::CheckPrepared() {
  if (move_->prepared) return;
  if (preparing_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
    move_->prepared = true;
    if (!preparing_.get().ok()) move_->state = State::kFailed;
  } else if (MonotonicNow() > move_->prepare_deadline) {
    move_->state = State::kTimedOut;
  }
}

void ExpertMover::LoadNextPart() {
  if (move_->state != State::kBusy) return;
  if (move_->next_part < kParts * move_->own.size()) {
    const SlotChange& load = move_->own[move_->next_part / kParts];
    const absl::StatusOr<int64_t> bytes =
        options_.slots->Load({.layer = move_->layer,
                              .expert = load.expert,
                              .local_slot = load.slot % move_->target.shape().slots_per_rank,
                              .part = static_cast<ExpertPart>(move_->next_part % kParts)});
    ++move_->next_part;
    if (!bytes.ok()) {
      move_->state = State::kFailed;
      return;
    }
    moved_bytes_ += *bytes;
  }
  if (move_->next_part == kParts * move_->own.size()) move_->state = State::kReady;
}

void ExpertMover::End(int64_t* counter) {
  ++*counter;
  move_.reset();
}

}  // namespace tessera
