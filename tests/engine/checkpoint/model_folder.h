// Small checkpoint files for tests, well-formed or broken on purpose.
#ifndef TESSERA_TESTS_ENGINE_CHECKPOINT_MODEL_FOLDER_H_
#define TESSERA_TESTS_ENGINE_CHECKPOINT_MODEL_FOLDER_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

// Prefix, header and data as one file's content.
std::string SafetensorsBytes(std::string_view header, size_t data_bytes);

// A folder of its own, removed at the end.
class ModelFolder {
 public:
  ModelFolder();
  ~ModelFolder();
  ModelFolder(const ModelFolder&) = delete;
  ModelFolder& operator=(const ModelFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string Path(std::string_view name) const;
  void Write(std::string_view name, std::string_view content) const;

 private:
  std::string path_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_CHECKPOINT_MODEL_FOLDER_H_
