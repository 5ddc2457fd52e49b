// Moves experts of one layer at a time to other ranks while the model keeps serving.
#ifndef TESSERA_ENGINE_MODEL_EXPERT_MOVER_H_
#define TESSERA_ENGINE_MODEL_EXPERT_MOVER_H_

#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/model/expert_loader.h"
#include "engine/model/expert_loads.h"
#include "kernels/core/device.h"
#include "parallel/communicator.h"
#include "parallel/experts/move_rounds.h"
#include "parallel/experts/placement.h"

namespace tessera {

// A move runs in rounds (parallel/experts/move_rounds.h). In each round a thread of every rank
// reads and packs what its spare slots take, behind everything else that runs (see quiet_work.h);
// the rank puts at most one matrix into place between two steps. Each step carries a word of every
// rank: when all are ready, all switch to the round's placement before the next step. When one has
// failed or its disk takes too long, all give the move up where it is: the placement in use stays
// valid.
//
// All ranks start the same moves between the same steps. Used by the rank's thread.
class ExpertMover {
 public:
  struct Options {
    Device* device = nullptr;
    Communicator* world = nullptr;
    ExpertLoader* slots = nullptr;
    // How long preparing the experts of a round may take.
    absl::Duration prepare_timeout = absl::Seconds(60);
  };
  // What the options point to must outlive it.
  static absl::StatusOr<std::unique_ptr<ExpertMover>> Create(const Options& options);
  // Waits for reads under way.
  ~ExpertMover() = default;

  bool moving() const { return move_.has_value(); }
  // Between steps, when nothing is moving. `layer`: of the model, for the slots; the table is that
  // layer's and must outlive the move.
  absl::Status Start(int32_t layer, PlacementTable* table, Placement target);
  // Once per step, behind the layers, on all ranks.
  void EndStep();
  // Between steps, when the device has been synchronized: switches placements that are ready, and
  // loads at most one matrix. An error is the end of the rank: ranks disagree.
  absl::Status Advance();

  const ExpertMoves& counts() const { return counts_; }
  // Bytes of all matrices loaded so far on this rank.
  int64_t moved_bytes() const { return moved_bytes_; }

 private:
  enum class State : int64_t { kBusy, kReady, kFailed, kTimedOut };
  struct Move {
    int32_t layer = 0;
    PlacementTable* table = nullptr;
    Placement target;
    MoveRound round;
    std::vector<SlotChange> own;  // loads of this rank
    size_t next_part = 0;         // two per load
    bool prepared = false;
    absl::Time prepare_deadline;
    State state = State::kBusy;
  };

  explicit ExpertMover(const Options& options) : options_(options) {}
  // The next round of the move, or its end.
  absl::Status NextStage();
  void StartPreparing();
  // What the ranks said in the last step.
  absl::Status Settle();
  void CheckPrepared();
  void LoadNextPart();
  void End(int64_t* counter);
  // The ranks' words agree in everything but the state.
  int64_t Word() const;

  const Options options_;
  DeviceBuffer own_word_;            // [1] i64
  DeviceBuffer all_words_;           // [ranks] i64
  std::vector<int64_t> host_words_;  // of the last step
  bool asked_ = false;               // the last step carried words
  std::optional<Move> move_;
  std::future<absl::Status> preparing_;  // the last one; a stuck one holds up its successors
  ExpertMoves counts_;
  int64_t moved_bytes_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_EXPERT_MOVER_H_
