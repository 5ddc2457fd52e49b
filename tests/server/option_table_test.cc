#include "server/option_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() {
    table_.Flag("json", &json_, "JSON.");
    table_.Flag("enable-thinking", &thinking_, "Think.");
    table_.Integer("max-model-len", &length_, {0, 1000}, "Length.");
    table_.Real("temperature", &temperature_, "Temperature.");
    table_.Text("host", &host_, "Host.");
    table_.List("stop", &stop_, "Stop.");
    table_.Choice("backend", &backend_, {"ref", "cpu"}, "Backend.");
    table_.Type("dtype", &dtype_, "Type.");
    table_.Bytes("kv-cache-memory", &bytes_, {0, int64_t{4} << 30}, "Size.");
    table_.Seconds("step-timeout", &timeout_, 1, "Timeout.");
    table_.Milliseconds("batch-wait-ms", &wait_, "Wait.");
    table_.Positional(&positional_);
  }

  absl::Status Parse(std::vector<std::string> arguments,
                     std::map<std::string, std::string> environment = {}) {
    return table_.Parse(
        {.arguments = std::move(arguments),
         .environment = [environment](const std::string& name) -> std::optional<std::string> {
           const auto found = environment.find(name);
           if (found == environment.end()) return std::nullopt;
           return found->second;
         }});
  }
  std::string Error(std::vector<std::string> arguments) {
    return std::string(Parse(std::move(arguments)).message());
  }
  std::string YamlFile(const std::string& text) {
    const std::string path = absl::StrCat(::testing::TempDir(), "/options.yaml");
    std::ofstream(path) << text;
    return path;
  }

  OptionTable table_{"tessera serve", "MODEL", "Serves."};
  bool json_ = false;
  std::optional<bool> thinking_;
  int32_t length_ = 7;
  std::optional<double> temperature_;
  std::string host_ = "127.0.0.1";
  std::vector<std::string> stop_;
  std::string backend_ = "cpu";
  DType dtype_ = DType::kBF16;
  int64_t bytes_ = 0;
  absl::Duration wait_;
  absl::Duration timeout_;
  std::vector<std::string> positional_;
};

TEST_F(OptionsTest, FlagsOfEveryKind) {
  ASSERT_TRUE(Parse({"model",
                     "--json",
                     "--enable-thinking=false",
                     "--max-model-len",
                     "100",
                     "--temperature=0.5",
                     "--host",
                     "--x",
                     "--stop=a",
                     "--stop",
                     "b",
                     "--backend",
                     "ref",
                     "--dtype",
                     "float32",
                     "--kv-cache-memory",
                     "2GiB",
                     "--batch-wait-ms=50",
                     "--",
                     "--model2"})
                  .ok());
  EXPECT_TRUE(json_);
  EXPECT_EQ(thinking_, false);
  EXPECT_EQ(length_, 100);
  EXPECT_EQ(temperature_, 0.5);
  EXPECT_EQ(host_, "--x");
  EXPECT_THAT(stop_, ElementsAre("a", "b"));
  EXPECT_EQ(backend_, "ref");
  EXPECT_EQ(dtype_, DType::kF32);
  EXPECT_EQ(bytes_, int64_t{2} << 30);
  EXPECT_EQ(wait_, absl::Milliseconds(50));
  EXPECT_THAT(positional_, ElementsAre("model", "--model2"));
}

TEST_F(OptionsTest, NoNegatesAFlag) {
  ASSERT_TRUE(Parse({"--no-enable-thinking"}).ok());
  EXPECT_EQ(thinking_, false);
  EXPECT_THAT(Error({"--no-host"}), HasSubstr("unknown option"));
}

TEST_F(OptionsTest, FlagBeatsEnvironmentBeatsYaml) {
  const std::string path = YamlFile("max_model_len: 1\nhost: yaml\nbackend: ref\nstop: [x, y]\n");
  ASSERT_TRUE(Parse({"--config", path, "--max-model-len=3"},
                    {{"TESSERA_MAX_MODEL_LEN", "2"}, {"TESSERA_HOST", "env"}})
                  .ok());
  EXPECT_EQ(length_, 3);
  EXPECT_EQ(host_, "env");
  EXPECT_EQ(backend_, "ref");
  EXPECT_THAT(stop_, ElementsAre("x", "y"));
  const std::string printed = table_.PrintConfig();
  EXPECT_THAT(printed, HasSubstr("max-model-len: 3  # flag"));
  EXPECT_THAT(printed, HasSubstr("host: \"env\"  # TESSERA_HOST"));
  EXPECT_THAT(printed, HasSubstr(absl::StrCat("backend: ref  # ", path)));
  EXPECT_THAT(printed, HasSubstr("dtype: bfloat16  # default"));
}

TEST_F(OptionsTest, ServiceLinksOfKubernetesAreNoOptions) {
  ASSERT_TRUE(Parse({}, {{"TESSERA_MAX_MODEL_LEN", "tcp://10.0.0.1:50051"}}).ok());
  EXPECT_EQ(length_, 7);
}

TEST_F(OptionsTest, PrintedConfigurationIsAConfiguration) {
  ASSERT_TRUE(Parse({"--host", "a \"b\" \\", "--max-model-len=9"}).ok());
  const std::string path = YamlFile(table_.PrintConfig());
  host_.clear();
  length_ = 0;
  OptionTable again("tessera serve", "", "");
  std::string backend;
  again.Text("host", &host_, "");
  again.Integer("max-model-len", &length_, {0, 1000}, "");
  again.Flag("json", &json_, "");
  again.Choice("backend", &backend, {"ref", "cpu"}, "");
  again.Type("dtype", &dtype_, "");
  again.Bytes("kv-cache-memory", &bytes_, {0, 100}, "");
  again.Seconds("step-timeout", &timeout_, 0, "");
  again.Milliseconds("batch-wait-ms", &wait_, "");
  ASSERT_TRUE(again.Parse({.arguments = {"--config", path}, .environment = nullptr}).ok());
  EXPECT_EQ(host_, "a \"b\" \\");
  EXPECT_EQ(length_, 9);
}

TEST_F(OptionsTest, UnknownNamesComeWithASuggestion) {
  EXPECT_THAT(Error({"--max-model-length", "3"}), HasSubstr("did you mean \"max-model-len\"?"));
  EXPECT_THAT(Error({"--temprature=1"}), HasSubstr("did you mean \"temperature\"?"));
  EXPECT_THAT(Error({"--zzzzzzzzzzzz"}), ::testing::Not(HasSubstr("did you mean")));
  EXPECT_THAT(Error({"--config", YamlFile("bakend: ref")}), HasSubstr("did you mean \"backend\"?"));
}

TEST_F(OptionsTest, BadValuesNameTheOption) {
  EXPECT_THAT(Error({"--max-model-len", "1001"}), HasSubstr("--max-model-len (flag): must be an"));
  EXPECT_THAT(Error({"--max-model-len", "4294967296"}), HasSubstr("[0, 1000]"));
  EXPECT_THAT(Error({"--max-model-len"}), HasSubstr("needs a value"));
  EXPECT_THAT(Error({"--max-model-len="}), HasSubstr("integer"));
  EXPECT_THAT(Error({"--temperature", "nan"}), HasSubstr("must be a number"));
  EXPECT_THAT(Error({"--json=maybe"}), HasSubstr("true or false"));
  EXPECT_THAT(Error({"--backend", "gpu"}), HasSubstr("ref|cpu"));
  EXPECT_THAT(Error({"--dtype", "float16"}), HasSubstr("float32 or bfloat16"));
  EXPECT_THAT(Error({"--kv-cache-memory", "2 cows"}), HasSubstr("2GiB"));
  EXPECT_THAT(Error({"--kv-cache-memory", "5GiB"}),
              HasSubstr("[0, 4294967296] bytes, got \"5GiB\""));
  for (const char* bad : {"0", "-1", "1e7", "nan", "soon"}) {
    EXPECT_THAT(Error({"--step-timeout", bad}), HasSubstr("--step-timeout (flag): must be"));
  }
  EXPECT_THAT(Error({"--step-timeout", "0.0005"}), HasSubstr("[0.001, 1e6], got \"0.0005\""));
  EXPECT_THAT(Error({"--config", "/no/such/file"}), HasSubstr("/no/such/file"));
  EXPECT_THAT(Error({"--config", YamlFile("- a\n- b\n")}), HasSubstr("mapping"));
  EXPECT_THAT(Error({"--config", YamlFile("host: {a: b}")}), HasSubstr("host"));
  EXPECT_THAT(Error({"--config", YamlFile("host: [a, b]")}), HasSubstr("one value"));
  EXPECT_THAT(Error({"--config", YamlFile("host: \"a")}), HasSubstr("YAML"));
}

TEST_F(OptionsTest, HelpShowsEveryOption) {
  ASSERT_TRUE(Parse({"--help"}).ok());
  EXPECT_TRUE(table_.help_requested());
  for (const char* name : {"--json", "--max-model-len N", "--stop TEXT", "--backend ref|cpu"}) {
    EXPECT_THAT(table_.Help(), HasSubstr(name));
  }
  EXPECT_THAT(table_.Help(), HasSubstr("Default 7."));
}

TEST(ParseBytesTest, Units) {
  EXPECT_EQ(*ParseBytes("17"), 17);
  EXPECT_EQ(*ParseBytes("17B"), 17);
  EXPECT_EQ(*ParseBytes("1k"), 1024);
  EXPECT_EQ(*ParseBytes("1KiB"), 1024);
  EXPECT_EQ(*ParseBytes("1KB"), 1000);
  EXPECT_EQ(*ParseBytes("1.5 GiB"), int64_t{3} << 29);
  EXPECT_EQ(*ParseBytes("1TB"), 1'000'000'000'000);
  for (const char* bad : {"", "GiB", "-1", "1PiB", "1GiBs", "99999999TiB", "1..2", "nan"}) {
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace tessera
