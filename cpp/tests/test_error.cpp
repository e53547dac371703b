// The exceptions cross the library boundary with their type and message.
#include <cstring>
#include <stdexcept>

#include "affekt/error.hpp"
#include "check.hpp"

int main() {
  CHECK(std::strlen(affekt::version()) >= 5);
  CHECK_THROWS(throw affekt::InvalidArgument("n_fft must be positive, got 0"), affekt::Error, "n_fft");
  CHECK_THROWS(throw affekt::ModelFileError("schema"), std::runtime_error, "schema");
  CHECK_THROWS(throw affekt::NotStreamable("top_db needs the whole clip"), std::exception, "top_db");
  return affekt::test::result();
}
