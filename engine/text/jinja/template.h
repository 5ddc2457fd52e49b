// A parsed Jinja template. The dialect is what chat templates use: Jinja2 with trim_blocks and
// lstrip_blocks, loop controls, no auto-escaping, tojson as json.dumps(ensure_ascii=False), and the
// functions raise_exception and strftime_now. Not there, and refused when the template is parsed:
// inheritance, blocks, includes and imports, `do`, `print`, `trans`, auto-escaping (`safe` and
// `escape` make plain strings), the filters filesizeformat, groupby, pprint, random, striptags,
// urlencode, urlize, wordwrap and xmlattr, and a few methods that no prompt needs. Integers that a
// template computes with have 64 bits.
#ifndef TESSERA_ENGINE_TEXT_JINJA_TEMPLATE_H_
#define TESSERA_ENGINE_TEXT_JINJA_TEMPLATE_H_

#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/text/jinja/budget.h"
#include "engine/text/jinja/text.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

struct RenderOptions {
  Limits limits;
  absl::Time now = absl::Now();  // what strftime_now shows, in local time
};

// Immutable and thread-safe; copies share the tree.
class Template {
 public:
  // INVALID_ARGUMENT "template line N: ..." if the source is no valid template.
  static absl::StatusOr<Template> Parse(std::string_view source);

  // The output with the provenance of every byte: text of the template is trusted, text of the
  // variables keeps its own. INVALID_ARGUMENT or RESOURCE_EXHAUSTED, with the line, otherwise.
  absl::StatusOr<Text> Render(const Dict& variables, const RenderOptions& options = {}) const;

 private:
  struct Tree;
  explicit Template(std::shared_ptr<const Tree> tree) : tree_(std::move(tree)) {}

  std::shared_ptr<const Tree> tree_;
};

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_TEMPLATE_H_
