// A safetensors file as a map that tests change.
#ifndef TESSERA_TESTS_ENGINE_QUANTIZATION_STORED_TENSORS_H_
#define TESSERA_TESTS_ENGINE_QUANTIZATION_STORED_TENSORS_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tessera {

struct TensorBytes {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;

  template <typename T>
  T Get(size_t index) const {
    T value;
    std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
    return value;
  }
  template <typename T>
  void Set(size_t index, T value) {
    std::memcpy(bytes.data() + index * sizeof(T), &value, sizeof(T));
  }
};

template <typename T>
TensorBytes MakeTensor(const std::string& dtype, const std::vector<int64_t>& shape,
                       const std::vector<T>& values) {
  TensorBytes tensor{dtype, shape, std::string(values.size() * sizeof(T), '\0')};
  std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

using StoredTensors = std::map<std::string, TensorBytes>;

inline StoredTensors ReadTensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  uint64_t header = 0;
  std::memcpy(&header, all.data(), sizeof(header));
  StoredTensors tensors;
  const auto json = nlohmann::json::parse(all.substr(8, header));
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    const auto begin = entry.at("data_offsets")[0].get<size_t>();
    const auto end = entry.at("data_offsets")[1].get<size_t>();
    tensors[name] = {entry.at("dtype"), entry.at("shape"),
                     all.substr(8 + header + begin, end - begin)};
  }
  return tensors;
}

inline std::string FileOf(const StoredTensors& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  std::string file(sizeof(size), '\0');
  std::memcpy(file.data(), &size, sizeof(size));
  return file + text + data;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_QUANTIZATION_STORED_TENSORS_H_
