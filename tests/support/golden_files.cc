#include "tests/support/golden_files.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace tessera {
namespace {

std::string FolderOf(const char* variable, const char* in_the_sources) {
  const char* elsewhere = std::getenv(variable);
  return elsewhere != nullptr ? elsewhere : in_the_sources;
}

std::string ReferenceDir(const std::string& kind) {
  return FolderOf("TESSERA_TEST_DATA", TESSERA_TEST_DATA) + "/reference/" + kind;
}

std::vector<std::string> ModelsIn(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<ModelGolden> GoldensIn(const std::string& directory) {
  std::ifstream file(directory + "/golden.json");
  const auto json = nlohmann::json::parse(file);
  std::vector<ModelGolden> goldens;
  for (const auto& prompt : json.at("prompts")) {
    ModelGolden golden;
    prompt.at("ids").get_to(golden.ids);
    prompt.at("logits_last").get_to(golden.last_logits);
    prompt.at("argmax_all").get_to(golden.argmax);
    prompt.at("nll").get_to(golden.nll);
    prompt.at("greedy").get_to(golden.greedy);
    goldens.push_back(std::move(golden));
  }
  return goldens;
}

}  // namespace

std::vector<std::string> ReferenceModels() { return ModelsIn(ReferenceDir("models")); }

std::string ReferenceModelDir(const std::string& name) {
  return ReferenceDir("models") + "/" + name;
}

std::vector<ModelGolden> LoadModelGoldens(const std::string& name) {
  return GoldensIn(ReferenceModelDir(name));
}

std::vector<std::string> QuantizedModels() { return ModelsIn(ReferenceDir("quantised")); }

std::string QuantizedModelDir(const std::string& name) {
  return ReferenceDir("quantised") + "/" + name;
}

std::vector<ModelGolden> LoadQuantizedGoldens(const std::string& name) {
  return GoldensIn(QuantizedModelDir(name));
}

std::string NanoModelDir() { return FolderOf("TESSERA_NANO_MODEL", TESSERA_NANO_MODEL); }

std::vector<NanoGolden> LoadNanoGoldens() {
  std::ifstream file(NanoModelDir() + "/golden.jsonl");
  std::vector<NanoGolden> goldens;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    NanoGolden golden;
    json.at("prompt_ids").get_to(golden.prompt_ids);
    json.at("greedy").get_to(golden.greedy);
    goldens.push_back(std::move(golden));
  }
  return goldens;
}

}  // namespace tessera
