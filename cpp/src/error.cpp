#include "affekt/error.hpp"

namespace affekt {

// Out of line so that each type has one type_info across shared libraries.
Error::~Error() = default;
InvalidArgument::~InvalidArgument() = default;
ModelFileError::~ModelFileError() = default;
NotStreamable::~NotStreamable() = default;

const char* version() noexcept { return AFFEKT_VERSION; }

}  // namespace affekt
