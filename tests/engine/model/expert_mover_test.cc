// Moves that go wrong: one rank's trouble ends the move on all of them, and nothing else.
#include "engine/model/expert_mover.h"

#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/parallel/transport.h"

namespace tessera {
namespace {

constexpr int kRanks = 3;
constexpr PlacementShape kShape{.num_experts = 6, .num_ranks = kRanks, .slots_per_rank = 3};
const std::vector<int32_t> kTarget = {1, 0, -1, 3, 5, -1, 4, 2, -1};

class FakeSlots : public ExpertLoader {
 public:
  absl::Status Prepare(int32_t, int32_t) override {
    if (gate != nullptr) gate->WaitForNotification();
    return prepare_status;
  }
  absl::StatusOr<int64_t> Load(const PartPlace& place) override {
    loads.push_back(place);
    if (!load_status.ok()) return load_status;
    return 100;
  }
  void Discard() override {}

  absl::Notification* gate = nullptr;
  absl::Status prepare_status;
  absl::Status load_status;
  std::vector<PartPlace> loads;
};

struct Rank {
  Communicator& world;
  Device& device;
  FakeSlots slots;
  PlacementTable table;
  std::unique_ptr<ExpertMover> mover;

  Rank(Communicator& communicator, Device& its_device, absl::Duration timeout)
      : world(communicator),
        device(its_device),
        table(*PlacementTable::Create(&its_device, *Placement::Even(kShape))) {
    mover = *ExpertMover::Create(
        {.device = &device, .world = &world, .slots = &slots, .prepare_timeout = timeout});
  }

  // Steps until the move has ended, or an error.
  absl::Status Move(int32_t layer = 4) {
    RETURN_IF_ERROR(mover->Start(layer, &table, *Placement::Create(kShape, kTarget)));
    while (mover->moving()) {
      const size_t before = slots.loads.size();
      mover->EndStep();
      RETURN_IF_ERROR(device.Synchronize());
      RETURN_IF_ERROR(mover->Advance());
      EXPECT_LE(slots.loads.size(), before + 1) << "more than one matrix between two steps";
    }
    return absl::OkStatus();
  }
};

void OnRanks(const RankBody& body) { RunInproc(kRanks, {}, TestDevice::Queue::kThread, body); }

TEST(ExpertMoverTest, LoadsBothPartsOfEveryExpertIntoSpareSlots) {
  OnRanks([](Communicator& world, Device& device) {
    Rank rank(world, device, absl::InfiniteDuration());
    ASSERT_TRUE(rank.Move().ok());
    EXPECT_TRUE(SameExperts(rank.table.current(), *Placement::Create(kShape, kTarget)));
    EXPECT_EQ(rank.mover->counts().completed, 1);
    EXPECT_EQ(rank.mover->counts().flips, rank.table.version());
    EXPECT_EQ(rank.mover->moved_bytes(), 100 * static_cast<int64_t>(rank.slots.loads.size()));
    ASSERT_EQ(rank.slots.loads.size() % 2, 0U);
    for (size_t i = 0; i < rank.slots.loads.size(); i += 2) {
      EXPECT_EQ(rank.slots.loads[i].layer, 4);
      EXPECT_EQ(rank.slots.loads[i].part, ExpertPart::kGateUp);
      EXPECT_EQ(rank.slots.loads[i + 1].part, ExpertPart::kDown);
      EXPECT_EQ(rank.slots.loads[i + 1].expert, rank.slots.loads[i].expert);
      EXPECT_EQ(rank.slots.loads[i + 1].local_slot, rank.slots.loads[i].local_slot);
    }
    // There already: a move without rounds.
    ASSERT_TRUE(rank.Move().ok());
    EXPECT_EQ(rank.mover->counts().completed, 2);
  });
}

TEST(ExpertMoverTest, AStuckReadEndsTheMoveAndTheNextOneWaitsForIt) {
  absl::Notification gate;
  OnRanks([&gate](Communicator& world, Device& device) {
    Rank rank(world, device, absl::Milliseconds(1));
    if (world.rank() == 1) rank.slots.gate = &gate;
    ASSERT_TRUE(rank.Move().ok());
    EXPECT_EQ(rank.mover->counts().timed_out, 1);
    EXPECT_EQ(rank.table.version(), 0) << "the placement in use must stay";
    ASSERT_TRUE(rank.Move().ok());
    EXPECT_EQ(rank.mover->counts().timed_out, 2);
    world.Barrier();
    ASSERT_TRUE(device.Synchronize().ok());
    if (world.rank() == 1) gate.Notify();
    while (rank.mover->counts().completed == 0) ASSERT_TRUE(rank.Move().ok());
    EXPECT_TRUE(SameExperts(rank.table.current(), *Placement::Create(kShape, kTarget)));
    EXPECT_EQ(rank.mover->counts().failed, 0);
  });
}

TEST(ExpertMoverTest, AFailureOnOneRankEndsTheMoveOnAll) {
  OnRanks([](Communicator& world, Device& device) {
    Rank rank(world, device, absl::InfiniteDuration());
    if (world.rank() == 2) rank.slots.load_status = absl::ResourceExhaustedError("no memory");
    ASSERT_TRUE(rank.Move().ok());
    EXPECT_EQ(rank.mover->counts().failed, 1);
    EXPECT_EQ(rank.table.version(), 0);
    rank.slots.load_status = absl::OkStatus();
    if (world.rank() == 1) rank.slots.prepare_status = absl::DataLossError("the file shrank");
    ASSERT_TRUE(rank.Move().ok());
    EXPECT_EQ(rank.mover->counts().failed, 2);
    rank.slots.prepare_status = absl::OkStatus();
    ASSERT_TRUE(rank.Move().ok());
    EXPECT_EQ(rank.mover->counts().completed, 1);
  });
}

TEST(ExpertMoverTest, RanksThatDisagreeAreFoundOut) {
  OnRanks([](Communicator& world, Device& device) {
    Rank rank(world, device, absl::InfiniteDuration());
    const absl::Status status = rank.Move(world.rank() == 1 ? 5 : 4);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("moves other experts"));
  });
}

}  // namespace
}  // namespace tessera
