#include "engine/text/jinja/template.h"

#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/parser.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {

struct Template::Tree {
  Body body;
};

absl::StatusOr<Template> Template::Parse(std::string_view source) {
  ASSIGN_OR_RETURN(Body body, ParseTemplate(source));
  auto tree = std::make_shared<Tree>();
  tree->body = std::move(body);
  return Template(std::move(tree));
}

absl::StatusOr<Text> Template::Render(const Dict& variables, const RenderOptions& options) const {
  Interpreter interpreter(variables, options);
  return interpreter.Run(tree_->body);
}

}  // namespace tessera::jinja
