#include "parallel/topology.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Qwen3-30B-A3B and Qwen3-0.6B.
ModelShape MoeShape() {
  return {.num_q_heads = 32,
          .num_kv_heads = 4,
          .head_dim = 128,
          .hidden = 2048,
          .intermediate = 0,
          .moe_intermediate = 768,
          .experts = 128,
          .vocab = 151936};
}
ModelShape DenseShape() {
  return {.num_q_heads = 16,
          .num_kv_heads = 8,
          .head_dim = 128,
          .hidden = 1024,
          .intermediate = 3072,
          .vocab = 151936};
}

Topology Make(const LayoutRequest& layout, int rank) {
  absl::StatusOr<Topology> topology = Topology::Create(layout, rank);
  EXPECT_TRUE(topology.ok()) << topology.status();
  return *topology;
}

TEST(TopologyTest, RanksOfATensorParallelGroupAreNeighbours) {
  const Topology rank5 = Make({.tensor_parallel = 4, .data_parallel = 2, .nodes = 4}, 5);
  EXPECT_EQ(rank5.world_size(), 8);
  EXPECT_EQ(rank5.tp_rank(), 1);
  EXPECT_EQ(rank5.dp_rank(), 1);
  EXPECT_EQ(rank5.node(), 2);
  EXPECT_THAT(rank5.TpGroup(), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(rank5.WorldGroup(), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(TopologyTest, EveryRankFindsItselfInItsGroups) {
  for (int tp : {1, 2, 3, 8}) {
    for (int dp : {1, 2, 5}) {
      for (int rank = 0; rank < tp * dp; ++rank) {
        const Topology topology = Make({.tensor_parallel = tp, .data_parallel = dp}, rank);
        EXPECT_EQ(topology.TpGroup()[topology.tp_rank()], rank);
        EXPECT_EQ(topology.WorldGroup()[rank], rank);
      }
    }
  }
}

TEST(TopologyTest, KvHeadsAreReplicatedBeyondTheirNumber) {
  const LayoutRequest layout{.tensor_parallel = 8};
  EXPECT_TRUE(ValidateLayout(layout, MoeShape()).ok());
  for (int rank = 0; rank < 8; ++rank) {
    const Topology topology = Make(layout, rank);
    EXPECT_EQ(topology.QHeads(MoeShape()), (IndexRange{rank * 4, 4}));
    EXPECT_EQ(topology.KvHeads(MoeShape()), (IndexRange{rank / 2, 1}));
  }
  EXPECT_EQ(Make({.tensor_parallel = 2}, 1).KvHeads(MoeShape()), (IndexRange{2, 2}));
}

// Whatever the layout, each rank's query heads read exactly the KV heads it holds.
TEST(TopologyTest, QueryHeadsFindTheirKvHeadOnTheSameRank) {
  for (int tp = 1; tp <= 32; ++tp) {
    const LayoutRequest layout{.tensor_parallel = tp};
    if (!ValidateLayout(layout, MoeShape()).ok()) continue;
    for (int rank = 0; rank < tp; ++rank) {
      const Topology topology = Make(layout, rank);
      const IndexRange q = topology.QHeads(MoeShape());
      const IndexRange kv = topology.KvHeads(MoeShape());
      EXPECT_EQ(q.begin / 8, kv.begin);
      EXPECT_EQ((q.end() - 1) / 8, kv.end() - 1);
    }
  }
}

TEST(TopologyTest, ExpertsAreSpreadWholeOrSplit) {
  const LayoutRequest whole{.tensor_parallel = 2, .data_parallel = 4, .expert_parallel = true};
  EXPECT_TRUE(ValidateLayout(whole, MoeShape()).ok());
  EXPECT_EQ(Make(whole, 3).Experts(MoeShape()), (IndexRange{48, 16}));
  EXPECT_EQ(Make(whole, 3).MoeIntermediate(MoeShape()), (IndexRange{0, 768}));
  const LayoutRequest split{.tensor_parallel = 2, .data_parallel = 4};
  EXPECT_EQ(Make(split, 3).Experts(MoeShape()), (IndexRange{0, 128}));
  EXPECT_EQ(Make(split, 3).MoeIntermediate(MoeShape()), (IndexRange{288, 96}));
}

TEST(TopologyTest, VocabularyShardsCoverEveryTokenOnce) {
  ModelShape shape = DenseShape();
  for (int64_t vocab : {1024, 1021, 9, 8}) {
    shape.vocab = vocab;
    int64_t next = 0;
    for (int rank = 0; rank < 8; ++rank) {
      const Topology topology = Make({.tensor_parallel = 8}, rank);
      EXPECT_EQ(topology.Vocab(shape).begin, next);
      EXPECT_LE(topology.Vocab(shape).count, topology.VocabShardSize(shape));
      next = topology.Vocab(shape).end();
    }
    EXPECT_EQ(next, vocab);
  }
}

TEST(ValidateLayoutTest, NamesTheSizesThatWork) {
  const absl::Status heads = ValidateLayout({.tensor_parallel = 3}, DenseShape());
  EXPECT_EQ(heads.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(heads.message()), HasSubstr("16 query heads"));
  EXPECT_THAT(std::string(heads.message()), HasSubstr(": 1, 2, 4, 8, 16"));

  const absl::Status experts = ValidateLayout(
      {.tensor_parallel = 1, .data_parallel = 3, .expert_parallel = true}, MoeShape());
  EXPECT_THAT(std::string(experts.message()), HasSubstr("128 experts"));
  EXPECT_THAT(std::string(experts.message()),
              HasSubstr("data parallel sizes that work with tensor parallel 1: 1, 2, 4, 8, 16"));

  const absl::Status width =
      ValidateLayout({.tensor_parallel = 32, .data_parallel = 16}, MoeShape());
  EXPECT_THAT(std::string(width.message()), HasSubstr("expert width 768"));

  const absl::Status nodes = ValidateLayout({.tensor_parallel = 4, .nodes = 3}, DenseShape());
  EXPECT_THAT(std::string(nodes.message()), HasSubstr("node counts that work: 1, 2, 4"));

  ModelShape blocks = DenseShape();
  blocks.column_multiple = 128;
  const absl::Status quantised = ValidateLayout({.tensor_parallel = 16}, blocks);
  EXPECT_THAT(std::string(quantised.message()), HasSubstr("multiples of 128"));
  EXPECT_THAT(std::string(quantised.message()), HasSubstr(": 1, 2, 4, 8"));
}

TEST(ValidateLayoutTest, RefusesNonsense) {
  EXPECT_FALSE(ValidateLayout({.tensor_parallel = 0}, DenseShape()).ok());
  EXPECT_FALSE(ValidateLayout({.tensor_parallel = -2}, DenseShape()).ok());
  EXPECT_FALSE(ValidateLayout({.tensor_parallel = 4000, .data_parallel = 4000}, DenseShape()).ok());
  EXPECT_FALSE(ValidateLayout({}, ModelShape{}).ok());
  EXPECT_FALSE(Topology::Create({.tensor_parallel = 2}, 2).ok());
  EXPECT_FALSE(Topology::Create({.tensor_parallel = 2}, -1).ok());
}

}  // namespace
}  // namespace tessera
