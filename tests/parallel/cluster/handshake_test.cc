#include "parallel/cluster/handshake.h"

#include <cstdio>
#include <fstream>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "parallel/cluster/cluster_key.h"
#include "parallel/cluster/node_address.h"
#include "parallel/cluster/store_table.h"

namespace tessera {
namespace {

using testing::HasSubstr;

constexpr char kKey[] = "0123456789abcdef0123456789abcdef";
constexpr GroupSize kSize{.num_nodes = 3, .world_size = 6};

ModelIdentity Model() {
  return {.software_version = "1.2.3", .config_hash = "config", .model_hash = "model"};
}

HeadHandshake Head() { return {kKey, Model(), kSize}; }

// The head's verdict over a node with this key and model.
absl::StatusOr<int32_t> Admit(const std::string& key, const ModelIdentity& model, int32_t index) {
  HeadHandshake head = Head();
  NodeHandshake node(key, model, "worker-7", index);
  const absl::StatusOr<std::string> challenge = head.OnHello(node.Hello());
  if (!challenge.ok()) return challenge.status();
  const absl::StatusOr<std::string> join = node.OnChallenge(*challenge);
  if (!join.ok()) return join.status();
  return head.OnJoin(*join);
}

TEST(Handshake, TheRightNodeGetsIn) {
  HeadHandshake head = Head();
  NodeHandshake node(kKey, Model(), "worker-7", 2);
  const auto challenge = head.OnHello(node.Hello());
  ASSERT_TRUE(challenge.ok()) << challenge.status();
  const auto join = node.OnChallenge(*challenge);
  ASSERT_TRUE(join.ok()) << join.status();
  const auto index = head.OnJoin(*join);
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(*index, 2);
  EXPECT_EQ(head.node_name(), "worker-7");
  EXPECT_EQ(node.size().world_size, 6);
  EXPECT_EQ(head.keys().head_to_node, node.keys().head_to_node);
  EXPECT_EQ(head.keys().node_to_head, node.keys().node_to_head);
  EXPECT_NE(head.keys().head_to_node, head.keys().node_to_head);
}

TEST(Handshake, AWrongKeyIsRefusedOnBothSides) {
  EXPECT_EQ(Admit("another key of enough bytes", Model(), -1).status().code(),
            absl::StatusCode::kPermissionDenied);
  // A node that does not check the head still cannot make the proof: forge one with another key.
  HeadHandshake head = Head();
  HeadHandshake impostor("another key of enough bytes", Model(), kSize);
  NodeHandshake node("another key of enough bytes", Model(), "spy", -1);
  ASSERT_TRUE(head.OnHello(node.Hello()).ok());
  const auto forged = node.OnChallenge(*impostor.OnHello(node.Hello()));
  ASSERT_TRUE(forged.ok());
  EXPECT_EQ(head.OnJoin(*forged).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(Handshake, AReplayedJoinProvesNothing) {
  HeadHandshake first = Head();
  NodeHandshake node(kKey, Model(), "worker-7", -1);
  const std::string hello = node.Hello();
  const std::string join = *node.OnChallenge(*first.OnHello(hello));
  ASSERT_TRUE(first.OnJoin(join).ok());
  HeadHandshake second = Head();
  ASSERT_TRUE(second.OnHello(hello).ok());
  EXPECT_EQ(second.OnJoin(join).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(Handshake, AReplayedChallengeProvesNothing) {
  HeadHandshake head = Head();
  NodeHandshake first(kKey, Model(), "worker-7", -1);
  NodeHandshake second(kKey, Model(), "worker-7", -1);
  const std::string challenge = *head.OnHello(first.Hello());
  EXPECT_EQ(second.OnChallenge(challenge).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(Handshake, DifferencesAreNamed) {
  ModelIdentity model = Model();
  model.software_version = "1.2.4";
  EXPECT_THAT(Admit(kKey, model, -1).status().message(),
              HasSubstr("version 1.2.4 differs from the head's 1.2.3"));
  model = Model();
  model.config_hash = "cOnfig";
  EXPECT_THAT(Admit(kKey, model, -1).status().message(), HasSubstr("config hash 634f6e666967"));
  model = Model();
  model.model_hash = "";
  EXPECT_THAT(Admit(kKey, model, -1).status().message(), HasSubstr("model hash"));
}

TEST(Handshake, MutilatedMessagesAreRefused) {
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    HeadHandshake head = Head();
    NodeHandshake node(kKey, Model(), "worker-7", -1);
    std::string hello = node.Hello();
    const std::string challenge = *head.OnHello(hello);
    std::string join = *node.OnChallenge(challenge);
    const size_t at = random() % join.size();
    if (i % 2 == 0) {
      join.resize(at);
    } else {
      join[at] = static_cast<char>(join[at] ^ (1 + random() % 255));
    }
    EXPECT_FALSE(head.OnJoin(join).ok()) << i;
    hello.resize(random() % hello.size());
    EXPECT_FALSE(Head().OnHello(hello).ok()) << i;
  }
}

TEST(Handshake, NamesOfStrangersArePrintable) {
  HeadHandshake head = Head();
  NodeHandshake node(kKey, Model(), "evil\n\x1b[2J" + std::string(5000, 'x'), -1);
  ASSERT_TRUE(head.OnHello(node.Hello()).ok());
  EXPECT_THAT(head.node_name(), HasSubstr("evil\\n\\x1b"));
  EXPECT_LT(head.node_name().size(), 600U);
}

TEST(ClusterKey, FilesAreTrimmedAndShortKeysRefused) {
  const std::string path = testing::TempDir() + "/cluster.key";
  std::ofstream(path) << "  0123456789abcdef\n";
  EXPECT_EQ(*ReadClusterKey(path), "0123456789abcdef");
  std::ofstream(path) << "short\n";
  EXPECT_THAT(ReadClusterKey(path).status().message(), HasSubstr("has 5 bytes"));
  EXPECT_EQ(std::remove(path.c_str()), 0);
  EXPECT_THAT(ReadClusterKey(path).status().message(), HasSubstr("cannot read"));
}

TEST(ClusterKey, MacsDependOnKeyAndPartition) {
  EXPECT_EQ(Mac("k", {"a", "b"}), Mac("k", {"a", "b"}));
  EXPECT_NE(Mac("k", {"a", "b"}), Mac("k", {"ab", ""}));
  EXPECT_NE(Mac("k", {"a", "b"}), Mac("l", {"a", "b"}));
  EXPECT_EQ(Mac("k", {"a"}).size(), 32U);
  EXPECT_TRUE(SameBytes("abc", "abc"));
  EXPECT_FALSE(SameBytes("abc", "abd"));
  EXPECT_FALSE(SameBytes("abc", "ab"));
}

TEST(NodeAddress, OnlyNamedInterfaces) {
  EXPECT_EQ(*ResolveBindHost("lo"), "127.0.0.1");
  EXPECT_EQ(*ResolveBindHost("127.0.0.1"), "127.0.0.1");
  EXPECT_EQ(ResolveBindHost("0.0.0.0").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ResolveBindHost("::").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ResolveBindHost("no-such-interface.invalid").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(*LocalAddressTowards({.host = "127.0.0.1", .port = 80}), "127.0.0.1");
  EXPECT_EQ(ParseHostPort("[::1]:50")->host, "::1");
  EXPECT_EQ(ParseHostPort("[::1]:50")->ToString(), "[::1]:50");
  EXPECT_EQ(ParseHostPort("a:0")->port, 0);
  for (const char* bad : {"", "a", "a:", ":5", "a:-1", "a:65536", "a:5x", "[::1:5"}) {
    EXPECT_FALSE(ParseHostPort(bad).ok()) << bad;
  }
}

TEST(StoreTable, ValuesReachThoseWhoWait) {
  StoreTable table;
  std::string seen;
  table.Await("a", [&](const absl::StatusOr<std::string>& value) { seen = *value; });
  EXPECT_EQ(seen, "");
  EXPECT_TRUE(table.Set("a", "1").ok());
  EXPECT_EQ(seen, "1");
  EXPECT_EQ(*table.Get("a", absl::ZeroDuration()), "1");
  EXPECT_TRUE(table.Set("a", "1").ok());
  EXPECT_EQ(table.Set("a", "2").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(table.Get("b", absl::ZeroDuration()).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(StoreTable, LimitsAndFailure) {
  StoreTable table;
  EXPECT_FALSE(table.Set("", "x").ok());
  EXPECT_FALSE(table.Set(std::string(StoreTable::kMaxKeyBytes + 1, 'k'), "x").ok());
  EXPECT_FALSE(table.Set("k", std::string(StoreTable::kMaxValueBytes + 1, 'v')).ok());
  absl::Status seen;
  table.Await("a", [&](const absl::StatusOr<std::string>& value) { seen = value.status(); });
  table.Fail(absl::UnavailableError("node 1 is gone"));
  EXPECT_THAT(seen.message(), HasSubstr("node 1"));
  EXPECT_THAT(table.Get("a", absl::InfiniteDuration()).status().message(), HasSubstr("node 1"));
  EXPECT_FALSE(table.Set("a", "1").ok());
}

}  // namespace
}  // namespace tessera
